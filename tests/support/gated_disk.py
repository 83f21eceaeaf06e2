"""The real disk with a gate before each fdatasync of the log: to hold, to let go, to let fail."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

from gapless_gateway.wal.disk import OsDisk


class GatedDisk(OsDisk):
    """`hold()` keeps every later sync waiting until `let_go()`; `fail()` lets them fail."""

    def __init__(self) -> None:
        super().__init__()
        self._open_gate = threading.Event()
        self._open_gate.set()
        self.failing = False
        self.waiting = 0  # syncs that stand before the gate

    def hold(self) -> None:
        self._open_gate.clear()

    def let_go(self) -> None:
        self._open_gate.set()

    def fail(self) -> None:
        self.failing = True

    def open(self, path: Path) -> Any:
        return self._gated(path, super().open(path))

    def create(self, path: Path) -> Any:
        return self._gated(path, super().create(path))

    def _gated(self, path: Path, file: Any) -> Any:
        return _GatedFile(file, self) if ".wal" in path.name else file

    def pass_gate(self) -> None:
        self.waiting += 1
        self._open_gate.wait()
        self.waiting -= 1
        if self.failing:
            raise OSError(errno.EIO, "Input/output error")


class _GatedFile:
    def __init__(self, file: Any, disk: GatedDisk) -> None:
        self._file = file
        self._disk = disk

    def fdatasync(self) -> None:
        self._disk.pass_gate()
        self._file.fdatasync()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
