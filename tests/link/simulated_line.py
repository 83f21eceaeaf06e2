"""A serial line that treats bytes badly, by a seed: the same seed gives the same history.

Legal faults, each per write, in per mille (what a serial line, an adapter or a driver can do):
  drop        the whole write is lost
  cut         a run of bytes inside it is lost
  flip        one bit of one byte is turned
  repeat      the write comes twice
  garbage     bytes that nobody sent come before it (0x00 among them)
Bytes never overtake each other: a line keeps the order. What stays is delivered after a delay of
up to ``delay_ms_max``, in pieces of at most ``piece_bytes_max``.
"""


class Random:
    """A generator that gives the same numbers on CPython and on MicroPython."""

    def __init__(self, seed):
        self._state = seed & 0x7FFFFFFF

    def below(self, limit):
        self._state = (self._state * 1103515245 + 12345) & 0x7FFFFFFF
        return (self._state >> 8) % limit

    def chance(self, per_mille):
        return self.below(1000) < per_mille

    def bytes(self, length):
        return bytes(self.below(256) for _ in range(length))


class SimulatedLine:
    """One direction: ``write`` at one end, ``read`` at the other."""

    def __init__(self, random, faults=None, delay_ms_max=0, piece_bytes_max=0):
        self.faults = faults or {}
        self.writes = 0
        self._random = random
        self._delay_ms_max = delay_ms_max
        self._piece_bytes_max = piece_bytes_max
        self._under_way = []
        self._last_ms = 0

    def write(self, data, now_ms):
        self.writes += 1
        data = self._damage(bytes(data))
        delay_ms = self._random.below(self._delay_ms_max + 1)
        # Nothing overtakes what was written before it.
        self._last_ms = max(self._last_ms, now_ms + delay_ms)
        if data:
            self._under_way.append((self._last_ms, data))

    def read(self, now_ms):
        """Return what has arrived, in pieces."""
        data = b""
        while self._under_way and self._under_way[0][0] <= now_ms:
            data += self._under_way.pop(0)[1]
        size = self._piece_bytes_max or len(data) or 1
        return [data[at : at + size] for at in range(0, len(data), size)]

    def next_arrival_ms(self):
        return self._under_way[0][0] if self._under_way else None

    def _damage(self, data):
        random = self._random
        hit = {name: random.chance(rate) for name, rate in sorted(self.faults.items())}
        if hit.get("drop"):
            return b""
        if hit.get("cut"):
            at = random.below(len(data))
            data = data[:at] + data[at + 1 + random.below(8) :]
        if hit.get("flip") and data:
            at = random.below(len(data))
            data = data[:at] + bytes((data[at] ^ 1 << random.below(8),)) + data[at + 1 :]
        if hit.get("repeat"):
            data += data
        if hit.get("garbage"):
            data = random.bytes(random.below(40)) + data
        return data
