"""How much may come in: credit by the room on the disk, and what to do when there is none.

    room on the disk        credit of a board (records beyond what is durable)
    plenty                  1024
    less                    what surely fits, shared by the boards
    none                    0: boards hold what they have; delivery goes on and makes room

`on_full = "drop-oldest"` makes room itself: the oldest segment that was never sent is replaced by
one that says, in the place of its records, that they are gone for want of room; LOST(quota)
follows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Literal

from gapless_gateway.committer import Committer
from gapless_gateway.wal.entries import REASON_QUOTA, Lost
from gapless_gateway.wal.errors import WalError
from gapless_gateway.wal.log import Log

# How many seqs beyond the durable one a board may send unasked. Bounds what lies in memory.
CREDIT_WINDOW_SEQS = 1024
CREDIT_WINDOW_SEQS_MIN = 16  # less is none: no dribbling of single records into the last bytes
# What a record takes up in the log at most: RECORD_BYTES_MAX of the link, and what is around it.
RECORD_COST_BYTES = 640
LOOK_PERIOD_S = 0.25
COUNT_PERIOD_S = 10.0  # without a ceiling, the bytes of all files are for the metrics only
# A segment is dropped before the room is quite gone, so that boards need not be held meanwhile.
DROP_BELOW_BYTES = 2 * CREDIT_WINDOW_SEQS * RECORD_COST_BYTES

OnFull = Literal["hold", "drop-oldest"]

log = logging.getLogger("gapless.intake")


class Intake:
    """Watches the room. `run` is a task of the daemon; all methods are for the event loop."""

    def __init__(
        self,
        wal: Log,
        committer: Committer,
        *,
        on_full: OnFull,
        boards: int,
        outage_id: Callable[[], int],
        clock_ms: Callable[[], int],
    ) -> None:
        """`boards`: how many may share the room."""
        self._wal = wal
        self._committer = committer
        self._on_full = on_full
        self._boards = max(1, boards)
        self._outage_id = outage_id
        self._clock_ms = clock_ms
        self._on_changed: list[Callable[[], None]] = []
        self._on_dropped: list[Callable[[], None]] = []
        self._declared_lsn = 0  # of the last LOST that was appended for what was dropped
        self.used_bytes = wal.space.used_bytes()
        self._measured_room_bytes = wal.space.room_bytes(self.used_bytes)
        self._counted_s = time.monotonic()
        self._written_bytes = wal.written_bytes
        self._told_seqs = self.window_seqs  # what `call_on_changed` was called for
        self.segments_dropped = 0

    @property
    def room_bytes(self) -> int:
        """How much more may be written, as far as is known; negative: too much was."""
        return self._measured_room_bytes - (self._wal.written_bytes - self._written_bytes)

    @property
    def window_seqs(self) -> int:
        """How many seqs beyond the durable one a board may send now."""
        if self._committer.full:
            return 0
        fits = self.room_bytes // (RECORD_COST_BYTES * self._boards)
        return min(CREDIT_WINDOW_SEQS, fits) if fits >= CREDIT_WINDOW_SEQS_MIN else 0

    @property
    def full(self) -> bool:
        """Whether boards hold their records because there is no room for them."""
        return self.window_seqs == 0

    def call_on_changed(self, callback: Callable[[], None]) -> None:
        """Call `callback()` whenever the window has changed."""
        self._on_changed.append(callback)

    def call_on_dropped(self, callback: Callable[[], None]) -> None:
        """Call `callback()` when a segment has lost its records, and reading may go on."""
        self._on_dropped.append(callback)

    async def run(self) -> None:
        """Look at the room again and again, until cancelled or the log fails."""
        while self._committer.failed is None:
            await self.look()
            await asyncio.sleep(LOOK_PERIOD_S)

    async def look(self) -> None:
        """Look once: make room if that is allowed, and set the credit."""
        await asyncio.to_thread(self._measure)
        while self._on_full == "drop-oldest" and self._wants_room() and await self._drop_oldest():
            await asyncio.to_thread(self._measure)
        self._let_reading_go_on()
        if self._committer.full or self.room_bytes <= 0:
            self._let_the_newest_go()
        self._committer.retry()
        self._set_window()

    def _wants_room(self) -> bool:
        return self.room_bytes < DROP_BELOW_BYTES

    def _measure(self) -> None:
        # The reserve first: nothing is committed meanwhile that found no room before.
        space = self._wal.space
        space.make_reserve()
        now_s = time.monotonic()
        if space.has_quota or now_s - self._counted_s >= COUNT_PERIOD_S:
            self.used_bytes, self._counted_s = space.used_bytes(), now_s
        self._written_bytes = self._wal.written_bytes
        self._measured_room_bytes = space.room_bytes(self.used_bytes)

    def _set_window(self) -> None:
        window, before = self.window_seqs, self._told_seqs
        if window == before:
            return
        self._told_seqs = window
        if window == 0:
            log.warning(
                "no room for records: the boards hold theirs until there is",
                extra={"room_bytes": self.room_bytes, "used_bytes": self.used_bytes},
            )
        elif before == 0:
            log.warning("there is room for records again", extra={"room_bytes": self.room_bytes})
        for on_changed in self._on_changed:
            on_changed()

    def _let_the_newest_go(self) -> None:
        """A segment is freed only when another one has begun: begin one if all is delivered."""
        if (
            self._wal.cursor.resume_lsn > self._wal.newest_first_lsn
            and self._wal.newest_is_worth_it
        ):
            self._wal.begin_new_segment()

    # Dropping

    async def _drop_oldest(self) -> bool:
        """Drop the records of the oldest segment that never left; then have them declared LOST.

        The Gone that takes their place is the declaration on the disk, in one step with the drop,
        and needs next to no room. The LOST entries bring the account to know of it; on a disk that
        is full they may have to wait until more was dropped, behind the records that wait too.
        """
        wal = self._wal
        first_lsn = wal.upkeep.droppable(wal.cursor.send_mark_lsn)
        if first_lsn is None:
            return False
        # From here on nothing of it is read, so nothing of it can leave.
        barrier_lsn = wal.barrier_lsn
        wal.barrier_lsn = first_lsn if barrier_lsn is None else min(barrier_lsn, first_lsn)
        try:
            ranges = await asyncio.to_thread(wal.upkeep.drop, first_lsn)
        except (WalError, OSError) as error:
            log.error("the oldest segment cannot be dropped", extra={"reason": str(error)})
            wal.barrier_lsn = barrier_lsn
            return False
        records = self._declare(ranges)
        if not ranges:
            return True  # there were no records in it; the next one may have some
        self.segments_dropped += 1
        log.warning(
            "the disk is full: the oldest records that were never sent are declared lost",
            extra={"first_lsn": first_lsn, "records": records},
        )
        return True

    def _declare(self, ranges: list[tuple[bytes, int, int]]) -> int:
        """Append a LOST(quota) for each range; returns how many records they are."""
        records = 0
        for stream, first, last in ranges:
            known = self._wal.account.streams[stream]
            undelivered = known.stored.within(max(first, known.delivered_through + 1), last)
            for a, b in undelivered.difference(known.quarantined).difference(known.requeued):
                self._declared_lsn = self._committer.append(
                    Lost(
                        stream, a, b, REASON_QUOTA, False, True,
                        self._clock_ms(), self._outage_id(),
                    )
                )  # fmt: skip
                records += b - a + 1
        return records

    def _let_reading_go_on(self) -> None:
        """Once the account knows what was dropped, it may be told in its place."""
        if self._wal.barrier_lsn is not None and self._committer.applied_lsn >= self._declared_lsn:
            self._wal.barrier_lsn = None
            for on_dropped in self._on_dropped:
                on_dropped()
