"""Group commit, seen through a log whose commits the test lets through one by one."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from gapless_gateway.committer import Committer
from gapless_gateway.wal.entries import Stopped
from gapless_gateway.wal.errors import WalFailed
from gapless_gateway.wal.log import Log


class StepLog:
    """Counts batches; `commit` waits for `let_one_through`."""

    def __init__(self) -> None:
        self.next_lsn = 1
        self.batches: list[list[int]] = []
        self.fails = self.fails_to_append = False
        self._pending: list[int] = []
        self._applied = 0
        self._gate = threading.Semaphore(0)

    must_apply_first = False

    def append_many(self, entries):
        if self.fails:
            raise WalFailed("the disk is gone; check the disk")
        if self.fails_to_append:
            raise WalFailed("a segment cannot be freed; check the disk")
        for _ in entries:
            self._pending.append(self.next_lsn)
            self.next_lsn += 1
        return self.next_lsn - 1

    def commit(self):
        batch, self._pending = self._pending, []
        self.batches.append(batch)
        self._gate.acquire()
        if self.fails:
            raise WalFailed("the disk is gone; check the disk")
        return batch[-1]

    def apply_committed(self):
        batch = self.batches[self._applied]
        self._applied += 1
        return [(lsn, Stopped(0, 1)) for lsn in batch]

    def let_one_through(self):
        self._gate.release()


@pytest.fixture
async def log():
    return StepLog()


@pytest.fixture
async def committer(log):
    committer = Committer(log)
    task = asyncio.create_task(committer.run())
    yield committer
    committer.finish()
    for _ in range(10):
        log.let_one_through()
    await task


def append(committer, count):
    return [committer.append(Stopped(0, 1)) for _ in range(count)]


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_what_comes_in_during_a_sync_is_the_next_batch_whole(log, committer):
    append(committer, 2)
    await until(lambda: log.batches)
    append(committer, 3)
    append(committer, 4)
    log.let_one_through()
    await until(lambda: len(log.batches) == 2)
    assert log.batches == [[1, 2], [3, 4, 5, 6, 7, 8, 9]]


async def test_nobody_is_called_before_the_sync_and_each_when_its_own_entries_are_durable(
    log, committer
):
    called = []
    committer.call_on_durable(lambda batch: called.append([lsn for lsn, _ in batch]))
    append(committer, 1)
    committer.when_durable(lambda: called.append("first"))
    await until(lambda: log.batches)
    append(committer, 1)
    committer.when_durable(lambda: called.append("second"))
    await asyncio.sleep(0)
    assert called == []
    log.let_one_through()
    await until(lambda: len(called) >= 2 and len(log.batches) == 2)
    assert called == [[1], "first"]
    log.let_one_through()
    await until(lambda: len(called) == 4)
    assert called == [[1], "first", [2], "second"]


async def test_with_nothing_pending_a_waiter_is_called_soon_and_never_at_once(committer):
    called = []
    committer.when_durable(lambda: called.append(1))
    assert called == []
    await until(lambda: called)


async def test_after_a_failure_waiters_are_told_and_entries_are_dropped_and_counted(log, committer):
    told = []
    committer.call_on_failed(told.append)
    append(committer, 1)
    committer.when_durable(lambda: told.append("waiter"))
    log.fails = True
    log.let_one_through()
    await until(lambda: len(told) == 2)
    assert told == ["the disk is gone; check the disk", "waiter"]
    assert committer.failed == told[0]
    assert append(committer, 3) == [0, 0, 0]
    assert committer.dropped == 3
    await committer.flush()  # does not hang


async def test_what_comes_in_before_the_failure_is_told_is_dropped_and_counted(log, committer):
    append(committer, 1)
    await until(lambda: log.batches)
    log.fails = True  # on the worker thread; the committer has not heard of it yet
    assert append(committer, 2) == [0, 0]
    assert (committer.failed, committer.dropped) == (None, 2)


async def test_a_log_that_failed_meanwhile_is_told_and_raises_at_nobody(log, committer):
    """In freeing a segment: nobody commits then, and a board's record is what finds it out."""
    told = []
    committer.call_on_failed(told.append)
    log.fails_to_append = True
    assert append(committer, 2) == [0, 0]
    await until(lambda: told)
    assert told == ["a segment cannot be freed; check the disk"]
    assert committer.failed == told[0]
    assert committer.dropped == 2


async def test_finish_commits_what_is_left(log):
    committer = Committer(log)
    append(committer, 5)
    committer.finish()
    log.let_one_through()
    await committer.run()
    assert log.batches == [[1, 2, 3, 4, 5]]


async def test_the_next_batch_is_on_its_way_while_the_one_before_is_told(log, committer):
    batches_begun = []
    committer.call_on_durable(lambda _: batches_begun.append(len(log.batches)))
    append(committer, 1)
    await until(lambda: log.batches)
    append(committer, 1)
    committer.call_on_durable(lambda _: time.sleep(0.05))  # the loop is busy; the disk is not
    log.let_one_through()
    await until(lambda: len(log.batches) == 2)
    log.let_one_through()
    await until(lambda: len(batches_begun) == 2)
    assert log.batches == [[1], [2]]


async def test_a_full_segment_is_ended_by_a_batch_that_is_in_the_account(log, committer):
    append(committer, 1)
    await until(lambda: log.batches)
    append(committer, 1)
    log.must_apply_first = True
    told = []
    committer.call_on_durable(lambda _: told.append(len(log.batches)))

    def rotate(_):
        log.must_apply_first = False

    committer.call_on_durable(rotate)
    log.let_one_through()
    log.let_one_through()
    await until(lambda: len(told) == 2)
    assert told == [1, 2], "the second batch began when the first was told"


async def test_the_commit_behind_a_failed_one_does_not_begin(log, committer):
    append(committer, 1)
    await until(lambda: log.batches)
    append(committer, 1)
    log.fails = True
    log.let_one_through()
    await until(lambda: committer.failed)
    await committer.flush()
    assert log.batches == [[1]]


async def test_segments_of_a_real_log_rotate_under_load(tmp_path):
    wal = Log.open(tmp_path / "state", segment_bytes_max=4096)
    committer = Committer(wal)
    task = asyncio.create_task(committer.run())
    for number in range(400):
        committer.append_many([Stopped(number, 1)] * 5)
        if number % 3 == 0:
            await asyncio.sleep(0.001)
    await committer.flush()
    committer.finish()
    await task
    wal.close()
    sizes = [one.stat().st_size for one in sorted((tmp_path / "state" / "wal").iterdir())]
    assert len(sizes) > 5
    again = Log.open(tmp_path / "state", segment_bytes_max=4096)
    assert len(again.read(1, 10_000)) == 2000
    again.close()
