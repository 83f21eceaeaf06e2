"""Reading CBOR whose shape is not known beforehand, within limits: only a gateway has to."""

from struct import unpack_from

from gapless_link.cbor import ARRAY, MAP, Reader
from gapless_link.errors import FrameFault

# Private in cbor.py, where each public name takes a board's memory.
UINT = 0
NEGATIVE = 1
TEXT = 3
FALSE = 0xF4
TRUE = 0xF5
NULL = 0xF6
FLOAT32 = 0xFA

# Deeper nesting than this is refused. HELLO needs 3.
DEPTH_MAX = 4


class ValueReader(Reader):
    """A ``cbor.Reader`` that also reads booleans, and items of any type of the subset."""

    def _argument(self, info):
        """As that of a board's reader, which makes no garbage, byte by byte."""
        if not 24 <= info <= 27:
            return super()._argument(info)
        at = self.at
        end = at + (1 << (info - 24))
        if end > self.end:
            raise FrameFault("cbor", "cut short")
        self.at = end
        value = int.from_bytes(self.buffer[at:end], "big")
        if value < 24 if info == 24 else not value >> (4 << (info - 24)):
            raise FrameFault("cbor", "long form")
        return value

    def uint(self):
        """As that of a board's reader; most numbers of a frame take one byte."""
        at = self.at
        if at < self.end and self.buffer[at] < 24:
            self.at = at + 1
            return self.buffer[at]
        return super().uint()

    def bool(self):
        """Read true or false."""
        byte = self._byte()
        if byte not in (TRUE, FALSE):
            raise FrameFault("schema", "type")
        return byte == TRUE

    def array(self):
        """Read the head of an array; return its number of items."""
        return self.head(ARRAY)

    def text(self, length_max):
        """Read a text string of at most ``length_max`` bytes of UTF-8."""
        return self._utf8(self.skip_string(TEXT, 0, length_max))

    def value(self, depth=DEPTH_MAX):
        """Read one item of any type of the subset, nested at most ``depth`` deep."""
        byte = self._byte()
        major = byte >> 5
        if major > MAP:
            return self._simple(byte)
        argument = self._argument(byte & 31)
        if major == UINT:
            return argument
        if major == NEGATIVE:
            return -1 - argument
        if argument > self.end - self.at:
            raise FrameFault("cbor", "cut short")
        if major <= TEXT:
            at = self.at
            self.at += argument
            return self._utf8(at) if major == TEXT else bytes(self.buffer[at : self.at])
        if not depth:
            raise FrameFault("cbor", "too deep")
        if major == ARRAY:
            return [self.value(depth - 1) for _ in range(argument)]
        return self._pairs(argument, depth - 1)

    def _utf8(self, at):
        try:
            return str(bytes(self.buffer[at : self.at]), "utf-8")
        except ValueError:
            raise FrameFault("cbor", "no UTF-8") from None

    def _pairs(self, count, depth):
        pairs = {}
        for _ in range(count):
            key = self.value(0)
            if key in pairs:
                raise FrameFault("cbor", "a key twice")
            pairs[key] = self.value(depth)
        return pairs

    def _simple(self, byte):
        if byte in (TRUE, FALSE):
            return byte == TRUE
        if byte == NULL:
            return None
        if byte != FLOAT32:
            raise FrameFault("cbor", "a type that is not used")
        if self.end - self.at < 4:
            raise FrameFault("cbor", "cut short")
        self.at += 4
        return unpack_from(">f", self.buffer, self.at - 4)[0]
