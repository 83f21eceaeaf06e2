"""What is to be said of numbers whose entries are gone from the log.

A Gone in the log says that they stood there. What became of each is in the account: delivered
before its bytes went bad, declared lost, quarantined; and if none of these, it has to be declared
now, before the board is greeted or the consumer is told: as Unreadable, or as LOST(quota) where it
was dropped and a crash came before that was appended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gapless_gateway.account.intervals import IntervalMap, IntervalSet
from gapless_gateway.wal.entries import GONE_QUOTA, REASON_QUOTA, Gone, Lost, Unreadable


class StreamStates(Protocol):
    """What is read of a stream's account."""

    @property
    def stored(self) -> IntervalSet:
        """The numbers that were stored."""

    @property
    def quarantined(self) -> IntervalSet:
        """The numbers that are kept aside."""

    @property
    def requeued(self) -> IntervalSet:
        """The numbers that came out of quarantine."""

    @property
    def lost(self) -> IntervalMap[tuple[int, bool]]:
        """Declared ranges -> (reason, at_most)."""

    @property
    def delivered_through(self) -> int:
        """As the account knows it, live."""


def undeclared(gone: Gone, streams: Mapping[bytes, StreamStates]) -> list[tuple[bytes, int, int]]:
    """(stream, first, last) of what nothing but `gone` speaks of: stored, and not delivered."""
    found = []
    for stream, first, last in gone.ranges:
        known = streams.get(stream)
        if known is None:
            continue
        open_ones = known.stored.within(max(first, known.delivered_through + 1), last)
        for settled in (known.quarantined, known.requeued, known.lost.keys()):
            open_ones = open_ones.difference(settled)
        found += [(stream, a, b) for a, b in open_ones]
    return found


def declarations(
    gone: Gone,
    lsn: int,
    streams: Mapping[bytes, StreamStates],
    *,
    sent_through_lsn: int,
    at_ms: int,
) -> list[Unreadable | Lost]:
    """The entries to append for a Gone at `lsn`. Nothing above `sent_through_lsn` ever left."""
    if gone.cause == GONE_QUOTA:
        return [
            Lost(stream, first, last, REASON_QUOTA, False, True, at_ms, 0)
            for stream, first, last in undeclared(gone, streams)
        ]
    may_be_sent = lsn <= sent_through_lsn
    reason = "unreadable in the log"
    if may_be_sent:
        reason += ", and perhaps delivered before"
    return [
        Unreadable(stream, first, last, at_ms, may_be_sent, reason)
        for stream, first, last in undeclared(gone, streams)
    ]
