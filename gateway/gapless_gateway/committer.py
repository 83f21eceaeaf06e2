"""Group commit: what was appended while one batch was being synced makes up the next batch.

One writer, one batch in flight: one write, one fdatasync in a worker thread, then, back on the
event loop, the account takes the batch in and everyone who waits for durability is called. There
is no Future per record; a record costs an append, and a commit costs one wake-up.

The disk does not wait for the event loop: behind each commit another one is queued in the worker
thread, which takes what has come in by then. So a batch is folded and acknowledged while the next
one is being synced. Only a full segment makes the worker wait, since its end is a snapshot of the
account.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from gapless_gateway.wal.entries import Entry
from gapless_gateway.wal.errors import WalFailed, WalFull

# How long the worker thread may have to wait for the interpreter's lock after a write or a sync,
# while the event loop decodes: Python's own 5 ms are longer than most syncs.
SWITCH_INTERVAL_S = 0.0001

Batch = Sequence[tuple[int, Entry]]  # (lsn, entry), in order

log = logging.getLogger("gapless.committer")


class CommitLog(Protocol):
    """What the committer needs of `wal.Log`."""

    @property
    def next_lsn(self) -> int:
        """The LSN that the next append gets."""

    def append_many(self, entries: Sequence[Entry]) -> int:
        """Take entries into memory; returns the LSN of the last."""

    @property
    def must_apply_first(self) -> bool:
        """Whether the next commit has to wait for `apply_committed`."""

    def commit(self) -> int:
        """Write and sync everything appended so far; blocks; returns the durable LSN."""

    def apply_committed(self) -> Batch:
        """Fold the committed batch into the account; returns it."""


class Committer:
    """Commits what is appended, and tells who waits. All methods are for the event loop's thread.

    After a failed commit nothing is taken in any more, for good: what the disk holds is no longer
    known. `failed` then says why, appends are dropped and counted, and the process stays up so
    that a person can see it. A disk without room is no failure: `full` is true until the batch that
    found none could be written, and it is tried again whenever `retry` says so.
    """

    def __init__(self, wal: CommitLog, *, linger_ms: int = 0) -> None:
        self._wal = wal
        self._linger_s = linger_ms / 1000
        self.applied_lsn = wal.next_lsn - 1  # durable, and in the account
        self._durable_lsn = self.applied_lsn  # this and the next are the worker thread's
        self._gave_up = False
        self._queued: asyncio.Future[bool] | None = None  # the commit behind the one in flight
        self._wake = asyncio.Event()
        self._finishing = False
        self._leaving = False
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()  # (lsn, callback) by lsn
        self._on_durable: list[Callable[[Batch], None]] = []
        self._on_failed: list[Callable[[str], None]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="wal-commit")
        self.failed: str | None = None
        self.full = False  # a batch waits for room on the disk
        self._retry = asyncio.Event()
        self.dropped = 0  # entries appended after the failure
        self.commits = 0

    @property
    def next_lsn(self) -> int:
        """The LSN that the next append gets."""
        return self._wal.next_lsn

    def append(self, entry: Entry) -> int:
        """Append an entry and see to it that it is committed; returns its LSN.

        After a failure the entry is dropped and 0 is returned: nothing promised it to anyone.
        """
        return self.append_many((entry,))

    def append_many(self, entries: Sequence[Entry]) -> int:
        """Append entries, in order, as `append` does each; returns the LSN of the last, or 0."""
        if self.failed is not None:
            self.dropped += len(entries)
            return 0
        try:
            lsn = self._wal.append_many(entries)
        except WalFailed as error:  # in the commit on its way, or in freeing a segment
            self.dropped += len(entries)
            asyncio.get_running_loop().call_soon(self._fail, error)
            self._wake.set()
            return 0
        self._wake.set()
        return lsn

    def call_on_durable(self, callback: Callable[[Batch], None]) -> None:
        """Call `callback(batch)` after every commit."""
        self._on_durable.append(callback)

    def call_on_failed(self, callback: Callable[[str], None]) -> None:
        """Call `callback(words)` once, when a commit has failed."""
        self._on_failed.append(callback)

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Call `callback` once everything appended so far is durable and in the account.

        Also called after a failure (look at `failed`); never called before this returns.
        """
        target_lsn = self._wal.next_lsn - 1
        if self.failed is not None or target_lsn <= self.applied_lsn:
            asyncio.get_running_loop().call_soon(callback)
        else:
            self._waiting.append((target_lsn, callback))

    async def flush(self) -> None:
        """Wait until everything appended so far is durable, or the log has failed.

        While the gateway finishes it does not wait for a disk that is full either.
        """
        done = asyncio.Event()
        self.when_durable(done.set)
        await done.wait()

    def finishing(self) -> None:
        """The gateway stops: from here on a full disk is not waited for."""
        self._leaving = True
        self._retry.set()

    def finish(self) -> None:
        """Let `run()` return once everything appended is durable, or finds no room."""
        self._finishing = self._leaving = True
        self._wake.set()
        self._retry.set()

    def retry(self) -> None:
        """There may be room on the disk now."""
        self._retry.set()

    async def run(self) -> None:
        """Commit until `finish()` is called or a commit fails."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        try:
            while self.failed is None:
                if self._pending():
                    await self._commit_batch()
                    if self.full and not await self._may_try_again():
                        return
                elif self._finishing:
                    return
                else:
                    await self._wake.wait()
                    self._wake.clear()
                    if self._linger_s and not self._finishing:
                        await asyncio.sleep(self._linger_s)
        finally:
            self._thread.shutdown(wait=True)

    def _pending(self) -> bool:
        return self._wal.next_lsn - 1 > self.applied_lsn

    async def _commit_batch(self) -> None:
        try:
            committed = await self._committed()
        except Exception as error:
            self._fail(error)
            return
        if not committed:
            return
        self.full = False
        # Durable before ack: from here on, and not before, the entries of this batch may be
        # acknowledged to boards (PortSession.on_durable) and handed to the publisher.
        batch = self._wal.apply_committed()
        self.commits += 1
        if batch:
            self.applied_lsn = batch[-1][0]
        for on_durable in self._on_durable:
            on_durable(batch)
        while self._waiting and self._waiting[0][0] <= self.applied_lsn:
            self._waiting.popleft()[1]()

    async def _may_try_again(self) -> bool:
        """Wait for room; False when the gateway finishes: nobody was promised what waits."""
        if self._leaving:
            while self._waiting:
                self._waiting.popleft()[1]()
            if self._finishing:
                return False
        self._retry.clear()
        await self._retry.wait()
        return True

    async def _committed(self) -> bool:
        """Whether a batch is durable now; if not, there was none, or no room for it."""
        current = self._queued or self._queue_commit()
        self._queued = self._queue_commit()
        try:
            return await current
        except WalFull as error:
            if not self.full:
                log.warning("%s", error)
            self.full = True
        behind, self._queued = self._queued, None
        with contextlib.suppress(WalFull):
            return await behind
        return False

    def _queue_commit(self) -> asyncio.Future[bool]:
        return asyncio.get_running_loop().run_in_executor(self._thread, self._commit_next)

    def _commit_next(self) -> bool:
        """On the worker thread: commit what has come in; returns whether there was something."""
        nothing_new = self._wal.next_lsn - 1 <= self._durable_lsn
        if nothing_new or self._gave_up or self._wal.must_apply_first:
            return False
        try:
            self._durable_lsn = self._wal.commit()
        except WalFull:
            raise
        except BaseException:
            self._gave_up = True  # the commit behind this one is queued already
            raise
        return True

    def _fail(self, error: Exception) -> None:
        if self.failed is not None:
            return  # the news came by another way already
        self.failed = str(error) or type(error).__name__
        log.critical(
            "the log cannot be written any more; nothing is taken in until the disk is sound "
            "again and the gateway is started anew",
            extra={"reason": self.failed},
            exc_info=error,
        )
        for on_failed in self._on_failed:
            on_failed(self.failed)
        while self._waiting:
            self._waiting.popleft()[1]()
