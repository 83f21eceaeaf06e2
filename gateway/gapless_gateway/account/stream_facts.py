"""What is known of one stream, and the balance of it.

What is kept are sets of numbers, each grown only by entries that say so: stored, lost, elsewhere,
quarantined, held at the board, awaited as a gap that the gateway settled. The balance counts the
members of these sets; no count is what is left over when others were subtracted. A number of
(base, claimed] that is in none of them is unexplained, and that is a finding.
"""

from __future__ import annotations

from array import array
from zlib import crc32

from gapless_gateway.account.balance import Balance, Totals
from gapless_gateway.account.intervals import IntervalMap, IntervalSet

RECENT_CRCS_MAX = 256


class StreamFacts:
    """The facts of one stream of one device, as everyone may read them.

    `logged` holds the totals of the last Progress entry and is part of the fold; `live` runs
    ahead of it within a run, is what the properties show, and is in no snapshot.
    """

    def __init__(self, stream: bytes, device: str, uid: bytes, base: int) -> None:
        self.stream = stream
        self.device = device
        self.uid = uid
        self.base = base
        self.durable = base
        self.claimed = base
        self.exact_through = base  # all up to here were used: an exact HELLO or the log said so
        self.doubtful = IntervalSet()  # beyond durable: reserved, perhaps never used
        self.stored = IntervalSet()
        self.lost: IntervalMap[tuple[int, bool]] = IntervalMap()  # -> (reason, at_most)
        self.elsewhere: IntervalMap[bytes] = IntervalMap()  # -> log_id
        self.quarantined = IntervalSet()
        # Stored numbers whose bytes are gone -> whether they may have been sent all the same. Also
        # those that their board declared lost then, which the consumer has to be told out of turn.
        self.unreadable: IntervalMap[bool] = IntervalMap()
        self.requeued = IntervalSet()  # out of quarantine again, and not delivered yet
        self.uncertain = False  # entries that speak of this stream may be gone from the log
        self.announced = IntervalSet()  # `held` of the last Session
        self.announced_next = base + 1  # its `next`
        self.awaited: IntervalMap[tuple[int, bool]] = IntervalMap()  # settled, not yet declared
        self.logged = Totals(delivered_through=base)
        self.live = Totals(delivered_through=base)
        self.conflicts = 0
        self.violations = 0
        self.findings: list[str] = []
        self.sessions = 0
        self.boot = -1
        self.uptime_ms = -1
        self.last_heard_ms = 0
        self.acked = 0
        self.acked_by: bytes | None = None
        self.ended = False  # declared lost to its end: closed, or about to be
        self.closed = False  # another stream of the same board follows it
        self.recent_crcs = array("I", bytes(4 * RECENT_CRCS_MAX))

    @property
    def delivered_through(self) -> int:
        """The broker (or the consumer) has everything up to here that was stored."""
        return self.live.delivered_through

    @property
    def suppressed(self) -> int:
        """Repeats with the same bytes that were not stored again."""
        return self.live.suppressed

    @property
    def redelivered(self) -> int:
        """Transmissions to the broker that were flagged as such."""
        return self.live.redelivered

    @property
    def unverifiable(self) -> int:
        """Repeats too old to compare."""
        return self.live.unverifiable

    @property
    def known_through(self) -> int:
        """The highest number anyone here knows of. What a board used beyond it is not promised."""
        return self.claimed

    @property
    def order_violations(self) -> int:
        """Entries that cannot stand where they stand, and deliveries of what was never stored."""
        return self.violations + (self.live.delivered_through > self.durable)

    @property
    def delivered(self) -> IntervalSet:
        """The numbers that the broker (or the consumer) has as records."""
        return self._records(self.base + 1, self.delivered_through).difference(self.requeued)

    @property
    def pending_gateway(self) -> IntervalSet:
        """The numbers stored here and not yet delivered."""
        pending = self._records(self.delivered_through + 1, self.durable)
        return pending.union(self.requeued) if self.requeued else pending

    @property
    def unreadable_quarantined(self) -> IntervalMap[bool]:
        """The quarantined numbers whose bytes are gone -> whether they may have been sent."""
        if not self.unreadable or not self.quarantined:
            return IntervalMap()
        return IntervalMap(one for a, b in self.quarantined for one in self.unreadable.within(a, b))

    @property
    def held(self) -> IntervalSet:
        """The numbers witnessed and still at the board, or settled and waiting for their place."""
        at_board = self.announced.union(self.awaited.keys())
        at_board.add(self.announced_next, self.claimed)
        return at_board.within(self.durable + 1, self.claimed).difference(self.elsewhere.keys())

    @property
    def produced(self) -> IntervalSet:
        """All numbers of this account: (base, claimed], without those acked elsewhere."""
        return IntervalSet([(self.base + 1, self.claimed)]).difference(self.elsewhere.keys())

    @property
    def unexplained(self) -> IntervalSet:
        """The numbers that no entry explains. Not empty: the log is not what was written."""
        known = self.stored.union(self.lost.keys()).union(self.held)
        return self.produced.difference(known)

    def balance(self) -> Balance:
        """The size of every set, now."""
        exact = sum(last - first + 1 for first, last, (_, at_most) in self.lost if not at_most)
        at_most = sum(last - first + 1 for first, last, (_, at_most) in self.lost if at_most)
        return Balance(
            produced=self.produced.count(),
            delivered=self.delivered.count(),
            pending_device=self.held.count(),
            pending_gateway=self.pending_gateway.count(),
            quarantined=self.quarantined.count(),
            lost=exact,
            lost_at_most=at_most,
            unexplained=self.unexplained.count(),
        )

    def check_repeat(self, seq: int, data: bytes) -> str:
        """How a record that came again compares: same, differs, unverifiable or after-lost.

        Only the last 256 numbers can be compared; a number that is not stored here, nor lost, is
        unverifiable as well.
        """
        if self.lost.get(seq) is not None:
            return "after-lost"
        if (
            seq <= self.durable - RECENT_CRCS_MAX
            or not self.stored.contains(seq)
            or self.unreadable.get(seq) is not None
        ):
            return "unverifiable"
        return "same" if self.recent_crcs[seq % RECENT_CRCS_MAX] == crc32(data) else "differs"

    def _records(self, first: int, last: int) -> IntervalSet:
        return self.stored.within(first, last).difference(self.quarantined)
