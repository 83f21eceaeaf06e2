"""The envelope of every message, and how frames are found again in a stream of bytes.

    COBS( version and flags 1 | session 4 | counter 4 | CBOR array | CRC-32 4 | tag 8 if keyed ) 00

All numbers are big-endian. The CRC-32 is that of zlib over everything before it.
"""

from binascii import crc32

from gapless_link.cobs import decode_into, decoded_bytes_max, encode_in_place
from gapless_link.errors import FrameFault
from gapless_link.messages import COUNTER_MAX

ENVELOPE_VERSION = 0x10
FLAG_KEYED = 0x01
FLAG_TOWARDS_BOARD = 0x02
_VERSION_AND_RESERVED = 0xFC

HEADER_BYTES = 9
CRC_BYTES = 4
TAG_BYTES = 8

NO_SESSION = b"\0\0\0\0"

# A longer piece is copied by a slice, a shorter one byte by byte, without garbage: an ACK is short.
_SLICE_BYTES_MIN = 64


class FrameEncoder:
    """Builds one frame after another in the same buffer.

    ``begin`` returns where the CBOR goes in ``buffer``; it must end at or before ``limit``;
    ``finish`` returns the finished frame as a memoryview, valid until the next ``begin``.
    """

    def __init__(self, bytes_max, flags):
        self.buffer = bytearray(bytes_max)
        self.limit = 1 + decoded_bytes_max(bytes_max) - CRC_BYTES
        self._view = memoryview(self.buffer)
        self._flags = ENVELOPE_VERSION | flags
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
    ``body``, ``cbor_at``, ``cbor_end`` describe a sound frame (its session is
    ``body[1:5]``), False that more bytes are needed; a frame that is not sound raises FrameFault,
    and the next call goes on behind it. Memory: two buffers of ``bytes_max``, whatever comes in.
    """

    def __init__(self, bytes_max, flags_wanted):
        self.body = bytearray(bytes_max)
        self.flags = 0
        self.counter = 0
        self.cbor_at = HEADER_BYTES
        self.cbor_end = 0
        self._body_view = memoryview(self.body)
        self._raw = bytearray(bytes_max)
        self._raw_bytes = 0
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
        self._at = self._raw_bytes = 0
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
        while self._at < len(self._input):
            end = _find_zero(self._input, self._at)
            ended = end >= 0
            self._take(end if ended else len(self._input))
            if not ended:
                break
            self._at += 1
            length = self._raw_bytes
            self._raw_bytes = 0
            if self._dropping:
                self._dropping = False
                raise FrameFault("too_long")
            if length:
                self._check(decode_into(self.body, self._raw, length))
                return True
        self._input = b""
        self._at = 0
        return False

    def _take(self, end):
        at = self._at
        self._at = end
        used = self._raw_bytes
        total = used + end - at
        # One byte of the longest frame is the 0x00, which is not kept.
        if self._dropping or total >= len(self._raw):
            self._dropping = True
        elif total - used > _SLICE_BYTES_MIN:
            self._raw[used:total] = memoryview(self._input)[at:end]
            self._raw_bytes = total
        else:
            for i in range(at, end):
                self._raw[used] = self._input[i]
                used += 1
            self._raw_bytes = total

    def _check(self, length):
        if length < 0:
            raise FrameFault("cobs")
        body = self.body
        flags = body[0]
        end = length - CRC_BYTES - (TAG_BYTES if flags & FLAG_KEYED else 0)
        if end <= HEADER_BYTES:
            raise FrameFault("too_short")
        crc = crc32(self._body_view[:end])
        for i in range(CRC_BYTES):
            if body[end + i] != (crc >> (24 - 8 * i)) & 0xFF:
                raise FrameFault("crc")
        if flags & _VERSION_AND_RESERVED != ENVELOPE_VERSION:
            raise FrameFault("version")
        if (flags ^ self._flags_wanted) & FLAG_TOWARDS_BOARD:
            raise FrameFault("direction")
        if body[5] > COUNTER_MAX >> 24:
            raise FrameFault("counter", "too large")
        self.flags = flags
        self.counter = body[5] << 24 | body[6] << 16 | body[7] << 8 | body[8]
        self.cbor_end = end


def _find_zero(data, at):
    if not isinstance(data, memoryview):
        return data.find(b"\0", at)
    for i in range(at, len(data)):
        if not data[i]:
            return i
    return -1
