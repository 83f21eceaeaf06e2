"""Hands out seqs so that a board never uses one twice, whatever moment it is killed at.

Before a number is used, a mark of it is written to RTC backup registers, which survive a reset
and, with a battery, a power cut. With the mark the next boot goes on exactly behind the last
number (`exact`). Without it, it goes on behind the numbers reserved in storage: these are reserved
in blocks, since storage bears few writes; those of the block that were never used are skipped.
"""

# A register holds 32 bits; a value and its check stay below 2**30, a small int on a board.
_CHECK = 0x25A5A5A5


class SeqMark:
    """The highest seq used, in two pairs (value, check) of backup registers, written in turn."""

    def __init__(self, registers):
        self._registers = registers
        self._slot = 0

    def read(self):
        """Return the highest seq marked, None when the registers lost it."""
        best = None
        for slot in (0, 2):
            value = self._registers.read(slot)
            # A value and its check that do not fit: the power was cut, or the write was.
            if self._registers.read(slot + 1) == value ^ _CHECK and (best is None or value > best):
                best = value
                self._slot = slot
        return best

    def write(self, seq):
        """Mark `seq` as used."""
        self._slot ^= 2  # the newest mark stays readable while this one is written
        self._registers.write(self._slot, seq)
        self._registers.write(self._slot + 1, seq ^ _CHECK)


class Numbering:
    """Counts the boot, finds the first number that was never used, and reserves on."""

    def __init__(self, state, registers, block):
        self._state = state
        self._mark = SeqMark(registers) if registers else None
        self._block = block
        self.next_seq = self._resume()
        self._unsettled_through = self.next_seq - 1
        state.boot += 2 if state.doubtful else 1
        doubtful = state.doubtful
        self._reserve(self.next_seq)
        if doubtful:
            # Both files are good again only when the damaged one and the older one are replaced.
            state.doubtful = False
            state.save()
        if self._mark:
            # So that a boot which is cut short before its first number leaves a mark as well.
            self._mark.write(self.next_seq - 1)

    def use(self, seq):
        """Call before `seq` is used for anything. Raises OSError when it cannot be made safe."""
        if seq > self._state.reserved_through:
            self._reserve(seq)
        if self._mark:
            self._mark.write(seq)
        self.next_seq = seq + 1

    def settled(self, durable):
        """The gateway settled everything up to `durable`; return whether that ends a doubt."""
        if self._state.exact or durable < self._unsettled_through:
            return False
        self._state.exact = True
        self._state.save()
        return True

    def _resume(self):
        state = self._state
        reserved = state.reserved_through + (state.step if state.doubtful else 0)
        mark = self._mark.read() if self._mark else None
        if not state.generation:
            return 1 if mark is None else mark + 1
        if mark is not None and state.used_through <= mark <= reserved:
            return mark + 1
        # A mark that does not fit the state is another board's, or very old; still never below it.
        state.exact = False
        return max(reserved, mark or 0) + 1

    def _reserve(self, seq):
        state = self._state
        block = min(self._block, state.step) if state.step else self._block
        state.used_through = seq - 1
        state.reserved_through = seq - 1 + block
        state.step = self._block
        state.save()
