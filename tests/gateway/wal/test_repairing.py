"""Damaged, empty, cut and missing segments: what can be read stays, and every number is known.

Nothing is refused that can be repaired, nothing is deleted, and what is gone is exactly what was
spoilt: it stands in the log as Gone, and is declared Unreadable before anyone is greeted.
"""

from __future__ import annotations

import contextlib
import errno
import random

import pytest

from gapless_gateway.account.declaring import declarations
from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.wal.entries import (
    REASON_CORRUPTION,
    REASON_OVERFLOW,
    Delivered,
    Entry,
    Gone,
    Lost,
    Outage,
    Progress,
    Record,
    Session,
    Stopped,
    Unreadable,
)
from gapless_gateway.wal.errors import WalDamaged, WalFull
from gapless_gateway.wal.log import Log
from gapless_gateway.wal.reader import Corruption, read_directory
from gapless_gateway.wal.reader import Entry as ReadEntry
from tests.support.simulated_disk import PowerCutError, SimulatedDisk
from tests.support.wal_history import (
    STATE_DIR,
    STREAM,
    History,
    live,
    open_log,
    read_all,
    record,
    run,
    session,
)

OTHER = b"\x55\x66\x77\x88"
WAL = STATE_DIR / "wal"
FIRST = WAL / "0000000000000001.wal"


def one_segment(*, mark: int = 0) -> tuple[SimulatedDisk, History]:
    """LSNs 1..3 run and sessions, then records of two streams in turn, 4..23; never delivered."""
    disk, history = SimulatedDisk(), History()
    log = open_log(disk, segment_bytes_max=1 << 20)
    history.commit(log, run(log, 1), session(1), session(1, stream=OTHER, device="pump-2"))
    for seq in range(1, 11):
        history.commit(log, record(seq), record(seq, stream=OTHER))
    if mark:
        history.store_cursor(log, 4, mark, 0)
    log.close()
    return disk, history


def spoil(disk: SimulatedDisk, *lsns: int) -> None:
    """Flip a bit in each of these entries."""
    hits = {
        item.lsn: (path, item.offset)
        for path, item in items_by_path(disk)
        if isinstance(item, ReadEntry)
    }
    for lsn in lsns:
        path, offset = hits[lsn]
        disk.content(path)[offset + 30] ^= 0x40
        disk.spoil(path, bytes(disk.content(path)))


def items_by_path(disk: SimulatedDisk):
    path = None
    for item in list(read_directory(WAL, disk=disk)):
        path = getattr(item, "path", path)
        yield path, item


def declare(log: Log, history: History) -> list[Unreadable]:
    """What the daemon does first: its Run, and what is gone."""
    number = log.account.run + 1
    entries: list[Entry] = [run(log, number)]
    for lsn, gone in log.recovered.gone:
        entries += declarations(
            gone, lsn, log.account.streams, sent_through_lsn=log.cursor.send_mark_lsn, at_ms=9
        )
    history.commit(log, *entries)
    return [one for one in entries if isinstance(one, Unreadable)]


def seqs(entries: list[Unreadable]) -> set[tuple[bytes, int]]:
    return {(e.stream, seq) for e in entries for seq in range(e.first, e.last + 1)}


def assert_sound(log: Log) -> None:
    account = log.account
    assert account.unexplained == 0, account.findings
    assert account.order_violations == 0, [account.findings] + [
        one.findings for one in account.streams.values()
    ]
    assert all(one.balance().holds for one in account.streams.values())


@pytest.mark.parametrize("lsns", [(4,), (8, 9), (8, 9, 10), (6, 15), (20, 21), (5, 6, 20)])
def test_exactly_the_records_that_are_gone_are_quarantined_and_all_others_stay(lsns) -> None:
    disk, history = one_segment()
    spoil(disk, *lsns)
    damaged = bytes(disk.content(FIRST))
    log = open_log(disk)
    found = dict(read_all(log))
    for lsn, entry in history.appended.items():
        if lsn not in lsns:
            assert found[lsn] == entry
    gone = {(history.appended[lsn].stream, history.appended[lsn].seq) for lsn in lsns}  # type: ignore[union-attr]
    assert seqs(declare(log, history)) == gone
    assert_sound(log)
    quarantined = {
        (stream, seq)
        for stream, one in log.account.streams.items()
        for first, last in one.quarantined
        for seq in range(first, last + 1)
    }
    assert quarantined == gone
    (name,) = log.recovered.quarantined
    assert bytes(disk.content(STATE_DIR / "quarantine" / name)) == damaged, "evidence is kept"
    assert FIRST in disk.names, "replaced in place"


