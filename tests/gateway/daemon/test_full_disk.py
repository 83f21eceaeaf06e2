"""A disk without room under the running gateway: nothing is acked, nothing lost, it goes on."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.ingest import RecordEntries
from gapless_gateway.linked import LinkedStream
from gapless_gateway.wal.disk import OsDisk
from gapless_gateway.wal.reader import Entry, TornTail, read_directory
from tests.support.running_gateway import eventually


class FullDisk(OsDisk):
    """The real disk; while `full`, a write to a segment puts half of its bytes down and fails.

    A real file system that is full is in tests/e2e; there is no telling there when it comes.
    """

    def __init__(self) -> None:
        self.full = False
        self.refused = 0

    def create(self, path: Path) -> Any:
        return _FullFile(super().create(path), self, path)

    def open(self, path: Path) -> Any:
        return _FullFile(super().open(path), self, path)


class _FullFile:
    def __init__(self, file: Any, disk: FullDisk, path: Path) -> None:
        self._file, self._disk, self._is_segment = file, disk, ".wal" in path.name

    def write(self, data: bytes) -> None:
        if self._disk.full and self._is_segment:
            self._disk.refused += 1
            self._file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


async def test_a_batch_that_finds_no_room_waits_and_is_acked_only_when_it_is_written(
    gateway, boards
):
    board, disk = boards("pump-1"), FullDisk()
    await gateway.start([board.path], disk=disk)
    await eventually(lambda: board.linked)
    board.sample(5)
    await eventually(lambda: board.acked_through == 5)
    disk.full = True
    board.sample(7)
    await eventually(lambda: disk.refused >= 3, "tried again and again")
    status, health = await gateway.get("/healthz")
    assert (status, health["ingest"]) == (200, "full")
    assert board.acked_through == 5
    assert await gateway_ends_cleanly_at(gateway, 5), "the half batch was taken back"
    disk.full = False
    await eventually(lambda: board.acked_through == 12)
    board.sample(3)
    await eventually(lambda: board.acked_through == 15)
    (await gateway.metrics()).assert_balanced()
    await gateway.stop()
    found = [item.entry.seq for item in entries(gateway) if hasattr(item.entry, "data")]
    assert found == list(range(1, 16))


async def test_a_gateway_that_stops_on_a_full_disk_stops_and_what_waited_was_never_acked(
    gateway, boards
):
    board, disk = boards("pump-1"), FullDisk()
    await gateway.start([board.path], disk=disk)
    await eventually(lambda: board.linked)
    board.sample(5)
    await eventually(lambda: board.acked_through == 5)
    disk.full = True
    board.sample(7)
    await eventually(lambda: gateway.daemon._committer.full)
    await gateway.stop()
    assert board.acked_through == 5
    assert len(board.outbox.records) == 7, "the board has them"
    await gateway.start([board.path])
    await eventually(lambda: board.acked_through == 12)
    (await gateway.metrics()).assert_balanced()


def entries(gateway) -> list[Entry]:
    return [item for item in read_directory(gateway.state_dir) if isinstance(item, Entry)]


async def gateway_ends_cleanly_at(gateway, seq: int) -> bool:
    """Whether the file ends with whole entries, at a moment when nothing is being written."""
    for _ in range(200):
        items = list(read_directory(gateway.state_dir))
        records = [i.entry.seq for i in items if isinstance(i, Entry) and hasattr(i.entry, "data")]
        if not any(isinstance(item, TornTail) for item in items):
            return records[-1] == seq
    return False


@pytest.mark.parametrize(("reclaimed", "acked"), [([], 6), ([(3, 3)], 2), ([(5, 6)], 4)])
async def test_no_ack_covers_what_is_on_its_way_again(gateway, boards, reclaimed, acked):
    """Records 3 and 5 may become durable in different commits: no ack may leave in between."""
    board = boards("pump-1")
    await gateway.start([board.path])
    await eventually(lambda: board.linked)
    board.sample(6)
    await eventually(lambda: board.acked_through == 6)
    (stream,) = gateway.daemon._wal.account.streams.values()
    (session,) = gateway.daemon._sessions
    linked: LinkedStream = session.linked
    assert isinstance(linked._entries, RecordEntries)
    linked._acked = 0
    linked._reclaiming = IntervalSet(reclaimed)
    for first, last in reclaimed:
        stream.quarantined.add(first, last)
        stream.unreadable.assign(first, last, False)
    assert linked.durable_to_ack() == acked
