"""The envelope of every message, and how frames are found again in a stream of bytes.

    COBS( version and flags 1 | session 4 | counter 4 | CBOR array | CRC-32 4 | tag 8 if keyed ) 00

All numbers are big-endian. The CRC-32 is that of zlib over everything before it.

Consistent Overhead Byte Stuffing makes a frame without zero bytes, so that 0x00 may end it. After
S. Cheshire and M. Baker, "Consistent Overhead Byte Stuffing", IEEE/ACM Transactions on Networking
7(2), 1999. A full run of 254 bytes at the very end gets no further code byte.
"""

from binascii import crc32

from gapless_link import const
from gapless_link.errors import FrameFault

FLAG_KEYED = const(0x01)
FLAG_TOWARDS_BOARD = const(0x02)
HEADER_BYTES = const(9)

_ENVELOPE_VERSION = const(0x10)
_VERSION_AND_RESERVED = const(0xFC)
_CRC_BYTES = const(4)
_TAG_BYTES = const(8)

# A longer piece is copied by a slice, a shorter one byte by byte: on a board a slice is an object,
# on CPython a loop is slow. Most pieces that a board gets are ACKs, which are short.
_SLICE_BYTES_MIN = const(64)
_SLICE_RUN_MIN = const(16)


class FrameEncoder:
    """Builds one frame after another in the same buffer.

    ``begin`` returns where the CBOR goes in ``buffer``; it must end at or before ``limit``;
    ``finish`` returns the finished frame as a memoryview, valid until the next ``begin``.
    """

    def __init__(self, bytes_max, flags):
        self.buffer = bytearray(bytes_max)
        # Beside the CBOR: the 0x00, a code byte before and after every 254 bytes, and the CRC.
        self.limit = bytes_max - (bytes_max + 253) // 255 - _CRC_BYTES
        self._view = memoryview(self.buffer)
        self._flags = _ENVELOPE_VERSION | flags
        # The slices of the last frame: most frames of a board are as long as the one before, and
        # each slice that is not made is no garbage.
        self._checked = self._frame = self._view[:0]

    def begin(self, session, counter):
        """Write the header. session: bytes of 4. counter: int below 2**30."""
        buffer = self.buffer
        buffer[1] = self._flags
        for i in range(4):
            buffer[2 + i] = session[i]
            buffer[6 + i] = (counter >> (24 - 8 * i)) & 0xFF
        return 1 + HEADER_BYTES

    def finish(self, at):
        """Close the frame whose CBOR ends at ``at``."""
        if at > self.limit:
            raise IndexError
        # The one place where a frame makes an int of 2**30 or more: once per frame, not kept.
        if len(self._checked) != at - 1:
            self._checked = self._view[1:at]
        crc = crc32(self._checked)
        buffer = self.buffer
        for shift in (24, 16, 8, 0):
            buffer[at] = (crc >> shift) & 0xFF
            at += 1
        end = encode_in_place(buffer, at)
        if len(self._frame) != end:
            self._frame = self._view[:end]
        return self._frame


