"""The figures of a stream: how many numbers are in which state, and the running totals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Balance:
    """How many numbers of a stream are in which state. All are counts of seqs.

    produced = delivered + pending_device + pending_gateway + quarantined + lost + lost_at_most
    + unexplained holds because each is the size of a set, the sets are disjoint, and a test says
    so; `unexplained` is 0 unless something is wrong.
    """

    produced: int
    delivered: int
    pending_device: int
    pending_gateway: int
    quarantined: int
    lost: int
    lost_at_most: int
    unexplained: int

    @property
    def holds(self) -> bool:
        """Whether every number produced is in exactly one state that is no finding."""
        return self.unexplained == 0 and self.produced == (
            self.delivered
            + self.pending_device
            + self.pending_gateway
            + self.quarantined
            + self.lost
            + self.lost_at_most
        )


@dataclass(slots=True)
class Totals:
    """What Progress entries carry per stream; all but the first are counts since it was opened."""

    delivered_through: int = 0
    suppressed: int = 0
    redelivered: int = 0
    unverifiable: int = 0

    def raise_to(self, other: Totals) -> None:
        """Take the larger of each."""
        self.delivered_through = max(self.delivered_through, other.delivered_through)
        self.suppressed = max(self.suppressed, other.suppressed)
        self.redelivered = max(self.redelivered, other.redelivered)
        self.unverifiable = max(self.unverifiable, other.unverifiable)
