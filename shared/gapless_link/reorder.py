"""The gateway's reorder buffer: what came beyond a hole waits here until its seq is next."""

from gapless_link.gateway_messages import BITMAP_BYTES_MAX

# Records that may wait, which is also how far beyond the next seq one may be, and their bytes.
REORDER_RECORDS_MAX = 8 * BITMAP_BYTES_MAX
REORDER_BYTES_MAX = 65536
# LOST ranges of the board that may wait.
REORDER_RANGES_MAX = 16


class RecordsReceived:
    """The next seqs in order, from ``first`` on. ``records``: bytes each, as the board made them.

    One event for all that a frame brought: a gateway may get a hundred thousand records a second.
    """

    __slots__ = ("first", "records")

    def __init__(self, first, records):
        self.first = first
        self.records = records


class RecordRepeated:
    """A seq that was taken before came again, to be compared by the owner."""

    __slots__ = ("data", "seq")

    def __init__(self, seq, data):
        self.seq = seq
        self.data = data


class LostReceived:
    """A range declared lost, in order; only the part that was not taken as records."""

    __slots__ = ("at_most", "by_gateway", "first", "last", "reason")

    def __init__(self, first, last, reason, at_most, by_gateway):
        self.first = first
        self.last = last
        self.reason = reason
        self.at_most = at_most
        self.by_gateway = by_gateway


class ReorderBuffer:
    """Puts records and LOST ranges into the order of their seqs.

    ``expected``: the next seq to hand out. ``gaps``: [(first, last, reason, at_most)] which the
    gateway declares lost itself, handed out in their places. A record beats a LOST: of a range
    only what did not come as a record is handed out. All methods append events to ``events``.
    """

    def __init__(self, expected, gaps, events):
        self.expected = expected
        self.dropped = 0
        self._records = {}
        self._bytes = 0
        self._ranges = [(first, last, why, most, True) for first, last, why, most in gaps]
        self._advance(events)

    def add_next(self, first, records, events):
        """Take the records of a frame if all come in their place, nothing waiting; else False."""
        if first != self.expected or self._ranges or self._records:
            return False
        events.append(RecordsReceived(first, records))
        self.expected = first + len(records)
        return True

    def add_record(self, seq, data, events):
        """Take a record; return whether it came as the next one, in its place."""
        waiting = self._records.get(seq)
        if seq < self.expected or waiting is not None:
            if waiting != data:
                events.append(RecordRepeated(seq, data))
            return False
        in_place = seq == self.expected
        if not in_place and (
            seq - self.expected >= REORDER_RECORDS_MAX
            or self._bytes + len(data) > REORDER_BYTES_MAX
        ):
            self.dropped += 1
            return False
        self._records[seq] = data
        self._bytes += len(data)
        self._advance(events)
        return in_place

    def add_lost(self, first, last, reason, at_most, events):
        """Take a range that the board declares lost; return whether it was the next one."""
        if last < self.expected:
            return False
        in_place = first <= self.expected
        mine = [item for item in self._ranges if not item[4]]
        if not in_place and (
            len(mine) >= REORDER_RANGES_MAX or first - self.expected >= REORDER_RECORDS_MAX
        ):
            self.dropped += 1
            return False
        if (first, last, reason, at_most, False) not in mine:
            self._ranges.append((first, last, reason, at_most, False))
        self._advance(events)
        return in_place

    def seen(self, durable):
        """Return the bitmap of an ACK: bit i, lowest first, is that seq durable + 1 + i came."""
        if self.expected == durable + 1 and not self._records and not self._ranges:
            return b""
        bits = bytearray(BITMAP_BYTES_MAX)
        _set_bits(bits, 0, self.expected - durable - 2)
        for seq in self._records:
            _set_bits(bits, seq - durable - 1, seq - durable - 1)
        for first, last, _, _, by_gateway in self._ranges:
            if not by_gateway:
                _set_bits(bits, max(first, durable + 1) - durable - 1, last - durable - 1)
        length = BITMAP_BYTES_MAX
        while length and not bits[length - 1]:
            length -= 1
        return bytes(bits[:length])

    def _advance(self, events):
        while True:
            expected = self.expected
            data = self._records.pop(expected, None)
            if data is not None:
                self._bytes -= len(data)
                if events and isinstance(events[-1], RecordsReceived):
                    events[-1].records.append(data)
                else:
                    events.append(RecordsReceived(expected, [data]))
                self.expected = expected + 1
                continue
            covering = self._covering(expected)
            if covering is None:
                break
            _, last, reason, at_most, by_gateway = covering
            for seq in self._records:
                if expected < seq <= last:
                    last = seq - 1
            events.append(LostReceived(expected, last, reason, at_most, by_gateway))
            self.expected = last + 1
        if self._ranges:
            self._ranges = [item for item in self._ranges if item[1] >= self.expected]

    def _covering(self, seq):
        for item in self._ranges:
            if item[0] <= seq <= item[1]:
                return item
        return None


def _set_bits(bits, first, last):
    last = min(last, 8 * len(bits) - 1)
    while first <= last:
        if not first & 7 and last - first >= 7:
            bits[first >> 3] = 0xFF
            first += 8
        else:
            bits[first >> 3] |= 1 << (first & 7)
            first += 1