class Framer:
    """Finds frames in a stream of bytes, and checks them up to the CRC.

    ``feed`` stores, ``next_frame`` parses: True says that the attributes ``flags``, ``counter``,
    ``body`` and ``cbor_end`` describe a sound frame (its session is ``body[1:5]``, its CBOR
    ``body[HEADER_BYTES:cbor_end]``), False that more bytes are needed; a frame that is not sound
    raises FrameFault, and the next call goes on behind it. Memory: one buffer of ``bytes_max``,
    whatever comes in; the next call writes over it.
    """

    def __init__(self, bytes_max, flags_wanted):
        self.body = bytearray(bytes_max)
        self.flags = 0
        self.counter = 0
        self.cbor_end = 0
        self._view = memoryview(self.body)
        # Bytes of the frame that is arriving, still encoded.
        self._used = 0
        self._dropping = False
        self._input = b""
        self._at = 0
        self._flags_wanted = flags_wanted

    def feed(self, data):
        """Store bytes. They are read, not copied, until next_frame has returned False."""
        if self._at < len(self._input):
            data = bytes(self._input[self._at :]) + bytes(data)
        self._input = data
        self._at = 0

    def reset(self):
        """Forget everything stored."""
        self._input = b""
        self._at = self._used = 0
        self._dropping = False

    def session_is(self, session):
        """Whether the frame carries this session (bytes of 4)."""
        body = self.body
        return (
            body[1] == session[0]
            and body[2] == session[1]
            and body[3] == session[2]
            and body[4] == session[3]
        )

    def next_frame(self):
        """Look for the next frame. See the class."""
        while self._take(self._input):
            length = self._used
            self._used = 0
            if self._dropping:
                self._dropping = False
                raise FrameFault("too_long")
            if length:
                self._check(decode_in_place(self.body, length))
                return True
        self._input = b""
        self._at = 0
        return False

    def _take(self, data):
        """Take what stands before the next 0x00, or all there is; return whether there was one."""
        at = self._at
        if isinstance(data, memoryview):
            end = at
            while end < len(data) and data[end]:
                end += 1
        else:
            end = data.find(b"\0", at)
            if end < 0:
                end = len(data)
        self._at = end + 1
        used = self._used
        total = used + end - at
        body = self.body
        # One byte of the longest frame is the 0x00, which is not kept.
        if self._dropping or total >= len(body):
            self._dropping = True
            total = 0
        elif end - at > _SLICE_BYTES_MIN:
            body[used:total] = memoryview(data)[at:end]
        else:
            while at < end:
                body[used] = data[at]
                used += 1
                at += 1
        self._used = total
        return end < len(data)

    def _check(self, length):
        if length < 0:
            raise FrameFault("cobs")
        body = self.body
        flags = body[0]
        end = length - _CRC_BYTES - (_TAG_BYTES if flags & FLAG_KEYED else 0)
        if end <= HEADER_BYTES:
            raise FrameFault("too_short")
        crc = crc32(self._view[:end])
        for i in range(_CRC_BYTES):
            if body[end + i] != (crc >> (24 - 8 * i)) & 0xFF:
                raise FrameFault("crc")
        if flags & _VERSION_AND_RESERVED != _ENVELOPE_VERSION:
            raise FrameFault("version")
        if (flags ^ self._flags_wanted) & FLAG_TOWARDS_BOARD:
            raise FrameFault("direction")
        # Numbers of the link stay below 2**30: a small int on a 32-bit MicroPython.
        if body[5] > 0x3F:
            raise FrameFault("counter", "too large")
        self.flags = flags
        self.counter = body[5] << 24 | body[6] << 16 | body[7] << 8 | body[8]
        self.cbor_end = end


def encode_in_place(buffer, end):
    """Encode ``buffer[1:end]``; return where the frame, which begins at 0 and ends in 0x00, ends.

    ``buffer`` is a bytearray with room for a code byte after every 254 bytes, and for the 0x00.
    """
    code_at = 0
    at = 1
    while at < end:
        if at - code_at == 255:
            # The run is full: make room for the code byte of the next one.
            buffer[at + 1 : end + 1] = buffer[at:end]
            end += 1
            buffer[code_at] = 255
            code_at = at
        elif not buffer[at]:
            buffer[code_at] = at - code_at
            code_at = at
        at += 1
    buffer[code_at] = end - code_at
    buffer[end] = 0
    return end + 1


def decode_in_place(buffer, length):
    """Decode ``buffer[:length]``, in which no byte is zero; return how many bytes came out.

    ``buffer`` is a bytearray. -1: these bytes are no COBS.
    """
    at = 0
    out = 0
    while at < length:
        code = buffer[at]
        end = at + code
        if not code or end > length:
            return -1
        at += 1
        if code > _SLICE_RUN_MIN:
            # A copy: the two places overlap.
            buffer[out : out + code - 1] = buffer[at:end]
            out += code - 1
            at = end
        else:
            while at < end:
                buffer[out] = buffer[at]
                out += 1
                at += 1
        if code < 255 and at < length:
            buffer[out] = 0
            out += 1
    return out