def test_a_second_recovery_after_a_repair_changes_nothing() -> None:
    disk, _ = one_segment()
    spoil(disk, 8, 9)
    found = read_all(open_log(disk))
    again = open_log(disk.after_power_cut(1, "none"))
    assert read_all(again) == found
    assert again.recovered.quarantined == []
    assert [gone for _, gone in again.recovered.gone] == [
        entry for _, entry in found if isinstance(entry, Gone)
    ], "it is declared again as long as nothing says that it was"


def test_a_power_cut_at_every_call_of_a_repair_keeps_the_evidence_and_ends_the_same() -> None:
    disk, _ = one_segment()
    spoil(disk, 8, 9)
    damaged = bytes(disk.content(FIRST))
    wanted = read_all(open_log(disk.after_power_cut(0, "none")))
    call = 0
    while True:
        call += 1
        crashed, _ = one_segment()
        spoil(crashed, 8, 9)
        crashed = crashed.after_power_cut(0, "all")
        crashed.power_cut_at = call
        try:
            open_log(crashed)
        except PowerCutError:
            after = crashed.after_power_cut(call, "random")
            assert read_all(open_log(after)) == wanted
            kept = [bytes(i.cached) for path, i in after.names.items() if "quarantine" in str(path)]
            assert damaged in kept
        else:
            break
    assert call > 10


def test_what_was_delivered_is_not_quarantined_and_what_may_have_been_says_so() -> None:
    disk, history = one_segment()
    log = open_log(disk, segment_bytes_max=1 << 20)
    log.cursor.delivered_through[STREAM] = 4  # LSN 4, 6, 8, 10
    log.cursor.resume_lsn, log.cursor.send_mark_lsn = 5, 12
    log.cursor.store()
    log.close()
    spoil(disk, 8, 9, 12, 20)
    log = open_log(disk)
    told = declare(log, history)
    assert {(e.stream, e.first, e.last): e.may_be_sent for e in told} == {
        (OTHER, 3, 3): True,
        (STREAM, 5, 5): True,
        (STREAM, 9, 9): False,
    }
    assert_sound(log)


@pytest.mark.parametrize("lsns", [(1,), (2,), (3,), (2, 3), (1, 2, 3), (2, 3, 4)])
def test_a_run_and_sessions_that_are_gone_are_no_finding_and_the_gateway_goes_on(lsns) -> None:
    disk, history = one_segment()
    spoil(disk, *lsns)
    log = open_log(disk)
    told = seqs(declare(log, history))
    # Of a stream whose session is gone too, what came before its first readable number is not
    # known to anyone: its account begins there.
    assert told <= {(STREAM, 1)}
    assert_sound(log)
    assert log.account.run == 2 if 1 not in lsns else log.account.run >= 1
    history.commit(log, session(11), session(11, stream=OTHER, device="pump-2"), record(11))
    assert_sound(log)
    assert log.account.streams[OTHER].device == "pump-2", "the next session names it again"


def test_every_bit_of_the_newest_segment_can_go_bad_and_the_gateway_starts() -> None:
    disk, history = one_segment()
    whole = bytes(disk.content(FIRST))
    seed = 20261124
    print("seed", seed)
    rng = random.Random(seed)
    for position in [*range(120), *(rng.randrange(len(whole)) for _ in range(150))]:
        if 8 <= position < 10:
            continue  # the format number: an older Gapless refuses a newer one
        disk, history = one_segment()
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        disk.spoil(FIRST, bytes(damaged))
        log = open_log(disk)
        found = dict(read_all(log))
        # One entry; or of the last batch, all from the spoilt one on: they were never acked.
        assert sum(history.appended[lsn] != found.get(lsn) for lsn in history.appended) <= 2
        declare(log, history)
        assert_sound(log)
        gone = [e for e in found.values() if isinstance(e, Gone)]
        assert bool(gone) + bool(log.recovered.torn_bytes) + bool(log.recovered.quarantined) >= 1


