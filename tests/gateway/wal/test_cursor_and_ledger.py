"""What stands beside the segments: the cursor in two slots, the ledger in one chain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gapless_gateway.wal.cursor import SLOT_BYTES, read_cursor
from gapless_gateway.wal.entries import Progress, encode_payload
from gapless_gateway.wal.errors import WalTooNew
from gapless_gateway.wal.ledger import NO_HASH, Ledger, entry_hash, read_ledger, write_ledger_file
from gapless_gateway.wal.segment import RawEntry
from gapless_gateway.wal.summary import PROGRESS_POINTS_MAX, SegmentSummary
from tests.support.simulated_disk import SimulatedDisk
from tests.support.wal_history import (
    STATE_DIR,
    STREAM,
    History,
    live,
    noticed,
    open_log,
    record,
    run,
    session,
)

CURSOR = STATE_DIR / "cursor"
LEDGER = STATE_DIR / "ledger"


def log_with_cursor() -> tuple[SimulatedDisk, History]:
    disk, history = SimulatedDisk(), History()
    log = open_log(disk)
    history.commit(log, run(log, 1), session(1), record(1), record(2), record(3))
    for resume in (3, 4):
        history.store_cursor(log, resume, 5, resume - 2)
    log.close()
    return disk, history


def newest_slot(disk: SimulatedDisk) -> int:
    cursor = read_cursor(disk, CURSOR)
    assert cursor is not None
    return cursor.generation % 2


def test_the_cursor_comes_back() -> None:
    disk, _ = log_with_cursor()
    log = open_log(disk)
    assert (log.cursor.resume_lsn, log.cursor.send_mark_lsn) == (4, 5)
    assert log.cursor.delivered_through == {STREAM: 2}
    assert log.account.streams[STREAM].delivered_through == 2


def test_a_torn_newest_slot_falls_back_to_the_older_one_whatever_byte_was_hit() -> None:
    disk, _ = log_with_cursor()
    start = newest_slot(disk) * SLOT_BYTES
    whole = bytes(disk.content(CURSOR))
    for position in range(start, start + 60):
        if 8 <= position - start < 10:
            continue  # the format number: another sentence
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        disk.spoil(CURSOR, bytes(damaged))
        cursor = read_cursor(disk, CURSOR)
        assert cursor is not None
        assert cursor.resume_lsn == 3, position


def test_each_store_goes_over_the_older_slot() -> None:
    disk, history = SimulatedDisk(), History()
    log = open_log(disk)
    history.commit(log, run(log, 1))
    for resume in range(1, 8):
        before = bytes(disk.content(CURSOR))
        slot = newest_slot(disk)
        log.cursor.resume_lsn = resume
        log.cursor.store()
        after = bytes(disk.content(CURSOR))
        assert after[slot * SLOT_BYTES :][:SLOT_BYTES] == before[slot * SLOT_BYTES :][:SLOT_BYTES]
        assert newest_slot(disk) == 1 - slot


@pytest.mark.parametrize("content", [b"", bytes(2 * SLOT_BYTES), b"\xff" * 100])
def test_a_cursor_that_is_gone_sends_everything_stored_again_flagged(content: bytes) -> None:
    disk, history = log_with_cursor()
    disk.spoil(CURSOR, content)
    log = open_log(disk)
    assert log.recovered.cursor_lost
    assert (log.cursor.resume_lsn, log.cursor.send_mark_lsn) == (1, log.durable_lsn)
    assert log.recovered.quarantined == ["cursor.1"], "the evidence is kept"
    assert disk.content(STATE_DIR / "quarantine" / "cursor.1") == content
    assert len(log.read(1, 100)) == len(history.appended)


def test_a_cursor_past_the_end_of_the_log_skips_nothing_that_comes() -> None:
    disk, _history = log_with_cursor()
    log = open_log(disk)
    log.cursor.resume_lsn, log.cursor.send_mark_lsn = 500, 900
    log.cursor.store()
    log.close()
    log = open_log(disk)
    assert (log.cursor.resume_lsn, log.cursor.send_mark_lsn) == (log.next_lsn, log.durable_lsn)


def test_a_cursor_of_a_newer_format_is_refused() -> None:
    disk, _ = log_with_cursor()
    data = disk.content(CURSOR)
    data[8:10] = data[SLOT_BYTES + 8 : SLOT_BYTES + 10] = b"\x00\x09"
    disk.spoil(CURSOR, bytes(data))
    with pytest.raises(WalTooNew, match="format 9"):
        open_log(disk)


def retired_log() -> tuple[SimulatedDisk, History]:
    disk, history = SimulatedDisk(), History()
    live(disk, history)
    return disk, history


def test_the_ledger_tells_what_was_retired_and_its_chain_holds() -> None:
    disk, history = retired_log()
    content = read_ledger(disk, LEDGER)
    assert len(content.entries) >= 3
    assert content.trailing_bytes == 0
    lsn, stored, lost = 1, [], []
    for index, retired in enumerate(content.entries):
        assert (retired.index, retired.first_lsn) == (index + 1, lsn)
        lsn = retired.last_lsn + 1
        for stream, _records, ranges, lost_ranges, _through in retired.summary["streams"]:
            assert stream == STREAM
            stored += ranges
            lost += lost_ranges
    seqs = {seq for first, last in stored for seq in range(first, last + 1)}
    wanted = {e.seq for at, e in history.appended.items() if at < lsn and hasattr(e, "seq")}
    assert seqs == wanted
    assert lost == [[10, 11, 1, False, False]]
    assert sum(retired.summary["kinds"].get(3, 0) for retired in content.entries) == 1
    assert content.hashes[0] != NO_HASH


def test_the_digest_in_the_ledger_is_that_of_the_file_which_was_there() -> None:
    disk, history = SimulatedDisk(), History()
    kept: dict[str, bytes] = {}
    unlink = disk.unlink

    def keep(path: Path) -> None:
        kept[path.name] = bytes(disk.content(path))
        unlink(path)

    disk.unlink = keep  # type: ignore[method-assign]
    live(disk, history)
    import hashlib

    entries = read_ledger(disk, LEDGER).entries
    assert [one.segment_sha256 for one in entries] == [
        hashlib.sha256(data).digest() for data in kept.values()
    ]
    assert [one.segment_bytes for one in entries] == [len(data) for data in kept.values()]


def test_a_changed_ledger_is_noticed_whatever_byte_was_hit() -> None:
    disk, _ = retired_log()
    whole = bytes(disk.content(LEDGER))
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        disk.spoil(LEDGER, bytes(damaged))
        try:
            noticed(disk, open_log(disk))
        except WalTooNew:
            assert position in (8, 9)


def test_a_ledger_that_was_cut_short_is_noticed_and_the_gateway_goes_on() -> None:
    disk, history = retired_log()
    whole = bytes(disk.content(LEDGER))
    for length in (0, 10, 24, len(whole) // 2, len(whole) - 1):
        disk.spoil(LEDGER, whole[:length])
        log = open_log(disk)
        history.check(log)
        history.commit(log, run(log, 2), record(900 + length))
        history.retire(log, log.next_lsn)
        noticed(disk, log)
        disk, history = retired_log()
    del disk.names[LEDGER]
    log = open_log(disk)
    assert any("ledger was missing" in note for note in log.recovered.notes)
    history.check(log)


def test_a_ledger_that_was_rewritten_with_a_chain_of_its_own_is_noticed() -> None:
    disk, _ = retired_log()
    content = read_ledger(disk, LEDGER)
    log_id = content.log_id
    assert log_id is not None
    ledger = Ledger(disk, LEDGER, log_id, write_ledger_file(disk, LEDGER, log_id))
    for retired in content.entries:
        ledger.append(replace(retired, retired_ms=retired.retired_ms + 1))
    assert len(read_ledger(disk, LEDGER).entries) == len(content.entries)
    noticed(disk, open_log(disk))


def test_what_a_power_cut_left_of_a_ledger_entry_is_cut() -> None:
    disk, _ = retired_log()
    whole = bytes(disk.content(LEDGER))
    disk.spoil(LEDGER, whole + b"\x01\x02\x03")
    log = open_log(disk)
    assert bytes(disk.content(LEDGER)) == whole
    assert log._ledger.head[0] == len(read_ledger(disk, LEDGER).entries)


def test_the_hash_of_an_entry_depends_on_all_before_it() -> None:
    assert entry_hash(bytes(32), b"a") != entry_hash(b"\x01" * 32, b"a")


def test_the_curve_in_a_summary_is_bounded_and_keeps_its_end() -> None:
    summary = SegmentSummary()
    for at_ms in range(1000):
        entry = Progress(at_ms, 1, ((STREAM, at_ms, 0, 0, 0),), ((1, 1),), (), at_ms)
        summary.add(RawEntry(at_ms + 1, at_ms + 1, Progress.KIND, encode_payload(entry), 0))
    kept = summary.to_map()
    assert len(kept["progress"]) <= PROGRESS_POINTS_MAX
    assert kept["progress"][-1][0] == 999
    assert kept["durable_histogram"] == [[1, 1000]]
    assert kept["streams"] == [[STREAM, 0, [], [], 999]]
