"""The rhythm of sampling: which group of values is due, and its readings as CBOR."""

from gapless_link import cbor

TICKS_MASK = 0x3FFFFFFF
_HALF = 0x20000000


class Sample:
    """One group of values, read together every `period_ms`: the body of a record."""

    def __init__(self, period_ms, sensors, names, now_ms):
        self.period_ms = period_ms
        self.missed = 0  # beats that passed while the loop was busy
        # The names are encoded once; a reading makes no garbage but what a sensor makes.
        self._keys = tuple([_encoded(name) for name in names])
        self._readers = tuple([sensors[name] for name in names])
        self._due_ms = now_ms

    def wait_ms(self, now_ms):
        """Return ms until it is due, 0 when it is."""
        wait = (self._due_ms - now_ms) & TICKS_MASK
        return wait if wait < _HALF else 0

    def read(self, now_ms, buffer, at):
        """Write the readings to buffer[at:] as a map; return the position behind it.

        The next beat keeps to the rhythm, not to this moment.
        """
        at = cbor.put_head(buffer, at, cbor.MAP, len(self._keys))
        for index, key in enumerate(self._keys):
            for byte in key:
                buffer[at] = byte
                at += 1
            at = cbor.put_value(buffer, at, self._readers[index](now_ms))
        beats = ((now_ms - self._due_ms) & TICKS_MASK) // self.period_ms
        self.missed += beats
        self._due_ms = (self._due_ms + (beats + 1) * self.period_ms) & TICKS_MASK
        return at


def plan(settings, sensors, now_ms):
    """Return (list of Sample, list of names that this board does not have)."""
    planned = []
    unknown = []
    everything = {"period_ms": settings["period_ms"], "values": sorted(sensors)}
    for sample in settings["samples"] or [everything]:
        names = [name for name in sample["values"] if name in sensors]
        unknown += [name for name in sample["values"] if name not in sensors]
        if names:
            planned.append(Sample(sample["period_ms"], sensors, names, now_ms))
    return planned, unknown


def _encoded(name):
    buffer = bytearray(5 + len(name))
    return bytes(buffer[: cbor.put_value(buffer, 0, name)])