# Segments that are not there, or not to be read at all


def long_log() -> tuple[SimulatedDisk, History, list]:
    """Several segments, a few of them retired, the rest not delivered."""
    disk, history = SimulatedDisk(), History()
    log = live(disk, history, batches=27, delivering_batches=9)
    log.close()
    names = [path for path in sorted(disk.names) if path.parent == WAL]
    assert len(names) >= 6
    return disk, history, names


def state_of(log: Log) -> dict:
    return {
        stream: (one.durable, one.claimed, one.stored.ranges(), one.lost.items())
        for stream, one in log.account.streams.items()
    }


def in_segment(history: History, names: list, which: int, newest_next: int) -> range:
    firsts = [int(path.stem, 16) for path in names] + [newest_next]
    at = which % len(names)
    return range(firsts[at], firsts[at + 1])


@pytest.mark.parametrize("which", [0, 1, 2, -2])
@pytest.mark.parametrize("how", ["missing", "empty", "header", "snapshot", "cut"])
def test_an_older_segment_that_is_lost_is_known_number_by_number(which: int, how: str) -> None:
    disk, history, names = long_log()
    wanted = state_of(open_log(disk.after_power_cut(0, "all")))
    next_lsn = max(history.appended) + 1
    path = names[which]
    data = bytearray(disk.content(path))
    if how == "missing":
        for kept in (disk.names, disk.durable_names):
            del kept[path]
    elif how == "empty":
        disk.spoil(path, b"")
    elif how == "header":
        data[20] ^= 1
        disk.spoil(path, bytes(data))
    elif how == "snapshot":
        data[100] ^= 1
        disk.spoil(path, bytes(data))
    else:
        disk.spoil(path, bytes(data[: len(data) * 2 // 3]))
    log = open_log(disk)
    found = dict(read_all(log))
    assert state_of(log) == wanted, "the account is that of before"
    inside = in_segment(history, names, which, next_lsn)
    for lsn, entry in history.appended.items():
        if lsn >= log.first_lsn and (lsn not in inside or how in ("header", "snapshot")):
            assert found[lsn] == entry, lsn
    gone = [one for one in found.values() if isinstance(one, Gone)]
    delivered = log.cursor.delivered_through[STREAM]
    told = {
        (stream, seq)
        for one in gone
        for stream, first, last in one.ranges
        for seq in range(first, last + 1)
    }
    missing = {
        (entry.stream, seq)
        for lsn in inside
        if lsn not in found or isinstance(found[lsn], Gone)
        for entry in [history.appended[lsn]]
        if isinstance(entry, Record | Lost)
        for seq in (
            [entry.seq] if isinstance(entry, Record) else range(entry.first, entry.last + 1)
        )
    }
    if how in ("missing", "empty") and which == 0:  # what is delivered needs no name any more
        missing = {(stream, seq) for stream, seq in missing if seq > delivered}
    assert told == missing
    assert not [i for i in read_directory(WAL, disk=disk) if isinstance(i, Corruption)]
    log.close()
    again = open_log(disk.after_power_cut(1, "none"))
    assert dict(read_all(again)) == found, "a second recovery changes nothing"
    history.commit(again, run(again, again.account.run + 1), record(900))


def test_two_neighbours_that_are_missing_come_back_as_what_they_held() -> None:
    disk, _, names = long_log()
    wanted = state_of(open_log(disk.after_power_cut(0, "all")))
    for path in names[1:3]:
        for kept in (disk.names, disk.durable_names):
            del kept[path]
    log = open_log(disk)
    assert state_of(log) == wanted
    found = read_all(log)
    assert [lsn for lsn, entry in found if isinstance(entry, Gone)]
    assert not [i for i in read_directory(WAL, disk=disk) if isinstance(i, Corruption)]


@pytest.mark.parametrize("how", ["empty", "header", "missing"])
def test_the_newest_segment_without_its_header_comes_back_from_the_copy(how: str) -> None:
    disk, history, names = long_log()
    path = names[-1]
    entries_inside = in_segment(history, names, -1, max(history.appended) + 1)
    if how == "missing":
        for kept in (disk.names, disk.durable_names):
            del kept[path]
    elif how == "empty":
        disk.spoil(path, b"")
    else:
        data = bytearray(disk.content(path))
        data[20] ^= 1
        disk.spoil(path, bytes(data))
    log = open_log(disk)
    found = dict(read_all(log))
    for lsn, entry in history.appended.items():
        if lsn >= log.first_lsn and (lsn not in entries_inside or how == "header"):
            assert found.get(lsn) == entry, lsn
    declare(log, history)
    assert_sound(log)


def test_a_single_segment_without_header_and_copy_begins_with_the_empty_account() -> None:
    disk, history = one_segment()
    data = bytearray(disk.content(FIRST))
    data[20] ^= 1
    disk.spoil(FIRST, bytes(data))
    for kept in (disk.names, disk.durable_names):
        del kept[STATE_DIR / "header"]
    log = open_log(disk)
    assert dict(read_all(log)) == history.appended
    declare(log, history)
    assert_sound(log)


def test_a_header_that_nobody_can_derive_is_refused_and_nothing_is_touched() -> None:
    disk, history = SimulatedDisk(), History()
    live(disk, history, batches=24)
    log = open_log(disk)
    history.retire(log, log.next_lsn)
    log.close()
    (path,) = (path for path in disk.names if path.parent == WAL)
    data = bytearray(disk.content(path))
    data[20] ^= 1
    disk.spoil(path, bytes(data))
    for kept in (disk.names, disk.durable_names):
        del kept[STATE_DIR / "header"]
    with pytest.raises(WalDamaged, match=path.name):
        open_log(disk)
    assert disk.content(path) == data


def test_a_tail_that_the_cursor_knows_to_be_delivered_is_not_taken_for_never_written() -> None:
    disk, history = one_segment()
    log = open_log(disk, segment_bytes_max=1 << 20)
    log.cursor.delivered_through = {STREAM: 10, OTHER: 9}
    log.cursor.resume_lsn, log.cursor.send_mark_lsn = 23, 23
    log.cursor.store()
    log.close()
    offsets = {i.lsn: i.offset for _, i in items_by_path(disk) if isinstance(i, ReadEntry)}
    disk.spoil(FIRST, bytes(disk.content(FIRST)[: offsets[16]]))  # cut between two batches
    log = open_log(disk)
    assert log.next_lsn == 23, "no LSN that was durable is given again"
    declare(log, history)
    assert_sound(log)
    delivered = {s: one.delivered.count() for s, one in log.account.streams.items()}
    assert delivered == {STREAM: 10, OTHER: 9}


# While the gateway runs


def test_damage_in_an_older_segment_is_repaired_when_it_is_read() -> None:
    disk, history, names = long_log()
    log = open_log(disk)
    inside = in_segment(history, names, 2, log.next_lsn)
    target = next(lsn for lsn in inside if isinstance(history.appended[lsn], Record))
    spoil(disk, target)
    found = dict(read_all(log))
    assert isinstance(found[target], Gone)
    assert found[target].ranges == ((STREAM, *[history.appended[target].seq] * 2),)  # type: ignore[union-attr]
    assert log.upkeep.notes and names[2].name in log.upkeep.notes[0]
    assert [lsn for lsn in history.appended if lsn >= log.first_lsn] == list(found)


def test_damage_in_the_newest_segment_is_repaired_once_another_one_has_begun() -> None:
    disk, history = one_segment()
    log = open_log(disk, segment_bytes_max=1 << 20)
    spoil(disk, 9)
    assert [lsn for lsn, _ in log.read(1, 100)] == list(range(1, 9))
    assert log.read(9, 100) == [], "not yet"
    history.commit(log, run(log, 2))
    history.commit(log, record(11))
    found = dict(log.read(9, 100))
    assert found[9] == Gone(9, "corruption", ((OTHER, 3, 3),))
    assert list(found) == list(range(9, log.next_lsn))


def test_a_damaged_segment_is_repaired_before_it_is_retired() -> None:
    disk, history, names = long_log()
    log = open_log(disk)
    spoil(disk, next(iter(in_segment(history, names, 1, log.next_lsn))))
    freed = log.retire(log.next_lsn)
    assert [path.name for path in names[:-1]] == freed
    kept = [path for path in disk.names if path.parent.name == "quarantine"]
    assert [path.name for path in kept] == [f"{names[1].name}.1"]


def test_reading_can_begin_in_the_middle_of_what_is_gone() -> None:
    disk, _ = one_segment()
    spoil(disk, 8, 9, 10, 11)
    log = open_log(disk)
    for lsn in (8, 9, 10, 11):
        (first, gone), (following, _) = log.read(lsn, 2)
        assert (first, type(gone), following) == (8, Gone, 12)
    assert log.read(12, 1)[0][0] == 12


# What the account makes of it


def test_what_the_board_still_holds_is_taken_again_and_what_it_does_not_is_lost() -> None:
    disk, history = one_segment()
    spoil(disk, 18, 20)  # seqs 8 and 9 of STREAM
    log = open_log(disk)
    declare(log, history)
    stream = log.account.streams[STREAM]
    assert stream.quarantined.ranges() == [(8, 9)]
    history.commit(
        log,
        Lost(STREAM, 8, 8, REASON_CORRUPTION, False, True, 9, 0),
        record(9),
    )
    assert_sound(log)
    assert stream.requeued.ranges() == [(9, 9)]
    assert stream.lost.items() == [(8, 8, (REASON_CORRUPTION, False))]
    log.account.delivered(STREAM, 10)
    assert stream.pending_gateway.ranges() == [(9, 9)], "out of quarantine, not delivered yet"
    assert stream.delivered.ranges() == [(1, 7), (10, 10)]
    history.commit(log, Delivered(STREAM, 9, 9, 9))
    assert stream.delivered.ranges() == [(1, 7), (9, 10)]
    assert_sound(log)
    snapshot = log.account.snapshot()
    assert type(log.account).restore(snapshot).snapshot() == snapshot


def test_what_tells_nothing_true_is_a_finding() -> None:
    for wrong in (
        Delivered(STREAM, 3, 3, 9),
        Unreadable(STREAM, 11, 12, 9, False, "never stored"),
        Lost(STREAM, 3, 3, REASON_OVERFLOW, False, False, 9, 0),
    ):
        disk, history = one_segment()
        log = open_log(disk)
        history.commit(log, run(log, 2), wrong)
        assert log.account.order_violations == 1, wrong


def test_outages_and_progress_after_what_is_gone_are_taken_as_they_come() -> None:
    disk, history = SimulatedDisk(), History()
    log = open_log(disk, segment_bytes_max=1 << 20)
    history.commit(log, run(log, 1), session(1))
    history.commit(log, Outage(1, True, 5, "closed", 0))
    history.commit(log, record(1))
    history.commit(log, Progress(9, 1, ((STREAM, 0, 0, 0, 0),), (), (), 1))
    history.commit(log, Outage(1, False, 15, "backlog delivered", 0))
    history.commit(log, Stopped(16, 1))
    log.close()
    spoil(disk, 3)
    log = open_log(disk)
    declare(log, history)
    assert_sound(log)
    assert log.recovered.previous_clean


def test_a_repair_without_room_for_the_evidence_changes_nothing_and_says_so() -> None:
    disk, _ = one_segment()
    spoil(disk, 8)
    damaged = bytes(disk.content(FIRST))
    create = disk.create

    def full(path):
        if path.parent.name in ("quarantine", "wal"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return create(path)

    disk.create = full  # type: ignore[method-assign]
    with pytest.raises(WalFull, match="full"):
        open_log(disk)
    assert bytes(disk.content(FIRST)) == damaged


def test_random_damage_anywhere_never_stops_the_gateway_nor_breaks_the_account() -> None:
    seed = 20261124
    print("seed", seed)
    for number in range(120):
        rng = random.Random(seed * 1000 + number)
        disk, history, names = long_log()
        for _ in range(rng.randrange(1, 4)):
            path = rng.choice(names)
            data = bytearray(disk.content(path))
            for _ in range(rng.randrange(1, 3)):
                at = rng.randrange(10, len(data))
                length = rng.choice((1, 1, 30, 500))
                data[at : at + length] = rng.randbytes(len(data[at : at + length]))
            disk.spoil(path, bytes(data))
        with contextlib.suppress(WalDamaged):
            log = open_log(disk)
            found = dict(read_all(log))
            for lsn, entry in found.items():
                assert isinstance(entry, Gone) or history.appended[lsn] == entry, number
            declare(log, history)
            assert log.account.unexplained == 0, number
            stream = log.account.streams[STREAM]
            assert stream.balance().holds, number
            told = IntervalSet(
                (a, b) for e in found.values() if isinstance(e, Gone) for _, a, b in e.ranges
            )
            for lsn, entry in history.appended.items():
                if isinstance(entry, Record) and lsn >= log.first_lsn and lsn < log.next_lsn:
                    assert found.get(lsn) == entry or told.contains(entry.seq), (number, lsn)
    assert isinstance(session(1), Session)


def test_the_copy_of_the_newest_header_is_made_where_an_older_gapless_made_none() -> None:
    disk, _, names = long_log()
    for kept in (disk.names, disk.durable_names):
        del kept[STATE_DIR / "header"]
    open_log(disk).close()
    copy = bytes(disk.content(STATE_DIR / "header"))
    assert bytes(disk.content(names[-1])[: len(copy)]) == copy


def test_a_write_that_finds_the_disk_full_leaves_nothing_behind_and_is_tried_again() -> None:
    disk, history = one_segment()
    log = open_log(disk, segment_bytes_max=1 << 20)
    history.commit(log, run(log, 2))
    size = len(disk.content(FIRST))
    for seed in range(8):
        disk.rng.seed(seed)  # how much of the batch is written before it fails
        for seq in range(11 + seed * 2, 13 + seed * 2):
            history.appended[log.append(record(seq))] = record(seq)
        disk.fail_at = {disk.calls + 1: errno.ENOSPC}
        with pytest.raises(WalFull):
            log.commit()
        assert len(disk.content(FIRST)) == size
        assert log.stuck
        assert log.failed is None
        crashed = open_log(disk.after_power_cut(seed, "random"))
        assert crashed.durable_lsn == log.durable_lsn
        disk.locked.clear()
        history.acked_lsn = log.commit()
        log.apply_committed()
        size = len(disk.content(FIRST))
    found = dict(read_all(open_log(disk.after_power_cut(0, "none"))))
    assert found == history.appended


def test_a_stream_of_which_only_the_cursor_tells_begins_behind_what_was_delivered() -> None:
    disk, history = one_segment()
    log = open_log(disk, segment_bytes_max=1 << 20)
    log.cursor.delivered_through = {STREAM: 10, OTHER: 10}
    log.cursor.resume_lsn, log.cursor.send_mark_lsn = 24, 24
    log.cursor.store()
    log.close()
    offsets = {i.lsn: i.offset for _, i in items_by_path(disk) if isinstance(i, ReadEntry)}
    disk.spoil(FIRST, bytes(disk.content(FIRST)[: offsets[3]]))  # with the Session of OTHER
    log = open_log(disk)
    declare(log, history)
    history.commit(log, session(11), session(12, stream=OTHER, device="pump-2"), record(11))
    assert_sound(log)
    other = log.account.streams[OTHER]
    assert (other.device, other.base, other.durable) == ("pump-2", 9, 10)
    assert other.balance().lost == 0, "what was delivered is never LOST"
