"""The part of CBOR (RFC 8949) that the link uses, written into and read from buffers in place.

Used are integers, byte and text strings, arrays, maps, float32, true, false and null, in definite
lengths and the shortest form. Everything else is a ``FrameFault("cbor")`` when it is read: tags,
indefinite lengths, half and double floats, longer forms, lengths beyond the bytes that are there.
"""

from struct import pack_into

from gapless_link import const
from gapless_link.errors import FrameFault

BYTES = const(2)
ARRAY = const(4)
MAP = const(5)

_UINT = const(0)
_NEGATIVE = const(1)
_TEXT = const(3)
_FALSE = const(0xF4)
_TRUE = const(0xF5)
_NULL = const(0xF6)
_FLOAT32 = const(0xFA)

# The link's own numbers are small ints on a 32-bit MicroPython.
_LINK_UINT_MAX = const(0x3FFFFFFF)


def put_head(buffer, at, major, argument):
    """Write a head in its shortest form; return the position behind it.

    All ``put_`` functions raise IndexError when the buffer is too short, and never make it longer.
    """
    major <<= 5
    if argument < 24:
        buffer[at] = major | argument
        return at + 1
    info = 24
    bits = 8
    while argument >> bits:
        info += 1
        bits <<= 1
    if bits > 64:
        raise OverflowError
    buffer[at] = major | info
    while bits:
        bits -= 8
        at += 1
        buffer[at] = (argument >> bits) & 0xFF
    return at + 1


def put_uint(buffer, at, value):
    """Write an integer >= 0."""
    return put_head(buffer, at, _UINT, value)


def put_value(buffer, at, value):
    """Write None, a bool, int, float, str, bytes or bytearray, list, tuple or dict.

    A float is written as float32; beyond its range it becomes infinite.
    """
    if value is None or value is True or value is False:
        buffer[at] = _TRUE if value else _NULL if value is None else _FALSE
        return at + 1
    if isinstance(value, int):
        if value < 0:
            return put_head(buffer, at, _NEGATIVE, -1 - value)
        return put_head(buffer, at, _UINT, value)
    if isinstance(value, float):
        if at + 5 > len(buffer):
            raise IndexError
        buffer[at] = _FLOAT32
        try:
            pack_into(">f", buffer, at + 1, value)
        except OverflowError:
            pack_into(">f", buffer, at + 1, value * float("inf"))
        return at + 5
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
    major = BYTES
    if isinstance(value, str):
        major = _TEXT
        value = value.encode()
    length = len(value)
    at = put_head(buffer, at, major, length)
    if at + length > len(buffer):
        raise IndexError
    buffer[at : at + length] = value
    return at + length


class Reader:
    """Reads items one after another. Reused from frame to frame: ``load`` makes no garbage.

    What is no CBOR of the subset raises ``FrameFault("cbor")``, what is another type than asked
    for ``FrameFault("schema")``. ``items``: of the message being read, set by messages.read_head.
    """

    def load(self, buffer, at, end):
        """Read from ``buffer[at:end]`` from now on."""
        self.buffer = buffer
        self.at = at
        self.end = end
        return self

    def finish(self):
        """Make sure that nothing follows."""
        if self.at != self.end:
            raise FrameFault("cbor", "trailing")

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
            raise FrameFault("cbor", "length")
        value = 0
        for _ in range(1 << (info - 24)):
            value = value << 8 | self._byte()
        # Shortest form: what the next shorter form holds must not be written in this one.
        if value < 24 if info == 24 else not value >> (4 << (info - 24)):
            raise FrameFault("cbor", "long form")
        return value

    def head(self, major):
        """Read the head of an item of this type; return its argument."""
        byte = self._byte()
        if byte >> 5 != major:
            raise FrameFault("schema", "type")
        argument = self._argument(byte & 31)
        # Each item takes a byte or more, so no count can be larger than what is left.
        if major and argument > self.end - self.at:
            raise FrameFault("cbor", "cut short")
        return argument

    def uint(self):
        """Read an integer from 0 to 2**30 - 1."""
        value = self.head(_UINT)
        if value > _LINK_UINT_MAX:
            raise FrameFault("schema", "too large")
        return value

    def skip_string(self, major, length_min, length_max):
        """Read a string; return where its bytes begin. They end at ``self.at``."""
        length = self.head(major)
        if not length_min <= length <= length_max:
            raise FrameFault("schema", "length")
        at = self.at
        self.at = at + length
        return at

    def bytes(self, length_min, length_max):
        """Read a byte string whose length lies within the bounds."""
        at = self.skip_string(BYTES, length_min, length_max)
        return bytes(self.buffer[at : self.at])

    def null(self):
        """Read a null if it is the next item; return whether it was."""
        if self.at < self.end and self.buffer[self.at] == _NULL:
            self.at += 1
            return True
        return False
