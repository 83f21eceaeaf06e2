"""Which interpreter a virtual board runs on, and the command that starts it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

MICROPYTHON_MIN = (1, 24)
# On x86-64, where pointers and objects are twice as large, this is as tight as 42 KB on a board.
HEAP_BYTES = 64 * 1024
_PROBE = "import sys; print('probed', *sys.implementation.version[:3])"
_PROBE_TIMEOUT_S = 20

# What a board has and the unix port lacks: its files as the root of the file system, and
# machine.reset(). The status must be that of gapless_device.boards.virtual.RESET_STATUS.
RESET_STATUS = 75
# The REPL follows when this ends, unless the status of sys.exit() is to leave the process.
_PREPARE = """
import os, sys, vfs
class machine: reset = lambda: sys.exit({status})
sys.modules["machine"] = machine
vfs.umount("/")
vfs.mount(vfs.VfsPosix({directory!r}), "/")
os.chdir("/")
os.putenv("MICROPYINSPECT", "1")
leave = lambda: os.unsetenv("MICROPYINSPECT")
del machine, vfs
try:
    for _ in {names!r}: execfile(_)
except SystemExit:
    leave()
    raise
"""


@dataclass(frozen=True, slots=True)
class Runtime:
    """An interpreter: `micropython` is its path, None for this CPython."""

    micropython: str | None
    version: str

    @property
    def words(self) -> str:
        """What the demo and the evidence call it."""
        if self.micropython:
            return f"MicroPython {self.version} (unix port)"
        return f"CPython {self.version}, since no MicroPython >= 1.24 was found"

    def command(self, directory: Path, *, heap_bytes: int, run_main: bool) -> list[str]:
        """Return the command of a board that starts up with the files in `directory`."""
        if self.micropython is None:
            runner = Path(__file__).with_name("virtual_board_cpython.py")
            return [sys.executable, "-u", str(runner)]
        names = [name for name in self._start_files(run_main) if (directory / name).exists()]
        code = _PREPARE.format(status=RESET_STATUS, directory=str(directory), names=names)
        return [self.micropython, "-X", f"heapsize={heap_bytes}", "-c", code]

    @staticmethod
    def _start_files(run_main: bool) -> tuple[str, ...]:
        return ("boot.py", "main.py") if run_main else ("boot.py",)


@lru_cache
def find_runtime() -> Runtime:
    """Return MicroPython beside this interpreter or on the PATH, else CPython."""
    beside = Path(sys.executable).parent / "micropython"
    for path in (str(beside) if beside.exists() else None, shutil.which("micropython")):
        version = _micropython_version(path) if path else None
        if version and version >= MICROPYTHON_MIN:
            return Runtime(path, ".".join(map(str, version)))
    return cpython_runtime()


def cpython_runtime() -> Runtime:
    """Return this CPython as a board's runtime."""
    return Runtime(None, ".".join(map(str, sys.version_info[:3])))


def _micropython_version(path: str) -> tuple[int, ...] | None:
    try:
        probe = subprocess.run(
            [path, "-X", f"heapsize={HEAP_BYTES}", "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"probed (\d+) (\d+) (\d+)", probe.stdout)
    return tuple(map(int, found.groups())) if found else None
