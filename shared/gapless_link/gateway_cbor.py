"""Reading CBOR whose shape is not known beforehand, within limits: only a gateway has to."""

from struct import unpack_from

from gapless_link.cbor import ARRAY, FALSE, FLOAT32, MAP, NEGATIVE, NULL, TEXT, TRUE, UINT, Reader
from gapless_link.errors import FrameFault

# Deeper nesting than this is refused. HELLO needs 3.
DEPTH_MAX = 4


class ValueReader(Reader):
    """A ``cbor.Reader`` that also reads booleans, and items of any type of the subset."""

    def bool(self):
        """Read true or false."""
        byte = self._byte()
        if byte not in (TRUE, FALSE):
            raise FrameFault("schema", "another type")
        return byte == TRUE

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
        self._length(argument)
        if major <= TEXT:
            at = self.at
            self.at += argument
            return self._utf8(at) if major == TEXT else bytes(self.buffer[at : self.at])
        if not depth:
            raise FrameFault("cbor", "too deep")
        if major == ARRAY:
            return [self.value(depth - 1) for _ in range(argument)]
        return self._pairs(argument, depth - 1)

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
