"""Disks for the benches: the real one with its sync time held fixed, and one without any."""

from __future__ import annotations

import os
import time
from pathlib import Path

from gapless_gateway.wal.disk import OsDisk, OsFile


def sync_with_floor(descriptor: int, floor_s: float) -> None:
    """Sync, and sleep for what is left of `floor_s`.

    A sync takes from 0.06 to 8 ms on one and the same machine. A ratio to the raw disk means
    something only when both meet the same sync.
    """
    until_s = time.perf_counter() + floor_s
    os.fdatasync(descriptor)
    left_s = until_s - time.perf_counter()
    if left_s > 0:
        time.sleep(left_s)


class BenchFile(OsFile):
    """A file whose batches are kept for whoever writes the same bytes again."""

    def __init__(self, descriptor: int, disk: BenchDisk) -> None:
        super().__init__(descriptor)
        self._number = descriptor
        self._disk = disk

    def write(self, data: bytes) -> None:
        """Note what is written, as soon as it is on its way, and write it."""
        self._disk.written.append(data)
        super().write(data)

    def fdatasync(self) -> None:
        """Sync, at the pace of the disk or not at all."""
        if self._disk.floor_s is not None:
            sync_with_floor(self._number, self._disk.floor_s)


class BenchDisk(OsDisk):
    """The real disk, each sync lasting at least `floor_s` seconds; None: nothing is synced."""

    def __init__(self, floor_s: float | None) -> None:
        self.floor_s = floor_s
        self.written: list[bytes] = []  # what the files were given, in order

    def create(self, path: Path) -> BenchFile:
        """Make a file of our kind."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return BenchFile(os.open(path, flags, 0o640), self)
