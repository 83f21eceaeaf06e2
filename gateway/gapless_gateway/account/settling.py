"""Settling: what becomes of the numbers that a board names no longer.

A HELLO says two things about the numbers between what is durable here and its `next`: which of
them the board still holds and will send (as records or as LOST), and, by leaving them out, which
it does not. The latter are settled here, once and for good, so that a board needs no memory of
its losses:

    number n, durable < n < next              becomes
    held                                      nothing: the board will send it
    n <= acked, acked by this log (or by      LOST gateway-rollback: it was on our disk once and
      the one that this was restored from)      we said so, and now it is not
    n <= acked, acked by another log          elsewhere(that log): outside of `produced`
    any other                                 LOST reset; at most, where it may never have been used

"At most" are the numbers that a power cut reserved (HELLO.exact is false) above the highest that
was witnessed before; they keep that doubt in later HELLOs until they are settled.

Numbers that were stored here and cannot be read any more (quarantined as unreadable) are settled by
the same HELLO: what the board still holds it is asked for again, and what it does not hold is
LOST corruption, unless it may have been delivered before its bytes went bad.

A first contact is settled from `base`: 0, or `acked` where another log acked the board before,
since the account of that log ends there and ours begins (or lower, if the board still holds
something lower and will send it here).

Everything here is pure: the gateway calls it when a START arrives, the account when it folds the
Session entry, and the two must agree, which is one of the checks of the audit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gapless_gateway.account.intervals import IntervalMap, IntervalSet
from gapless_gateway.wal.entries import (
    REASON_GATEWAY_ROLLBACK,
    REASON_REPLACED,
    REASON_RESET,
)

# Stands where a LOST has its reason, for numbers that another log answers for.
ELSEWHERE = 0

# (first, last, reason, at_most)
Gap = tuple[int, int, int, bool]


class HelloFacts(Protocol):
    """What settling reads of a HELLO of the link, or of a Session entry."""

    @property
    def next(self) -> int:
        """The number that the board will give next."""

    @property
    def exact(self) -> bool:
        """False: `next` was reserved, numbers below it may never have been used."""

    @property
    def held(self) -> Sequence[Sequence[int]]:
        """The (first, last) that the board will still send, as records or as LOST."""

    @property
    def acked(self) -> int:
        """The highest number that the board was acked through; 0: none."""

    @property
    def acked_by(self) -> bytes | None:
        """The log that did so."""


class Numbering(Protocol):
    """What settling reads of the account of a stream."""

    base: int
    durable: int
    exact_through: int
    doubtful: IntervalSet
    elsewhere: IntervalMap[bytes]

    @property
    def claimed(self) -> int:
        """The highest number witnessed."""

    @property
    def unreadable_quarantined(self) -> IntervalMap[bool]:
        """Stored here, and the bytes are gone -> whether they may have been sent."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What to do at a START: open at `base`, take from `expected` on, declare the rest.

    `gaps` are declared by the gateway, each in its place among the records; `elsewhere` are
    (first, last, log_id), all to be appended before any record of the session. Both are in order
    and lie in [expected's durable + 1, next - 1]. `went_backwards` is a sentence when the board
    says a `next` that is not above what it was witnessed to have used: it lost its numbering, and
    nothing is settled; `identity.check` refuses such a HELLO.
    """

    base: int
    durable: int  # what the board may forget at once; beyond what is stored where acked elsewhere
    gaps: tuple[Gap, ...] = ()
    elsewhere: tuple[tuple[int, int, bytes], ...] = ()
    went_backwards: str | None = field(default=None)
    # Stored and unreadable: what the board will send again, and what nobody has any more.
    reclaimed: tuple[tuple[int, int], ...] = ()
    given_up: tuple[tuple[int, int], ...] = ()
    # Beyond `durable` and answered for already: stored and readable, or elsewhere. Not held.
    accounted_ahead: tuple[tuple[int, int], ...] = ()
    # How much may be acked before the Session and `elsewhere` are durable. A board remembers only
    # who acked it last: it would hold us to what another log has, if we forgot that in a crash.
    stored: int = 0

    @property
    def expected(self) -> int:
        """The first number that the session has to bring, be it as a record or as a gap."""
        return self.durable + 1

    @property
    def skipped(self) -> tuple[Gap, ...]:
        """All that will not come as records from `expected` on, in order, for the receiver.

        The `gaps`, and with the reason ELSEWHERE, which is no reason of a LOST, what is accounted
        for beyond `durable` already: elsewhere (rare: a board that still holds numbers below what
        another log acked), or here (a board that is asked again for a number before it).
        """
        beyond = [
            (first, last, ELSEWHERE, False)
            for first, last in (*((a, b) for a, b, _ in self.elsewhere), *self.accounted_ahead)
            if first > self.durable
        ]
        return tuple(sorted([*self.gaps, *beyond]))


def settle(
    hello: HelloFacts,
    stream: Numbering | None,
    log_id: bytes,
    *,
    former_log_ids: Collection[bytes] = (),
) -> Settlement:
    """Settle a HELLO against the account of its stream (None: never heard of here).

    `former_log_ids`: the logs that this one was restored from. The caller sees to it that nothing
    of the stream is on its way to the disk: what is appended and not yet in the account would be
    settled as a hole.
    """
    ours = hello.acked_by is not None and (
        hello.acked_by == log_id or hello.acked_by in former_log_ids
    )
    acked = min(hello.acked, hello.next - 1) if hello.acked_by is not None else 0
    held = IntervalSet((first, last) for first, last in hello.held)
    if stream is None:
        base = durable = 0 if ours else min([acked, *(first - 1 for first, _ in held)])
        exact_through, doubtful = base, IntervalSet()
    else:
        base, durable = stream.base, stream.durable
        exact_through, doubtful = max(durable, stream.exact_through), stream.doubtful
        if hello.next <= stream.claimed:
            return Settlement(base, durable, went_backwards=_backwards(hello.next, stream.claimed))

    known_elsewhere = IntervalSet()  # it may stand ahead of what is missing before it
    if stream is not None:
        known_elsewhere = stream.elsewhere.keys().within(durable + 1, hello.next - 1)
    missing = IntervalSet([(durable + 1, hello.next - 1)])
    missing = missing.difference(held).difference(known_elsewhere)
    gaps: IntervalMap[tuple[int, bool]] = IntervalMap()
    elsewhere: list[tuple[int, int, bytes]] = []
    for first, last in missing.within(durable + 1, acked):
        if ours:
            gaps.assign(first, last, (REASON_GATEWAY_ROLLBACK, False))
        elif hello.acked_by is not None:
            elsewhere.append((first, last, hello.acked_by))
    unsure = _unsure(hello, exact_through, doubtful)
    for first, last in missing.within(max(durable, acked) + 1, hello.next - 1):
        gaps.assign(first, last, (REASON_RESET, False))
        for one in unsure.within(first, last):
            gaps.assign(*one, (REASON_RESET, True))
    if elsewhere and elsewhere[0][0] == durable + 1:
        durable = elsewhere[0][1]
    unreadable: IntervalMap[bool] = IntervalMap()
    if stream is not None:
        unreadable = stream.unreadable_quarantined
    reclaimed = unreadable.keys().intersection(held)
    given_up = IntervalSet((a, b) for a, b, may_be_sent in unreadable if not may_be_sent)
    accounted_ahead = known_elsewhere.difference(held)
    if reclaimed:
        again = reclaimed.ranges()[0][0]
        accounted_ahead = accounted_ahead.union(IntervalSet([(again, durable)]).difference(held))
        durable = again - 1
    return Settlement(
        base,
        durable,
        _flat(gaps),
        tuple(elsewhere),
        stored=0 if stream is None or elsewhere else min(stream.durable, durable),
        reclaimed=tuple(reclaimed),
        given_up=tuple(given_up.difference(held)),
        accounted_ahead=tuple(accounted_ahead),
    )


def settle_closed(stream: Numbering, reason: int = REASON_REPLACED) -> tuple[Gap, ...]:
    """What a stream that is followed by another leaves behind: all that never got here, as LOST.

    To be appended before the Session that opens the successor: after a crash between the two the
    stream is still the board's current one, and what remains of it is settled again.

    `reason`: REASON_REPLACED for a board that was wiped or swapped, REASON_RETIRED for one that
    was taken out of service.
    """
    gaps: IntervalMap[tuple[int, bool]] = IntervalMap()
    gaps.assign(stream.durable + 1, stream.claimed, (reason, False))
    for first, last in stream.doubtful.within(stream.durable + 1, stream.claimed):
        gaps.assign(first, last, (reason, True))
    return _flat(gaps)


def doubt_of(hello: HelloFacts, stream: Numbering) -> IntervalSet:
    """The numbers that this HELLO leaves in doubt: reserved, and not held as used ones."""
    if hello.exact:
        return IntervalSet()
    above = max(stream.durable, stream.exact_through) + 1
    held = IntervalSet((first, last) for first, last in hello.held)
    return IntervalSet([(above, hello.next - 1)]).difference(held)


def _unsure(hello: HelloFacts, exact_through: int, doubtful: IntervalSet) -> IntervalSet:
    """Numbers below `next` that may never have been used."""
    if hello.exact:
        return doubtful
    return doubtful.union(IntervalSet([(exact_through + 1, hello.next - 1)]))


def _flat(gaps: IntervalMap[tuple[int, bool]]) -> tuple[Gap, ...]:
    return tuple((first, last, reason, at_most) for first, last, (reason, at_most) in gaps)


def _backwards(next_seq: int, claimed: int) -> str:
    return (
        f"the board would number its next record {next_seq}, but {claimed} was used before: it "
        "lost its numbering and needs a new stream"
    )
