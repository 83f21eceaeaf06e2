"""What the publisher needs of the log and its account, by name and no more.

`wal.log.Log` and `account.account.Account` have all of this; tests have small doubles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from gapless_gateway.account.intervals import IntervalMap, IntervalSet
from gapless_gateway.wal.entries import Entry


class LiveTotals(Protocol):
    """Running totals of one stream."""

    suppressed: int
    redelivered: int
    unverifiable: int


class StreamView(Protocol):
    """One stream of the account."""

    device: str
    stream: bytes
    base: int

    @property
    def durable(self) -> int:
        """The highest seq in the log."""

    @property
    def delivered_through(self) -> int:
        """As the account knows it, live."""

    @property
    def live(self) -> LiveTotals:
        """The totals that Progress entries carry."""

    @property
    def quarantined(self) -> IntervalSet:
        """The seqs that the broker refused for good, or that cannot be read any more."""

    @property
    def unreadable(self) -> IntervalMap[bool]:
        """The seqs whose bytes are gone -> whether they may have been sent."""

    @property
    def requeued(self) -> IntervalSet:
        """The seqs that came out of quarantine and are not delivered yet."""

    @property
    def stored(self) -> IntervalSet:
        """The seqs that were stored."""

    @property
    def lost(self) -> IntervalMap[tuple[int, bool]]:
        """Declared ranges -> (reason, at_most)."""

    @property
    def pending_gateway(self) -> IntervalSet:
        """The seqs that are stored and not delivered."""


class OutageView(Protocol):
    """The outage that lasts."""

    id: int


class AccountView(Protocol):
    """The account, folded over everything durable."""

    @property
    def run(self) -> int:
        """The number of this run of the gateway."""

    @property
    def streams(self) -> Mapping[bytes, StreamView]:
        """All streams by their id."""

    @property
    def outage(self) -> OutageView | None:
        """The outage that lasts, or None."""

    @property
    def outages_total(self) -> int:
        """The id of the latest outage, 0 before the first."""

    def delivered(self, stream: bytes, through: int, /) -> Any:
        """Everything of the stream up to `through` is delivered."""


class CursorView(Protocol):
    """How far delivery has come, on disk."""

    delivered_through: dict[bytes, int]
    resume_lsn: int
    send_mark_lsn: int

    def store(self) -> None:
        """Write it; blocking."""


class LogView(Protocol):
    """The log."""

    @property
    def account(self) -> AccountView:
        """Folded over everything durable."""

    @property
    def cursor(self) -> CursorView:
        """How far delivery has come."""

    @property
    def log_id(self) -> bytes:
        """The log's random id."""

    @property
    def next_lsn(self) -> int:
        """The LSN that the next entry will get."""

    @property
    def durable_lsn(self) -> int:
        """The highest LSN that is on disk."""

    @property
    def barrier_lsn(self) -> int | None:
        """Nothing from here on may leave now; None: all may."""

    @property
    def stuck(self) -> bool:
        """Whether what was appended waits for room on the disk."""

    def can_retire(self, resume_lsn: int, /) -> bool:
        """Whether there is a segment to free."""

    def read(self, from_lsn: int, limit: int, /) -> list[tuple[int, Entry]]:
        """Durable entries from there on, at most `limit`."""

    def retire(self, resume_lsn: int, quarantined: Mapping[bytes, IntervalSet], /) -> Any:
        """Free the segments whose entries are all below; records in quarantine are kept aside."""
