"""Append, commit, read, rotate, retire: on the real disk."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gapless_gateway.wal.disk import OsDisk, OsReader
from gapless_gateway.wal.entries import Stopped
from gapless_gateway.wal.errors import WalInUse, WalNotWritable, WalTooNew
from gapless_gateway.wal.log import Log
from gapless_gateway.wal.reader import Corruption, Entry, read_directory
from tests.support.simulated_disk import SimulatedDisk
from tests.support.wal_history import (
    History,
    live,
    open_log,
    read_all,
    record,
    run,
    session,
)


def real_log(tmp_path: Path, segment_bytes_max: int = 2048) -> Log:
    return open_log(OsDisk(), state_dir=tmp_path / "state", segment_bytes_max=segment_bytes_max)


def test_only_what_was_committed_and_applied_is_read(tmp_path: Path) -> None:
    log = real_log(tmp_path)
    log.append(run(log, 1))
    assert (log.durable_lsn, log.next_lsn, log.read(1, 10)) == (0, 2, [])
    assert log.commit() == 1
    assert log.read(1, 10) == [], "not yet in the account"
    ((lsn, entry),) = log.apply_committed()
    assert log.read(1, 10) == [(lsn, entry)]
    assert log.apply_committed() == []
    assert log.commit() == 1, "nothing to commit"
    log.close()


def test_one_batch_is_one_write_and_one_sync() -> None:
    disk = SimulatedDisk()
    log = open_log(disk, segment_bytes_max=1 << 20)
    before = len(disk.trace)
    for seq in range(1, 501):
        log.append(record(seq))
    assert len(disk.trace) == before, "append touches no disk"
    log.commit()
    assert [call.split()[0] for call in disk.trace[before:]] == ["write", "fdatasync"]


def test_names_are_synced_when_files_appear_and_before_anything_is_built_on_them() -> None:
    disk = SimulatedDisk()
    live(disk, History())
    for index, call in enumerate(disk.trace):
        if call.startswith(("rename", "unlink")):
            assert disk.trace[index + 1].startswith("fsync_directory"), call
        if call.startswith("rename"):
            assert disk.trace[index - 1].startswith("fdatasync"), call
        if call.startswith("unlink"):
            assert disk.trace[index - 1] == "fdatasync ledger", call


def test_reading_goes_on_across_rotations_and_retired_segments(tmp_path: Path) -> None:
    log, history = real_log(tmp_path), History()
    history.commit(log, run(log, 1), session(1))
    seq, read = 0, log.read(1, 100)
    for _ in range(40):
        seq += 2
        history.commit(log, record(seq - 1), record(seq))
        for limit in (1, 7):
            read += log.read(read[-1][0] + 1, limit)
        if seq % 16 == 0:
            history.retire(log, read[-1][0])
    assert [lsn for lsn, _ in read] == list(range(1, log.next_lsn))
    assert dict(read) == history.appended
    assert log.first_lsn > 1
    assert log.read(1, 1)[0][0] == log.first_lsn, "begins with the oldest that is left"
    log.close()
    assert log.first_lsn == real_log(tmp_path).first_lsn


def test_a_segment_stays_within_its_maximum(tmp_path: Path) -> None:
    maximum = 64 * 1024
    log, history = real_log(tmp_path, maximum), History()
    history.commit(log, run(log, 1), session(1))
    for seq in range(1, 801):
        history.commit(log, record(seq))
    sizes = [path.stat().st_size for path in (tmp_path / "state/wal").iterdir()]
    assert len(sizes) > 3
    assert max(sizes) <= maximum
    log.close()


def test_recovery_reads_one_segment_and_the_account_is_the_same(tmp_path: Path) -> None:
    log, history = real_log(tmp_path, 16 * 1024), History()
    history.commit(log, run(log, 1), session(1))
    for seq in range(1, 301):
        history.commit(log, record(seq))
    history.commit(log, Stopped(5, 1))
    account = log.account.snapshot()
    log.close()

    class CountingDisk(OsDisk):
        read_bytes = 0

        def read(self, path: Path, offset: int = 0, length: int | None = None) -> bytes:
            data = super().read(path, offset, length)
            CountingDisk.read_bytes += len(data) if path.parent.name == "wal" else 0
            return data

        def open_reader(self, path: Path) -> OsReader:
            return CountingReader(super().open_reader(path)._descriptor)

    class CountingReader(OsReader):
        def read(self, offset: int, length: int | None = None) -> bytes:
            data = super().read(offset, length)
            CountingDisk.read_bytes += len(data)
            return data

    names = sorted((tmp_path / "state/wal").iterdir())
    assert len(names) >= 8
    again = open_log(CountingDisk(), state_dir=tmp_path / "state", segment_bytes_max=16 * 1024)
    assert again.account.snapshot() == account
    assert again.recovered.previous_clean
    # The newest segment at most three times (header, scan, copy), and a fixed header of each other.
    assert CountingDisk.read_bytes <= 3 * names[-1].stat().st_size + 100 * len(names) + 1000
    again.close()


def test_appending_goes_on_while_a_batch_is_on_its_way_to_the_disk(tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    class SlowDisk(SimulatedDisk):
        slow = False

        def _call(self, words: str) -> None:
            if self.slow and words.startswith("fdatasync"):
                entered.set()
                assert leave.wait(30)
            super()._call(words)

    disk = SlowDisk()
    log = open_log(disk)
    log.append(run(log, 1))
    disk.slow = True
    committing = threading.Thread(target=log.commit)
    committing.start()
    assert entered.wait(30)
    assert log.append(record(1)) == 2
    assert (log.durable_lsn, log.apply_committed()) == (0, [])
    leave.set()
    committing.join(30)
    assert log.durable_lsn == 1, "what came after the batch was formed waits for the next"
    assert log.commit() == 2
    log.apply_committed()
    assert [lsn for lsn, _ in read_all(log)] == [1, 2]


def test_a_second_gateway_on_the_directory_is_refused_until_the_first_is_gone(
    tmp_path: Path,
) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom gapless_gateway.wal.log import Log\n"
        "log = Log.open(Path(sys.argv[1]))\nprint('open', flush=True)\nsys.stdin.read()\n"
    )
    state_dir = tmp_path / "state"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(state_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "open\n"
        files = {path: path.stat().st_mtime_ns for path in state_dir.rglob("*")}
        with pytest.raises(WalInUse, match=str(state_dir)):
            Log.open(state_dir)
        assert {path: path.stat().st_mtime_ns for path in state_dir.rglob("*")} == files
        first.kill()
    Log.open(state_dir).close()


def test_a_directory_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    # Root may write wherever there is a disk; nobody may make a folder in /proc.
    parent = tmp_path if os.geteuid() != 0 else Path("/proc/self")
    try:
        with pytest.raises(WalNotWritable, match=str(parent)):
            Log.open(parent / "state")
    finally:
        tmp_path.chmod(0o700)


def test_a_state_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(WalNotWritable, match="cannot be used"):
        Log.open(tmp_path / "state")
    assert (tmp_path / "state").read_text() == "a file"


def test_a_refused_directory_is_free_again(tmp_path: Path) -> None:
    log = real_log(tmp_path)
    log.close()
    path = next((tmp_path / "state/wal").iterdir())
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + b"\xff\xff" + whole[10:])
    with pytest.raises(WalTooNew):
        real_log(tmp_path)
    path.write_bytes(whole)
    real_log(tmp_path).close()


def test_a_reader_follows_a_log_that_is_being_written_rotated_and_retired(tmp_path: Path) -> None:
    log, history = real_log(tmp_path), History()
    history.commit(log, run(log, 1), session(1))
    for seq in range(1, 21):
        history.commit(log, record(seq))
    reading = read_directory(tmp_path / "state")
    found = [next(reading) for _ in range(4)]
    for seq in range(21, 61):
        history.commit(log, record(seq))
        log.append(record(1000))  # what is not committed is not there
        log._pending.clear()
        log._pending_entries.clear()
        log._next_lsn = log._batch_first_lsn
    history.retire(log, log.next_lsn - 3)
    found += list(reading)
    assert not [item for item in found if isinstance(item, Corruption)]
    entries = {item.lsn: item.entry for item in found if isinstance(item, Entry)}
    assert max(entries) == log.durable_lsn
    assert all(history.appended[lsn] == entry for lsn, entry in entries.items())
    log.close()
