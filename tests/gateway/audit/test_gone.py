"""An audit of a log in which something is gone: declared, it is no failure; hidden, it is one."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from gapless_gateway.wal.disk import OsDisk
from gapless_gateway.wal.entries import REASON_QUOTA, Lost, Progress, Record, Stopped
from gapless_gateway.wal.log import Log
from gapless_gateway.wal.reader import Entry, read_directory
from gapless_tools.audit.run import run_audit
from gapless_tools.wal_command import command
from tests.support.wal_history import STREAM, History, open_log, record, run, session


def backlog(state_dir: Path) -> tuple[Log, History]:
    """Eight segments that nobody has read, and the log still open."""
    log, history = open_log(OsDisk(), state_dir=state_dir), History()
    history.commit(log, run(log, 1), session(1))
    for seq in range(1, 31):
        history.commit(log, record(seq))
    assert len(list((state_dir / "wal").iterdir())) >= 6
    return log, history


def deliver_all(log: Log, history: History) -> None:
    history.commit(log, Progress(99, log.account.run, ((STREAM, 30, 0, 0, 0),), (), (), 0))
    history.store_cursor(log, log.next_lsn, log.next_lsn, 30)


def spoil(state_dir: Path, seq: int) -> None:
    for path in (state_dir / "wal").iterdir():
        for item in list(read_directory(state_dir)):
            record_of = item.entry if isinstance(item, Entry) else None
            first = int(path.stem, 16)
            if isinstance(record_of, Record) and record_of.seq == seq and first <= item.lsn:
                holder = max(
                    one for one in (state_dir / "wal").iterdir() if int(one.stem, 16) <= item.lsn
                )
                data = bytearray(holder.read_bytes())
                data[item.offset + 40] ^= 1
                holder.write_bytes(data)
                return


@pytest.mark.parametrize("seq", [3, 12, 28])
def test_damage_that_was_not_repaired_fails_and_names_us(tmp_path: Path, seq: int) -> None:
    log, history = backlog(tmp_path)
    history.commit(log, Stopped(100, 1))
    log.close()
    spoil(tmp_path, seq)
    result = run_audit([tmp_path])
    assert result.verdict.word == "FAIL"
    assert result.verdict.culprits == ("us",)


@pytest.mark.parametrize("seq", [3, 12, 28])
def test_what_was_repaired_and_given_up_is_declared_lost_and_passes(
    tmp_path: Path, seq: int
) -> None:
    log, history = backlog(tmp_path)
    history.commit(log, Stopped(100, 1))
    log.close()
    spoil(tmp_path, seq)
    done = CliRunner().invoke(command, ["repair", str(tmp_path)])
    assert done.exit_code == 0, done.exception
    result = run_audit([tmp_path])
    assert result.verdict.word == "PASS", result.evidence["reasons"]
    (stream,) = result.evidence["streams"]
    assert stream["quarantined"] == [{"first": seq, "last": seq}]
    done = CliRunner().invoke(command, ["repair", str(tmp_path), "--discard", "all"])
    assert done.exit_code == 0, done.exception
    result = run_audit([tmp_path])
    assert result.verdict.words == "PASS, 1 declared lost (at most 0 more)"
    (stream,) = result.evidence["streams"]
    assert stream["lost"] == [{"first": seq, "last": seq, "reason": "corruption", "at_most": False}]
    assert result.evidence["books"][0]["gone_entries"] == 1
    assert stream["unexplained"] == 0


def test_what_was_dropped_for_want_of_room_is_declared_lost_and_passes(tmp_path: Path) -> None:
    log, history = backlog(tmp_path)
    first_lsn = log.upkeep.droppable(0)
    assert first_lsn is not None
    size = (tmp_path / "wal" / f"{first_lsn:016x}.wal").stat().st_size
    ranges = log.upkeep.drop(first_lsn)
    assert (tmp_path / "wal" / f"{first_lsn:016x}.wal").stat().st_size < size
    count = sum(last - first + 1 for _, first, last in ranges)
    history.commit(log, *(Lost(one, a, b, REASON_QUOTA, False, True, 9, 0) for one, a, b in ranges))
    deliver_all(log, history)
    history.commit(log, Stopped(100, 1))
    log.close()
    result = run_audit([tmp_path])
    assert result.verdict.words == f"PASS, {count} declared lost (at most 0 more)", result.evidence[
        "reasons"
    ]
    (stream,) = result.evidence["streams"]
    assert stream["delivered"] == 30 - count


def test_what_was_dropped_and_a_crash_left_undeclared_is_pending_and_never_unexplained(
    tmp_path: Path,
) -> None:
    log, _ = backlog(tmp_path)
    first_lsn = log.upkeep.droppable(0)
    assert first_lsn is not None
    log.upkeep.drop(first_lsn)
    log.close()
    result = run_audit([tmp_path])
    assert result.verdict.word == "PASS", result.evidence["reasons"]
    (stream,) = result.evidence["streams"]
    assert (stream["pending_gateway"], stream["unexplained"]) == (30, 0)
    done = CliRunner().invoke(command, ["repair", str(tmp_path)])
    assert done.exit_code == 0, done.exception
    result = run_audit([tmp_path])
    (stream,) = result.evidence["streams"]
    assert stream["lost"][0]["reason"] == "quota", "declared by whoever meets it next"
