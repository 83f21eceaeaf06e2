"""A power cut at every single system call of a short history, and what must hold after it."""

from __future__ import annotations

import contextlib
import errno

import pytest

from gapless_gateway.wal.entries import Stopped
from gapless_gateway.wal.errors import WalFailed, WalFull, WalNotWritable
from tests.support.simulated_disk import PowerCutError, SimulatedDisk
from tests.support.wal_history import History, live, open_log, read_all, record, run

KEEPS = [("none", 0), ("all", 0)] + [("random", seed) for seed in range(6)]


def calls_of_a_whole_life() -> int:
    disk = SimulatedDisk()
    live(disk, History())
    return disk.calls


def test_the_history_has_rotations_and_retired_segments_in_it() -> None:
    disk = SimulatedDisk()
    live(disk, History())
    assert sum(call.startswith("rename") and call.endswith(".wal") for call in disk.trace) >= 4
    assert any(call.startswith("unlink") for call in disk.trace)


@pytest.mark.parametrize(("keep", "seed"), KEEPS)
def test_what_was_acked_survives_a_power_cut_at_every_system_call(keep: str, seed: int) -> None:
    for call in range(1, calls_of_a_whole_life() + 1):
        disk, history = SimulatedDisk(), History()
        disk.power_cut_at = call
        disk.rng.seed(seed * 10_000 + call)
        with pytest.raises(PowerCutError):
            live(disk, history)
        where = f"power cut at call {call} ({disk.trace[-1]}), keep {keep}, seed {seed}"
        disk = disk.after_power_cut(seed * 10_000 + call, keep)
        log = open_log(disk)
        found = history.check(log)

        # A second recovery, with whatever the first one left un-synced gone, changes nothing.
        again = disk.after_power_cut(call, "none")
        second = open_log(again)
        assert read_all(second) == found, where
        assert second.recovered.torn_bytes == 0, where
        assert second.account.snapshot() == log.account.snapshot(), where

        # And life goes on.
        history.commit(second, run(second, 2), record(900))
        again = again.after_power_cut(call, "none")
        assert read_all(open_log(again))[-1][1] == record(900), where


def test_a_power_cut_during_recovery_loses_nothing_either() -> None:
    disk, history = SimulatedDisk(), History()
    disk.power_cut_at = calls_of_a_whole_life() - 3
    with pytest.raises(PowerCutError):
        live(disk, history)
    calls, call = 1_000_000, 0
    while call < calls:
        call += 1
        crashed = disk.after_power_cut(7, "random")
        crashed.power_cut_at = call
        try:
            open_log(crashed)
        except PowerCutError:
            history.check(open_log(crashed.after_power_cut(call, "random")))
        else:
            calls = crashed.calls
    assert call > 10


def test_a_killed_process_loses_nothing_that_was_written() -> None:
    disk, history = SimulatedDisk(), History()
    disk.power_cut_at = calls_of_a_whole_life() - 4
    with pytest.raises(PowerCutError):
        live(disk, history)
    history.check(open_log(disk.after_kill()))


def test_a_failed_call_anywhere_stops_for_good_and_loses_nothing_acked() -> None:
    for number in (errno.EIO, errno.ENOSPC):
        for call in range(1, calls_of_a_whole_life() + 1):
            disk, history = SimulatedDisk(), History()
            disk.fail_at = {call: number}
            with contextlib.suppress(WalFailed, WalFull, WalNotWritable):
                live(disk, history)
            # The process restarts on the same kernel: the cache shows what the disk may not have.
            log = open_log(disk.after_kill())
            found = history.check(log)
            after = open_log(disk.after_power_cut(call, "none"))
            assert read_all(after) == found, "what recovery built on was only in the page cache"


def test_after_a_failed_sync_nothing_is_committed_any_more() -> None:
    disk, history = SimulatedDisk(), History()
    log = open_log(disk)
    history.commit(log, run(log, 1))
    log.append(record(1))
    disk.fail_at = {disk.calls + 2: errno.EIO}  # the write, then the sync
    with pytest.raises(WalFailed):
        log.commit()
    assert log.failed is not None
    with pytest.raises(WalFailed):
        log.commit()
    with pytest.raises(WalFailed):
        log.append(Stopped(1, 1))
    assert log.durable_lsn == 1
    assert log.apply_committed() == []


def test_a_failed_cursor_store_keeps_the_older_state_and_stops_for_good() -> None:
    disk, history = SimulatedDisk(), History()
    log = open_log(disk)
    history.commit(log, run(log, 1), record(1), record(2))
    history.store_cursor(log, 2, 3, 1)
    log.cursor.resume_lsn = 3
    disk.fail_at = {disk.calls + 2: errno.EIO}
    with pytest.raises(WalFailed):
        log.cursor.store()
    with pytest.raises(WalFailed):
        log.cursor.store()
    again = open_log(disk.after_power_cut(1, "none"))
    assert again.cursor.resume_lsn == 2
