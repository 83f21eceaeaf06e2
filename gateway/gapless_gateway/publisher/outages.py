"""Outages of the broker: from its loss to the last record of the backlog delivered.

An outage is a pair of entries in the log. A loss during the drain extends the open one, and so
does a crash: the log's account still has it open when the gateway starts again.
"""

from __future__ import annotations

from collections.abc import Callable

from gapless_gateway.wal.entries import Outage


class Outages:
    """Appends the entries, and gives the id that records carry while the broker is away."""

    def __init__(self, append: Callable[[Outage], int], *, last_id: int, open_id: int) -> None:
        """`last_id`: the highest id in the log, 0 none. `open_id`: not yet ended, 0 none."""
        self._append = append
        self._last_id = last_id
        self._open_id = open_id
        self._backlog_end_lsn: int | None = None  # None: the broker is away, or no outage is open

    @property
    def open_id(self) -> int:
        """The outage whose backlog is not delivered yet, or 0."""
        return self._open_id

    @property
    def current_id(self) -> int:
        """What a record appended now carries as its outage: the id while the broker is away.

        Once the broker is back this is 0 again: what comes in from then on is not of the backlog.
        """
        return self._open_id if self._backlog_end_lsn is None else 0

    def lost(self, cause: str, at_ms: int, pending: int) -> None:
        """The broker is away: begin an outage, or extend the one whose backlog is draining."""
        self._backlog_end_lsn = None
        if self._open_id:
            return
        self._last_id += 1
        self._open_id = self._last_id
        self._append(Outage(self._open_id, True, at_ms, cause, pending))

    def reconnected(self, backlog_end_lsn: int) -> None:
        """The broker is back. Entries up to `backlog_end_lsn` are the backlog to deliver."""
        if self._open_id:
            self._backlog_end_lsn = backlog_end_lsn

    def is_drained(self, resume_lsn: int) -> bool:
        """Whether all of the backlog is below `resume_lsn`, that is delivered."""
        return self._backlog_end_lsn is not None and resume_lsn > self._backlog_end_lsn

    def ended(self, at_ms: int, pending: int) -> None:
        """The backlog is delivered."""
        self._append(Outage(self._open_id, False, at_ms, "backlog delivered", pending))
        self._open_id = 0
        self._backlog_end_lsn = None
