"""What the publisher writes down about once a second: Progress, the cursor, the send mark.

The order is what keeps the promises. A send mark is stored before anything beyond it leaves. The
cursor is stored before a segment below it is freed. Both block, so they run in a worker thread,
one at a time; only this task touches the cursor's fields.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.publisher.delivery import Delivery
from gapless_gateway.publisher.metrics import PublisherMetrics
from gapless_gateway.publisher.parts import LogView, StreamView
from gapless_gateway.publisher.settings import PublisherSettings
from gapless_gateway.wal.entries import Entry, Progress
from gapless_gateway.wal.errors import WalFull

Row = tuple[bytes, int, int, int, int]


class Bookkeeping:
    """Writes what delivery has come to; `run` is a task of the publisher."""

    def __init__(
        self,
        *,
        log: LogView,
        delivery: Delivery,
        settings: PublisherSettings,
        metrics: PublisherMetrics,
        run: int,
        append: Callable[[Entry], int],
        clock_ms: Callable[[], int],
        on_mark: Callable[[int], None],
        on_period: Callable[[], None],
    ) -> None:
        """`on_mark` is told each send mark once it is stored; `on_period` every period."""
        self._log = log
        self._delivery = delivery
        self._settings = settings
        self._metrics = metrics
        self._run = run
        self._append = append
        self._clock_ms = clock_ms
        self._on_mark = on_mark
        self._on_period = on_period
        self._mark_wanted = asyncio.Event()
        self._ending = False
        self._rows: dict[bytes, Row] = {one: _row(view) for one, view in self._streams()}
        self._pending = self.pending()
        self._last_progress_ms = 0
        self._is_stored = True  # what the cursor's fields say

    def want_mark(self) -> None:
        """Sending waits for a higher mark."""
        self._mark_wanted.set()

    def pending(self) -> int:
        """How many records are durable and not delivered, by the account."""
        return sum(view.pending_gateway.count() for _, view in self._streams())

    async def run(self) -> None:
        """Write things down every period, and a send mark whenever one is wanted, until `end`."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._settings.bookkeeping_period_s
        while not self._ending:
            try:
                async with asyncio.timeout_at(due):
                    await self._mark_wanted.wait()
            except TimeoutError:
                due = loop.time() + self._settings.bookkeeping_period_s
                self.note_progress()
                self._on_period()
            self._mark_wanted.clear()
            await self._store(self._mark_to_reserve())

    def end(self) -> None:
        """Let `run` return; what it is storing is stored to the end."""
        self._ending = True
        self._mark_wanted.set()

    async def finish(self) -> None:
        """The last words of a clean stop, after `run`: only what left stays below the mark."""
        self.note_progress()
        await self._store(self._delivery.may_have_been_sent)

    def note_progress(self) -> None:
        """Append a Progress entry if anything changed since the last one, and there is room."""
        if self._log.stuck:
            return  # it would wait in memory, and another one after it, for as long as that lasts
        durable, delivered = self._metrics.take_histograms()
        pending = self._metrics.pending = self.pending()
        rows = {one: _row(view) for one, view in self._streams()}
        changed = tuple(row for one, row in rows.items() if row != self._rows.get(one))
        if not (changed or durable or delivered or pending != self._pending):
            return
        self._rows, self._pending = rows, pending
        at_ms = self._clock_ms()
        if at_ms == self._last_progress_ms:  # two of them must not look like one told twice
            at_ms += 1
        self._last_progress_ms = at_ms
        self._append(Progress(at_ms, self._run, changed, durable, delivered, pending))

    def _mark_to_reserve(self) -> int:
        """The mark of the next block once the one before it is used up to half."""
        mark, block = self._log.cursor.send_mark_lsn, self._settings.send_mark_block_lsns
        if self._delivery.next_lsn + block // 2 > mark and self._more_to_send():
            return self._delivery.next_lsn + block
        return mark

    def _more_to_send(self) -> bool:
        return self._delivery.next_lsn <= self._log.durable_lsn

    async def _store(self, send_mark_lsn: int) -> None:
        cursor, resume_lsn = self._log.cursor, self._delivery.resume_lsn
        state = (resume_lsn, send_mark_lsn, self._delivery.delivered_through)
        stored = (cursor.resume_lsn, cursor.send_mark_lsn, cursor.delivered_through)
        if self._is_stored and state == stored and not self._log.can_retire(resume_lsn):
            self._on_mark(send_mark_lsn)
            return
        cursor.resume_lsn = resume_lsn
        cursor.send_mark_lsn = send_mark_lsn
        cursor.delivered_through = dict(self._delivery.delivered_through)
        quarantined = {
            one: view.quarantined.copy() for one, view in self._streams() if view.quarantined
        }
        self._is_stored = False
        await asyncio.to_thread(self._store_and_retire, resume_lsn, quarantined)
        if self._is_stored:
            self._on_mark(send_mark_lsn)

    def _store_and_retire(self, resume_lsn: int, quarantined: dict[bytes, IntervalSet]) -> None:
        # Delivered before free: the cursor says on disk that all below resume_lsn is delivered, and
        # only then may the log let go of it. A full disk puts both off.
        with contextlib.suppress(WalFull):
            self._log.cursor.store()
            self._is_stored = True
            self._log.retire(resume_lsn, quarantined)

    def _streams(self) -> list[tuple[bytes, StreamView]]:
        return list(self._log.account.streams.items())


def _row(view: StreamView) -> Row:
    live = view.live
    return (
        view.stream,
        view.delivered_through,
        live.suppressed,
        live.redelivered,
        live.unverifiable,
    )
