"""Durable entries that went bad: exactly what is gone is declared LOST, or nothing is touched."""

from __future__ import annotations

import pytest

from gapless_gateway.wal.entries import REASON_CORRUPTION, Entry, Lost, Stopped, TimePair
from gapless_gateway.wal.errors import WalDamaged
from gapless_gateway.wal.reader import Entry as ReadEntry
from gapless_gateway.wal.reader import read_directory
from tests.support.simulated_disk import PowerCutError, SimulatedDisk
from tests.support.wal_history import (
    STATE_DIR,
    STREAM,
    History,
    open_log,
    read_all,
    record,
    run,
    session,
)

OTHER = b"\x55\x66\x77\x88"
PATH = STATE_DIR / "wal" / "0000000000000001.wal"


def spoilt_log(*lsns: int, mark: int = 0) -> tuple[SimulatedDisk, History, bytes]:
    """One segment; LSNs 1..3 run and sessions, then records of two streams in turn, 4..23."""
    disk, history = SimulatedDisk(), History()
    log = open_log(disk, segment_bytes_max=1 << 20)
    history.commit(log, run(log, 1), session(1), session(1, stream=OTHER))
    for seq in range(1, 11):
        history.commit(log, record(seq), record(seq, stream=OTHER))
    if mark:
        history.store_cursor(log, 4, mark, 0)
    log.close()
    data = disk.content(PATH)
    offsets = {
        item.lsn: item.offset
        for item in read_directory(PATH.parent, disk=disk)
        if isinstance(item, ReadEntry)
    }
    for lsn in lsns:
        data[offsets[lsn] + 30] ^= 0x40
    disk.spoil(PATH, bytes(data))
    return disk, history, bytes(data)


@pytest.mark.parametrize("lsns", [(4,), (8, 9), (8, 9, 10), (6, 15), (20, 21)])
def test_exactly_the_records_that_are_gone_are_declared_lost(lsns: tuple[int, ...]) -> None:
    disk, history, damaged = spoilt_log(*lsns)
    log = open_log(disk)
    found: dict[int, Entry] = dict(read_all(log))
    assert list(found) == list(range(1, 24))
    gone = {(e.stream, e.seq) for lsn in lsns if hasattr(e := history.appended[lsn], "seq")}
    declared = [found[lsn] for lsn in lsns]
    assert all(isinstance(e, Lost) and e.reason == REASON_CORRUPTION for e in declared)
    assert {(e.stream, e.first) for e in declared if isinstance(e, Lost)} == gone
    assert all(isinstance(e, Lost) and e.first == e.last for e in declared)
    for lsn in set(found) - set(lsns):
        assert found[lsn] == history.appended[lsn]
    account = log.account.streams
    assert sum(one.balance().lost for one in account.values()) == len(lsns)
    assert sum(one.balance().unexplained for one in account.values()) == 0
    kept = disk.content(STATE_DIR / "quarantine" / log.recovered.quarantined[0])
    assert bytes(kept) == damaged, "the evidence is kept"
    assert PATH in disk.names, "replaced in place"


def test_a_second_recovery_after_a_salvage_changes_nothing() -> None:
    disk, _, _ = spoilt_log(8, 9)
    log = open_log(disk)
    found = read_all(log)
    again = open_log(disk.after_power_cut(1, "none"))
    assert read_all(again) == found
    assert again.recovered.quarantined == []
    History().commit(again, Stopped(1, 1))


def test_a_power_cut_at_every_call_of_a_salvage_keeps_the_evidence_and_ends_the_same() -> None:
    disk, _, damaged = spoilt_log(8, 9)
    wanted = read_all(open_log(disk.after_power_cut(0, "none")))
    call = 0
    while True:
        call += 1
        crashed = spoilt_log(8, 9)[0].after_power_cut(0, "all")
        crashed.power_cut_at = call
        try:
            open_log(crashed)
        except PowerCutError:
            after = crashed.after_power_cut(call, "random")
            log = open_log(after)
            assert read_all(log) == wanted
            kept = [bytes(i.cached) for path, i in after.names.items() if "quarantine" in str(path)]
            assert damaged in kept
        else:
            break
    assert call > 10


@pytest.mark.parametrize("lsns", [(1,), (2,), (3,), (2, 3, 4)])
def test_what_cannot_be_derived_is_refused_and_nothing_is_touched(lsns: tuple[int, ...]) -> None:
    disk, _, damaged = spoilt_log(*lsns)
    with pytest.raises(WalDamaged, match=f"LSN {lsns[0]} "):
        open_log(disk)
    assert bytes(disk.content(PATH)) == damaged
    assert disk.list(STATE_DIR / "quarantine") == []


@pytest.mark.parametrize("lsns", [(4,), (3, 4), (4, 5)])
def test_an_entry_without_a_seq_among_what_is_gone_is_refused(lsns: tuple[int, ...]) -> None:
    disk, history = SimulatedDisk(), History()
    log = open_log(disk, segment_bytes_max=1 << 20)
    pair = TimePair(STREAM, 1, 5, 6, 7, True)
    history.commit(log, run(log, 1), session(1), record(1), pair, record(2))
    history.commit(log, record(3))
    log.close()
    data = disk.content(PATH)
    for item in list(read_directory(PATH.parent, disk=disk)):
        if isinstance(item, ReadEntry) and item.lsn in lsns:
            data[item.offset + 30] ^= 0x40
    disk.spoil(PATH, bytes(data))
    with pytest.raises(WalDamaged, match="nor derived"):
        open_log(disk)
    assert disk.content(PATH) == data


def test_what_may_have_been_delivered_is_never_declared_lost() -> None:
    disk, _, damaged = spoilt_log(8, mark=8)
    with pytest.raises(WalDamaged):
        open_log(disk)
    assert bytes(disk.content(PATH)) == damaged
    disk, _, _ = spoilt_log(9, mark=8)
    assert dict(read_all(open_log(disk)))[9].reason == REASON_CORRUPTION  # type: ignore[union-attr]
    assert STREAM != OTHER
