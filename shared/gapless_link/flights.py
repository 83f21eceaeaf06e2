"""What a sender has under way: frames sent and not yet answered, and when each counts as lost."""

from array import array

from gapless_link import const

# Frames in flight, and how far beyond ``durable`` their seqs go: what an ACK's bitmap can name.
_WINDOW_FRAMES = const(16)
WINDOW_SEQS = const(256)
_TIMEOUT_MAX_MS = const(4000)

# The shortest time after which a frame counts as lost, and what it is before any measurement.
_TIMEOUT_MIN_MS = const(100)
_TIMEOUT_FIRST_MS = const(1000)
_TICKS_MASK = const(0x3FFFFFFF)


def since(now_ms, then_ms):
    """Return the ms from one moment to a later one, across a wrap of the ticks."""
    return (now_ms - then_ms) & _TICKS_MASK


class Flights:
    """A fixed number of slots, each a frame in flight; a slot is free while its first seq is 0.

    ``first``, ``last``: the seqs of each slot's frame. ``tries``: how often it was sent, at most 6.
    ``due``: the slot that ``left_ms`` found. ``seed``: bytes that differ from board to board.
    """

    def __init__(self, seed):
        zeros = [0] * _WINDOW_FRAMES
        self.first = array("I", zeros)
        self.last = array("I", zeros)
        self.tries = bytearray(_WINDOW_FRAMES)
        self.due = 0
        self._at_ms = array("I", zeros)
        self._timeout_ms = array("H", zeros)
        self._counter = array("I", zeros)
        self._trip_ms = 0
        self._variation_ms = 0
        self._noise = 1
        for byte in seed:
            self._noise = (self._noise * 31 + byte) % 65537

    def spread(self, time_ms):
        """Return a wait with up to a quarter more. time_ms: below 2**14.

        So boards that started together do not stay together.
        """
        # The largest factor with which every product stays a small int of a board.
        self._noise = (self._noise * 16381 + 74) % 65537
        return time_ms + (time_ms >> 2) * self._noise // 65537

    def forget_from(self, seq):
        """Free the slots of all frames that begin at ``seq`` or later."""
        for slot in range(_WINDOW_FRAMES):
            if self.first[slot] >= seq:
                self.first[slot] = 0

    def free_slot(self):
        """Return a free slot, or -1."""
        for slot in range(_WINDOW_FRAMES):
            if not self.first[slot]:
                self.tries[slot] = 0
                return slot
        return -1

    def left_ms(self, now_ms):
        """Return in how many ms the next frame is overdue, 0 when one is: the lowest seqs first."""
        least_ms = _TICKS_MASK
        lowest = 0
        for slot in range(_WINDOW_FRAMES):
            first = self.first[slot]
            if first:
                left_ms = max(0, self._timeout_ms[slot] - since(now_ms, self._at_ms[slot]))
                if left_ms < least_ms or (left_ms == least_ms and first < lowest):
                    least_ms = left_ms
                    lowest = first
                    self.due = slot
        return least_ms

    def sent(self, slot, first, last, counter, now_ms):
        """Note that a slot's frame leaves now, under this counter."""
        self.first[slot] = first
        self.last[slot] = last
        self._counter[slot] = counter
        self._at_ms[slot] = now_ms
        time_ms = _TIMEOUT_FIRST_MS
        if self._trip_ms:
            time_ms = max(self._trip_ms + 4 * self._variation_ms, _TIMEOUT_MIN_MS)
        time_ms = min(time_ms << self.tries[slot], _TIMEOUT_MAX_MS)
        self._timeout_ms[slot] = self.spread(time_ms)
        self.tries[slot] = min(self.tries[slot] + 1, 6)

    def answered(self, durable, bitmap, bitmap_at, bitmap_end, now_ms):
        """Free the slots whose seqs an ACK names, in ``bitmap[bitmap_at:bitmap_end]`` or below.

        What was sent before a frame that the gateway has seen, and was not seen itself, is
        overdue at once.
        """
        newest = 0
        measured = -1
        bits = (bitmap_end - bitmap_at) << 3
        for slot in range(_WINDOW_FRAMES):
            first = self.first[slot]
            if not first:
                continue
            if first <= durable:
                first = self.first[slot] = durable + 1
            bit = first - durable - 1
            # Of a long LOST the bitmap can name only the first seqs.
            end = min(self.last[slot] - durable, WINDOW_SEQS)
            while bit < min(end, bits) and bitmap[bitmap_at + (bit >> 3)] >> (bit & 7) & 1:
                bit += 1
            if bit < end:
                continue
            self.first[slot] = 0
            if self._counter[slot] > newest:
                newest = self._counter[slot]
                # The answer to a frame that was sent twice may be that to either (Karn).
                measured = slot if self.tries[slot] == 1 else -1
        for slot in range(_WINDOW_FRAMES):
            if self._counter[slot] < newest:
                self._timeout_ms[slot] = 0
        if measured >= 0:
            # The round trip, the gateway's sync included (RFC 6298, in integers).
            trip_ms = since(now_ms, self._at_ms[measured])
            error_ms = trip_ms - self._trip_ms
            if not self._trip_ms:
                self._trip_ms = trip_ms + 1
                self._variation_ms = trip_ms >> 1
            else:
                self._trip_ms += error_ms >> 3
                self._variation_ms += (abs(error_ms) - self._variation_ms) >> 2
