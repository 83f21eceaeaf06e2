"""A small file system of the test's own, which can be filled to its last byte.

A tmpfs, or ext4 in a file where that is refused: in both ENOSPC comes from the kernel, at the
place where it comes in the field.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.requirements import (
    fail_or_skip,
    require_program,
    require_right_to_mount,
)

MIB = 1024 * 1024


class SmallVolume:
    """Mounted at `path` within its block; nothing of it is left afterwards."""

    def __init__(self, folder: Path, size_mib: int) -> None:
        require_right_to_mount()
        self.path = folder / "volume"
        self._image = folder / "volume.img"
        self._size_mib = size_mib
        self._foreign = self.path / "foreign"
        self._mount, self._umount = require_program("mount"), require_program("umount")

    def __enter__(self) -> Self:
        """Mount it."""
        self.path.mkdir()
        tmpfs = [self._mount, "-t", "tmpfs", "-o", f"size={self._size_mib}m", "gapless-test"]
        refusal = _run([*tmpfs, str(self.path)])
        if refusal and self._make_image():
            refusal = _run([self._mount, "-o", "loop", str(self._image), str(self.path)])
        if refusal:
            fail_or_skip(f"needs a small file system, and mount says: {refusal}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unmount it; lazily, should a process that failed to end still be in it."""
        if _run([self._umount, str(self.path)]):
            _run([self._umount, "-l", str(self.path)])
        self._image.unlink(missing_ok=True)

    @property
    def free_bytes(self) -> int:
        """What is left for everyone."""
        facts = os.statvfs(self.path)
        return facts.f_bavail * facts.f_frsize

    def occupy(self, *, leaving: int) -> None:
        """Let a foreign file take all but so many bytes."""
        self._grow(self.free_bytes - leaving)

    def fill(self) -> None:
        """Let the foreign file grow until the kernel refuses a single byte more."""
        self._grow(None)
        assert self.free_bytes == 0

    def remove_foreign_file(self) -> None:
        """Give back what the foreign file has taken."""
        self._foreign.unlink()

    def _grow(self, count: int | None) -> None:
        chunk = 64 * 1024
        with self._foreign.open("ab", buffering=0) as file:
            while chunk and (count is None or count > 0):
                try:
                    written = file.write(bytes(min(chunk, count or chunk)))
                except OSError as error:
                    if error.errno != errno.ENOSPC or count is not None:
                        raise
                    chunk //= 2
                else:
                    count = None if count is None else count - written

    def _make_image(self) -> bool:
        """Make a file with ext4 in it; False where there is no program for that."""
        with self._image.open("wb") as file:
            file.truncate(self._size_mib * MIB)
        try:
            # -m 0: nothing is set aside for root, so that full is full.
            return not _run(["mkfs.ext4", "-q", "-F", "-m", "0", str(self._image)])
        except FileNotFoundError:
            return False


def _run(command: list[str]) -> str:
    """Run it; returns why it failed, "" if it did not."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if ended.returncode == 0 else (ended.stderr.strip() or f"status {ended.returncode}")
