"""What a sender has under way: frames sent and not yet answered, and when each counts as lost."""

from gapless_link.messages import BITMAP_BYTES_MAX, TICKS_MASK

# Bounds of the time after which a frame counts as lost, and what it is before any measurement.
TIMEOUT_FIRST_MS = 1000
TIMEOUT_MIN_MS = 100
TIMEOUT_MAX_MS = 4000
# Frames in flight. More seqs than an ACK's bitmap can name are never in flight either.
WINDOW_FRAMES = 16
WINDOW_SEQS = 8 * BITMAP_BYTES_MAX


def since(now_ms, then_ms):
    """Return the ms from one moment to a later one, across a wrap of the ticks."""
    return (now_ms - then_ms) & TICKS_MASK


class Jitter:
    """Spreads waits, so that boards that started together do not stay together."""

    def __init__(self, seed):
        self._noise = 1
        for byte in seed:
            self._noise = (self._noise * 31 + byte) % 65537

    def add(self, time_ms):
        """Return the time with up to a quarter more. time_ms: below 2**14."""
        # The largest factor with which every product stays a small int of a board.
        self._noise = (self._noise * 16381 + 74) % 65537
        return time_ms + (time_ms >> 2) * self._noise // 65537


class Flights:
    """A fixed number of slots, each a frame in flight; a slot is free while its first seq is 0.

    ``first``, ``last``: the seqs of each slot's frame. ``tries``: how often it was sent.
    """

    def __init__(self, jitter):
        self.first = [0] * WINDOW_FRAMES
        self.last = [0] * WINDOW_FRAMES
        self.tries = [0] * WINDOW_FRAMES
        self._at_ms = [0] * WINDOW_FRAMES
        self._timeout_ms = [0] * WINDOW_FRAMES
        self._counter = [0] * WINDOW_FRAMES
        self._jitter = jitter
        self._trip_ms = 0
        self._variation_ms = 0

    def forget_from(self, seq):
        """Free the slots of all frames that begin at ``seq`` or later."""
        for slot in range(WINDOW_FRAMES):
            if self.first[slot] >= seq:
                self.first[slot] = 0

    def free_slot(self):
        """Return a free slot, or -1."""
        for slot in range(WINDOW_FRAMES):
            if not self.first[slot]:
                self.tries[slot] = 0
                return slot
        return -1

    def overdue_slot(self, now_ms):
        """Return the slot of the lowest seqs whose time is over, or -1."""
        found = -1
        for slot in range(WINDOW_FRAMES):
            first = self.first[slot]
            if first and since(now_ms, self._at_ms[slot]) >= self._timeout_ms[slot]:
                if found < 0 or first < self.first[found]:
                    found = slot
        return found

    def wait_ms(self, now_ms, wait_ms):
        """Return in how many ms (negative: since when) the first frame is overdue, or wait_ms."""
        for slot in range(WINDOW_FRAMES):
            if self.first[slot]:
                left_ms = self._timeout_ms[slot] - since(now_ms, self._at_ms[slot])
                wait_ms = min(wait_ms, left_ms)
        return wait_ms

    def sent(self, slot, first, last, counter, now_ms):
        """Note that a slot's frame leaves now, under this counter."""
        self.first[slot] = first
        self.last[slot] = last
        self._counter[slot] = counter
        self._at_ms[slot] = now_ms
        time_ms = TIMEOUT_FIRST_MS
        if self._trip_ms:
            time_ms = max(self._trip_ms + 4 * self._variation_ms, TIMEOUT_MIN_MS)
        time_ms = min(time_ms << min(self.tries[slot], 6), TIMEOUT_MAX_MS)
        self._timeout_ms[slot] = self._jitter.add(time_ms)
        self.tries[slot] += 1

    def answered(self, durable, bitmap, bitmap_at, bitmap_end, now_ms):
        """Free the slots whose seqs an ACK names, in ``bitmap[bitmap_at:bitmap_end]`` or below.

        What was sent before a frame that the gateway has seen, and was not seen itself, is
        overdue at once.
        """
        newest = 0
        measured = -1
        for slot in range(WINDOW_FRAMES):
            first = self.first[slot]
            if not first:
                continue
            if first <= durable:
                first = self.first[slot] = durable + 1
            bit = first - durable - 1
            last_bit = min(self.last[slot] - durable, WINDOW_SEQS) - 1
            if not _all_set(bitmap, bitmap_at, bitmap_end, bit, last_bit):
                continue
            self.first[slot] = 0
            if self._counter[slot] > newest:
                newest = self._counter[slot]
                # The answer to a frame that was sent twice may be that to either (Karn).
                measured = slot if self.tries[slot] == 1 else -1
        if measured >= 0:
            self._measure(since(now_ms, self._at_ms[measured]))
        for slot in range(WINDOW_FRAMES):
            if self._counter[slot] < newest:
                self._timeout_ms[slot] = 0

    def _measure(self, trip_ms):
        """Estimate the round trip, the gateway's sync included (RFC 6298, in integers)."""
        if not self._trip_ms:
            self._trip_ms = trip_ms + 1
            self._variation_ms = trip_ms >> 1
        else:
            error_ms = trip_ms - self._trip_ms
            self._trip_ms += error_ms >> 3
            self._variation_ms += (abs(error_ms) - self._variation_ms) >> 2


def _all_set(bitmap, at, end, bit, last_bit):
    """Whether all these bits are set; of a long LOST the bitmap can name only the first seqs."""
    while bit <= last_bit:
        byte_at = at + (bit >> 3)
        if byte_at >= end or not bitmap[byte_at] >> (bit & 7) & 1:
            return False
        bit += 1
    return True
