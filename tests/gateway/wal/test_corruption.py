"""Bytes that went bad: a torn tail is cut, everything else is found and nothing is deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from gapless_gateway.wal.entries import Gone
from gapless_gateway.wal.errors import WalDamaged, WalError, WalTooNew
from gapless_gateway.wal.format import first_lsn_of_name
from gapless_gateway.wal.reader import Corruption, Entry, SegmentStart, TornTail, read_directory
from tests.support.simulated_disk import SimulatedDisk
from tests.support.wal_history import (
    LOG_ID,
    STATE_DIR,
    History,
    live,
    open_log,
    read_all,
    record,
    run,
    session,
)

WAL = STATE_DIR / "wal"


def small_log() -> tuple[SimulatedDisk, History]:
    """One segment, three batches, closed without a clean end."""
    disk, history = SimulatedDisk(), History()
    log = open_log(disk, segment_bytes_max=1 << 20)
    history.commit(log, run(log, 1), session(1))
    history.commit(log, record(1, data=b"\x81\x01"), record(2, data=b"\x81\x02"))
    history.commit(log, record(3, data=b"\x81\x03"), record(4, data=b"\x81\x04"))
    log.close()
    return disk, history


def long_log() -> tuple[SimulatedDisk, History]:
    disk, history = SimulatedDisk(), History()
    live(disk, history)
    return disk, history


def segments(disk: SimulatedDisk) -> list[str]:
    return [name for name in disk.list(WAL) if first_lsn_of_name(name) is not None]


def entry_offsets(disk: SimulatedDisk) -> list[int]:
    items = list(read_directory(WAL, disk=disk))
    return [item.offset for item in items if isinstance(item, Entry)]


def test_a_log_cut_at_any_byte_of_its_last_batch_opens_with_what_is_whole() -> None:
    disk, _ = small_log()
    path = WAL / segments(disk)[0]
    whole, offsets = bytes(disk.content(path)), entry_offsets(disk)
    for length in range(offsets[4], len(whole)):
        disk, history = small_log()
        disk.spoil(path, whole[:length])
        log = open_log(disk)
        kept = [offset for offset in [*offsets[1:], len(whole)] if offset <= length]
        assert log.next_lsn == len(kept) + 1
        assert log.recovered.torn_bytes == length - kept[-1]
        history.commit(log, record(9, data=b"\x81\x09"))
        assert read_all(open_log(disk.after_power_cut(1, "none")))[-1][1].seq == 9  # type: ignore[union-attr]


def test_a_hole_in_the_last_batch_with_whole_entries_behind_it_is_a_torn_tail() -> None:
    disk, history = SimulatedDisk(), History()
    log = open_log(disk, segment_bytes_max=1 << 20)
    history.commit(log, run(log, 1), session(1))
    history.commit(log, *(record(seq) for seq in range(1, 9)))
    log.close()
    path, offsets = WAL / segments(disk)[0], entry_offsets(disk)
    data = disk.content(path)
    data[offsets[4] : offsets[5]] = bytes(offsets[5] - offsets[4])
    disk.spoil(path, bytes(data))
    log = open_log(disk)
    assert log.next_lsn == 5
    assert log.recovered.torn_bytes == len(data) - offsets[4]


@pytest.mark.parametrize("which", [0, 1, -2])
def test_a_missing_segment_is_found_by_the_reader(which: int) -> None:
    disk, _ = long_log()
    names = segments(disk)
    assert len(names) >= 3
    del disk.names[WAL / names[which]]
    found = list(read_directory(STATE_DIR / "wal", disk=disk))
    assert any(isinstance(item, Corruption) for item in found)


def test_a_log_without_any_segment_is_refused_when_only_ledger_and_cursor_tell_of_it() -> None:
    disk, _ = long_log()
    for name in segments(disk):
        del disk.names[WAL / name]
    del disk.names[STATE_DIR / "header"]
    with pytest.raises(WalDamaged, match="no segment"):
        open_log(disk)


def test_an_unknown_version_is_refused_in_one_sentence() -> None:
    disk, _ = small_log()
    path = WAL / segments(disk)[0]
    data = disk.content(path)
    data[8:10] = (3).to_bytes(2, "big")
    disk.spoil(path, bytes(data))
    with pytest.raises(WalTooNew, match=r"format 3 .* up to 2; install a newer Gapless"):
        open_log(disk)
    with pytest.raises(WalTooNew):
        list(read_directory(WAL, disk=disk))


def test_bytes_of_another_log_never_pass_for_ours() -> None:
    disk, _ = small_log()
    path = WAL / segments(disk)[0]
    ours, offsets = bytes(disk.content(path)), entry_offsets(disk)
    for part in (slice(16, 24), slice(offsets[2], len(ours))):
        other_disk = SimulatedDisk()
        log = open_log(other_disk, log_id=b"\x55" * 8)
        history = History()
        history.commit(log, run(log, 1), session(1))
        history.commit(log, record(1, data=b"\x81\x01"), record(2, data=b"\x81\x02"))
        history.commit(log, record(3, data=b"\x81\x03"), record(4, data=b"\x81\x04"))
        theirs = bytes(other_disk.content(path))
        assert len(theirs) == len(ours)
        mixed = bytearray(ours)
        mixed[part] = theirs[part]
        disk.spoil(path, bytes(mixed))
        if part.start == 16:  # a damaged header: the one that the other files know is put back
            log = open_log(disk)
            assert log.log_id == LOG_ID
            assert log.next_lsn == 7
            log.close()
        else:
            assert open_log(disk).next_lsn == 3, "their entries ran on behind ours"


def test_a_segment_of_another_log_in_the_directory_is_refused() -> None:
    disk, _ = long_log()
    other = SimulatedDisk()
    live_log = open_log(other, log_id=b"\x55" * 8)
    history = History()
    history.commit(live_log, run(live_log, 1))
    name = segments(disk)[-1]
    their_header = bytearray(other.content(WAL / segments(other)[0]))
    disk.spoil(WAL / name, bytes(their_header))
    with pytest.raises(WalDamaged):
        open_log(disk)


def test_damage_in_an_older_segment_is_found_by_the_reader_which_goes_on_behind_it() -> None:
    disk, history = long_log()
    name = segments(disk)[1]
    path = WAL / name
    data = disk.content(path)
    items = list(read_directory(WAL, disk=disk))
    first = first_lsn_of_name(name)
    (hit,) = (i for i in items if isinstance(i, Entry) and i.lsn == first)
    data[hit.offset + 40] ^= 1
    disk.spoil(path, bytes(data))
    found = list(read_directory(WAL, disk=disk))
    (damage,) = (item for item in found if isinstance(item, Corruption))
    assert (damage.path, damage.lsn, damage.next_lsn) == (path, hit.lsn, hit.lsn + 1)
    lsns = [item.lsn for item in found if isinstance(item, Entry)]
    assert hit.lsn not in lsns
    assert lsns[-1] == max(history.appended)
    log = open_log(disk)  # recovery reads the newest segment only
    assert log.recovered.quarantined == []


def test_an_older_segment_that_was_cut_between_two_entries_is_found() -> None:
    disk, _ = long_log()
    name = segments(disk)[1]
    path = WAL / name
    offsets = {
        item.lsn: item.offset for item in read_directory(WAL, disk=disk) if isinstance(item, Entry)
    }
    first = first_lsn_of_name(name)
    assert first is not None
    disk.spoil(path, bytes(disk.content(path)[: offsets[first + 1]]))
    found = [item for item in read_directory(WAL, disk=disk) if isinstance(item, Corruption)]
    assert [(item.lsn, item.next_lsn) for item in found] == [
        (first + 1, first_lsn_of_name(segments(disk)[2]))
    ]
    assert isinstance(dict(read_all(open_log(disk)))[first + 1], Gone)


def test_a_torn_tail_is_no_damage_to_the_reader() -> None:
    disk, _ = small_log()
    path = WAL / segments(disk)[0]
    disk.spoil(path, bytes(disk.content(path)[:-3]))
    found = list(read_directory(WAL, disk=disk))
    assert isinstance(found[-1], TornTail)
    assert not any(isinstance(item, Corruption) for item in found)
    assert sum(isinstance(item, SegmentStart) for item in found) == 1


def test_a_directory_without_a_log_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(WalError, match="holds no segment"):
        list(read_directory(tmp_path))


def test_a_zeroed_tail_is_cut_whatever_its_length() -> None:
    for length in (1, 24, 25, 511, 4096, 300_000):
        disk, history = small_log()
        path = WAL / segments(disk)[0]
        disk.spoil(path, bytes(disk.content(path)) + bytes(length))
        log = open_log(disk)
        history.check(log)
        assert log.recovered.torn_bytes == length
