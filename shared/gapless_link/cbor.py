"""The part of CBOR (RFC 8949) that the link uses, written into and read from buffers in place.

Used are integers, byte and text strings, arrays, maps, float32, true, false and null, in definite
lengths and the shortest form. Everything else is a ``FrameFault("cbor")`` when it is read: tags,
indefinite lengths, half and double floats, longer forms, lengths beyond the bytes that are there.
"""

from struct import pack_into

from gapless_link.errors import FrameFault

UINT = 0
NEGATIVE = 1
BYTES = 2
TEXT = 3
ARRAY = 4
MAP = 5

FALSE = 0xF4
TRUE = 0xF5
NULL = 0xF6
FLOAT32 = 0xFA

# The link's own numbers are small ints on a 32-bit MicroPython.
LINK_UINT_MAX = 0x3FFFFFFF


def put_head(buffer, at, major, argument):
    """Write a head in its shortest form; return the position behind it.

    All ``put_`` functions raise IndexError when the buffer is too short, and never make it longer.
    """
    major <<= 5
    if argument < 24:
        buffer[at] = major | argument
        return at + 1
    if argument < 0x100:
        buffer[at] = major | 24
        width = 1
    elif argument < 0x10000:
        buffer[at] = major | 25
        width = 2
    elif argument >> 16 < 0x10000:
        buffer[at] = major | 26
        width = 4
    else:
        if argument >> 64:
            raise OverflowError
        buffer[at] = major | 27
        width = 8
    while width:
        width -= 1
        at += 1
        buffer[at] = (argument >> (width << 3)) & 0xFF
    return at + 1


def put_uint(buffer, at, value):
    """Write an integer >= 0."""
    return put_head(buffer, at, UINT, value)


def put_int(buffer, at, value):
    """Write an integer."""
    if value < 0:
        return put_head(buffer, at, NEGATIVE, -1 - value)
    return put_head(buffer, at, UINT, value)


def put_float(buffer, at, value):
    """Write a number as float32; beyond its range it becomes infinite."""
    buffer[at] = FLOAT32
    if at + 5 > len(buffer):
        raise IndexError
    try:
        pack_into(">f", buffer, at + 1, value)
    except OverflowError:
        pack_into(">f", buffer, at + 1, float("inf") if value > 0 else float("-inf"))
    return at + 5


def put_simple(buffer, at, simple):
    """Write ``TRUE``, ``FALSE`` or ``NULL``."""
    buffer[at] = simple
    return at + 1


def put_string(buffer, at, major, data):
    """Write ``data`` (bytes-like; UTF-8 for TEXT) as a string of type BYTES or TEXT."""
    length = len(data)
    at = put_head(buffer, at, major, length)
    if at + length > len(buffer):
        raise IndexError
    buffer[at : at + length] = data
    return at + length


def put_value(buffer, at, value):
    """Write None, a bool, int, float, str, bytes, list, tuple or dict."""
    if value is None:
        return put_simple(buffer, at, NULL)
    if value is True or value is False:
        return put_simple(buffer, at, TRUE if value else FALSE)
    if isinstance(value, int):
        return put_int(buffer, at, value)
    if isinstance(value, float):
        return put_float(buffer, at, value)
    if isinstance(value, str):
        return put_string(buffer, at, TEXT, value.encode())
    if isinstance(value, (list, tuple)):
        at = put_head(buffer, at, ARRAY, len(value))
        for item in value:
            at = put_value(buffer, at, item)
        return at
    if isinstance(value, dict):
        at = put_head(buffer, at, MAP, len(value))
        for key in value:
            at = put_value(buffer, at, key)
            at = put_value(buffer, at, value[key])
        return at
    return put_string(buffer, at, BYTES, value)


class Reader:
    """Reads items one after another. Reused from frame to frame: ``load`` makes no garbage.

    What is no CBOR of the subset raises ``FrameFault("cbor")``, what is another type than asked
    for ``FrameFault("schema")``.
    """

    def __init__(self):
        self.buffer = b""
        self.at = 0
        self.end = 0
        # Of the message being read; set by messages.read_head.
        self.items = 0

    def load(self, buffer, at, end):
        """Read from ``buffer[at:end]`` from now on."""
        self.buffer = buffer
        self.at = at
        self.end = end
        return self

    def finish(self):
        """Make sure that nothing follows."""
        if self.at != self.end:
            raise FrameFault("cbor", "trailing bytes")

    def _byte(self):
        at = self.at
        if at >= self.end:
            raise FrameFault("cbor", "cut short")
        self.at = at + 1
        return self.buffer[at]

    def _argument(self, info):
        if info < 24:
            return info
        if info > 27:
            raise FrameFault("cbor", "indefinite or reserved length")
        value = 0
        for _ in range(1 << (info - 24)):
            value = value << 8 | self._byte()
        # Shortest form: what the next shorter form holds must not be written in this one.
        if value < 24 if info == 24 else not value >> (4 << (info - 24)):
            raise FrameFault("cbor", "not the shortest form")
        return value

    def _head(self, major):
        byte = self._byte()
        if byte >> 5 != major:
            raise FrameFault("schema", "another type")
        return self._argument(byte & 31)

    def _length(self, count):
        # Each item takes a byte or more, so no count can be larger than what is left.
        if count > self.end - self.at:
            raise FrameFault("cbor", "cut short")
        return count

    def uint(self):
        """Read an integer from 0 to 2**30 - 1."""
        value = self._head(UINT)
        if value > LINK_UINT_MAX:
            raise FrameFault("schema", "number too large")
        return value

    def array(self):
        """Read the head of an array; return its number of items."""
        return self._length(self._head(ARRAY))

    def skip_string(self, major, length_min, length_max):
        """Read a string; return where its bytes begin. They end at ``self.at``."""
        length = self._length(self._head(major))
        if not length_min <= length <= length_max:
            raise FrameFault("schema", "string length")
        at = self.at
        self.at = at + length
        return at

    def bytes(self, length_min, length_max):
        """Read a byte string whose length lies within the bounds."""
        at = self.skip_string(BYTES, length_min, length_max)
        return bytes(self.buffer[at : self.at])

    def text(self, length_max):
        """Read a text string of at most ``length_max`` bytes of UTF-8."""
        at = self.skip_string(TEXT, 0, length_max)
        return self._utf8(at)

    def _utf8(self, at):
        try:
            return str(bytes(self.buffer[at : self.at]), "utf-8")
        except ValueError:
            raise FrameFault("cbor", "no UTF-8") from None

    def null(self):
        """Read a null if it is the next item; return whether it was."""
        if self.at < self.end and self.buffer[self.at] == NULL:
            self.at += 1
            return True
        return False
