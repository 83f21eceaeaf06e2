"""Records that are not yet durable at the gateway: a bounded ring in RAM.

All memory is taken once, at the start: a ring of bytes for the records and a ring of their
lengths. A record that does not fit is not a silent loss: the oldest records, or the new one, by
the policy, become a LOST range in their place. Seqs from `first_seq` to `next_seq - 1` are all
answered for, as a record or as LOST, without a hole.

The interface is the one that gapless_link.sender asks for.
"""

from array import array

from gapless_link.messages import REASON_OVERFLOW

OLDEST = "oldest"
NEWEST = "newest"
# A board can lose its records in many pieces (policy "newest"). More pieces than this are joined,
# by giving up the records between the last two.
LOST_RANGES_MAX = 8


class Outbox:
    """A ring of at most `records_max` records in `ring`.

    `ring` is a bytearray that the owner makes before anything else: later, the heap of a board is
    in pieces, and none may be large enough.
    """

    def __init__(self, next_seq, records_max, ring, policy=OLDEST):
        self.next_seq = next_seq
        self.first_seq = next_seq
        self.policy = policy
        self.dropped = 0  # records given up since the start
        self._ring = ring
        self._lengths = array("H", bytes(2 * records_max))
        self._head = 0  # index in _lengths of the oldest record
        self._count = 0  # records held
        self._start = 0  # index in _ring of the oldest record
        self._used = 0  # bytes held
        self._lost = []  # [first, last], ascending, not adjacent
        self._seek_seq = 0  # where the last lookup ended: record `_seek_index` lies at `_seek_at`
        self._seek_index = 0
        self._seek_at = 0

    def append(self, data, length):
        """Take the record data[:length] under `next_seq`; say whether it was kept."""
        if self.policy == NEWEST:
            if not self._fits(length):
                self._lose_newest()
                return False
        else:
            while self._count and not self._fits(length):
                self._lose_oldest()
            if not self._fits(length):  # larger than the whole ring
                self._lose_newest()
                return False
        size = len(self._ring)
        at = self._start + self._used
        if at >= size:
            at -= size
        for index in range(length):
            self._ring[at] = data[index]
            at += 1
            if at == size:
                at = 0
        index = self._head + self._count
        if index >= len(self._lengths):
            index -= len(self._lengths)
        self._lengths[index] = length
        self._count += 1
        self._used += length
        self.next_seq += 1
        return True

    def find(self, seq):
        """Return the lowest seq >= `seq` that is answered for, 0 when there is none."""
        seq = max(seq, self.first_seq)
        return seq if seq < self.next_seq else 0

    def size(self, seq):
        """Return the bytes of the record `seq`, 0 when it is LOST or not held."""
        if not self.first_seq <= seq < self.next_seq:
            return 0
        index = self._seek(seq)
        return 0 if index < 0 else self._lengths[index]

    def read_into(self, seq, buffer, at):
        """Copy the record `seq` to buffer[at:]; return its length."""
        length = self._lengths[self._seek(seq)]
        ring = self._ring
        position = self._seek_at
        for index in range(length):
            buffer[at + index] = ring[position]
            position += 1
            if position == len(ring):
                position = 0
        return length

    def lost_range(self, seq):
        """Return (first, last, reason, at_most) of the LOST that `seq` lies in."""
        for first, last in self._lost:
            if first <= seq <= last:
                return first, last, REASON_OVERFLOW, False
        raise KeyError(seq)

    def free_through(self, durable):
        """Forget everything up to `durable`: it is on the gateway's disk."""
        if durable >= self.next_seq:
            durable = self.next_seq - 1
        while self.first_seq <= durable:
            if self._lost and self._lost[0][0] == self.first_seq:
                if self._lost[0][1] > durable:
                    self._lost[0][0] = durable + 1
                    self.first_seq = durable + 1
                    return
                self.first_seq = self._lost.pop(0)[1] + 1
            else:
                self._forget_first()
                self.first_seq += 1

    def held(self):
        """Return [(first, last)] of all that the board will still send, as records or LOST."""
        if self.first_seq == self.next_seq:
            return []
        return [(self.first_seq, self.next_seq - 1)]

    def renumber(self, first_seq):
        """Give all that is held new numbers from `first_seq` on, which must not be lower.

        For a gateway that knows more numbers as used than this board does. A record's bytes do
        not contain its seq.
        """
        shift = first_seq - self.first_seq
        self.first_seq += shift
        self.next_seq += shift
        self._seek_seq = 0
        for lost in self._lost:
            lost[0] += shift
            lost[1] += shift

    def _fits(self, length):
        return self._count < len(self._lengths) and self._used + length <= len(self._ring)

    def _seek(self, seq):
        """Return the index in _lengths of the record `seq`, its place in _seek_at; -1 when LOST.

        Walks on from the last lookup when it can: the sender asks in rising order.
        """
        behind = 0  # numbers in front of seq that are LOST, so have no record
        for first, last in self._lost:
            if first <= seq:
                if seq <= last:
                    return -1
                behind += last - first + 1
        offset = seq - self.first_seq - behind
        if self._seek_seq == 0 or seq < self._seek_seq:
            self._seek_index = 0
            self._seek_at = self._start
        self._seek_seq = seq
        lengths = self._lengths
        index = self._head + self._seek_index
        while self._seek_index < offset:
            self._seek_at += lengths[index if index < len(lengths) else index - len(lengths)]
            self._seek_index += 1
            index += 1
        while self._seek_at >= len(self._ring):
            self._seek_at -= len(self._ring)
        return index if index < len(lengths) else index - len(lengths)

    def _forget_first(self):
        """Free the oldest record's memory; the caller moves first_seq or writes the LOST."""
        length = self._lengths[self._head]
        self._head = self._head + 1 if self._head + 1 < len(self._lengths) else 0
        self._count -= 1
        self._start += length
        if self._start >= len(self._ring):
            self._start -= len(self._ring)
        self._used -= length
        self._seek_seq = 0

    def _lose_oldest(self):
        """Turn the oldest record into LOST; it follows the LOST in front, when there is one."""
        if self._lost and self._lost[0][0] == self.first_seq:
            seq = self._lost[0][1] + 1
            self._lost[0][1] = seq
        else:
            seq = self.first_seq
            self._lost.insert(0, [seq, seq])
        self._forget_first()
        self.dropped += 1
        if len(self._lost) > 1 and self._lost[1][0] == seq + 1:
            self._lost[0][1] = self._lost.pop(1)[1]

    def _lose_newest(self):
        """Turn the record that gets `next_seq` into LOST."""
        seq = self.next_seq
        self.next_seq += 1
        self.dropped += 1
        lost = self._lost
        if lost and lost[-1][1] == seq - 1:
            lost[-1][1] = seq
            return
        if len(lost) < LOST_RANGES_MAX:
            lost.append([seq, seq])
            return
        # One piece too many: the records after the last piece go too, and join it.
        for _ in range(seq - 1 - lost[-1][1]):
            self._count -= 1
            index = self._head + self._count
            if index >= len(self._lengths):
                index -= len(self._lengths)
            self._used -= self._lengths[index]
            self.dropped += 1
        self._seek_seq = 0
        lost[-1][1] = seq
