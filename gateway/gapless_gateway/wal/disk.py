"""Every file operation of the log, behind one small interface.

The log calls nothing of `os` itself, so that the tests can put a disk under it that loses what
was not synced. All methods raise OSError as the operating system does.
"""

# ruff: noqa: D102  what each method promises stands once, in the protocols

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import Protocol

FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})


class DiskFile(Protocol):
    """An open file."""

    def write(self, data: bytes) -> None:
        """Write all of `data` at the end of the file; it may be lost until fdatasync returns."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data` over what stands at `offset`."""

    def truncate(self, length: int) -> None:
        """Cut the file to `length` bytes; the next write goes to its end."""

    def fdatasync(self) -> None:
        """Return once the file's bytes and its length survive a power cut."""

    def close(self) -> None:
        """Close the file; nothing is synced by it."""


class DiskReader(Protocol):
    """A file that is open to be read; it stays readable when its name goes."""

    def read(self, offset: int, length: int | None = None) -> bytes:
        """Up to `length` bytes (all, if None) from `offset`; short only at the end of the file."""

    def size(self) -> int:
        """Its length in bytes, now."""

    def close(self) -> None:
        """Close the file."""


class DiskLock(Protocol):
    """A lock that is held until it is released or its process ends."""

    def release(self) -> None:
        """Let the next one in."""


class Disk(Protocol):
    """What the log asks of a disk."""

    def make_directory(self, path: Path) -> None:
        """Create the directory and its parents where they are missing."""

    def list(self, path: Path) -> list[str]:
        """The names in a directory, sorted."""

    def size(self, path: Path) -> int:
        """The length of a file in bytes."""

    def read(self, path: Path, offset: int = 0, length: int | None = None) -> bytes:
        """Up to `length` bytes (all, if None) from `offset`; short only at the end of the file."""

    def inode(self, path: Path) -> int:
        """The file's number on its file system: its own for as long as it is not copied."""

    def open_reader(self, path: Path) -> DiskReader:
        """An existing file, to read piece by piece."""

    def create(self, path: Path) -> DiskFile:
        """A new, empty file; whatever stood under this name is emptied."""

    def open(self, path: Path) -> DiskFile:
        """An existing file, to write at its end or in place."""

    def rename(self, old: Path, new: Path) -> None:
        """Put `old` in the place of `new`, in one step."""

    def unlink(self, path: Path) -> None:
        """Remove a name."""

    def copy(self, source: Path, target: Path) -> None:
        """Copy a file and sync the copy (not the directory)."""

    def allocate(self, path: Path, length: int) -> None:
        """A file of `length` bytes that really takes up its space, synced (not the directory)."""

    def space(self, path: Path) -> tuple[int, int]:
        """(free for us, whole size) in bytes of the file system that `path` is on."""

    def fsync_directory(self, path: Path) -> None:
        """Return once the names in the directory survive a power cut."""

    def lock(self, path: Path) -> DiskLock:
        """Take the lock file. Raises BlockingIOError if another process has it."""


class OsFile:
    """A file descriptor of the operating system."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes) -> None:
        written = os.write(self._descriptor, data)
        while written < len(data):  # a signal or a disk that is nearly full
            written += os.write(self._descriptor, data[written:])

    def write_at(self, offset: int, data: bytes) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(self._descriptor, data[written:], offset + written)

    def truncate(self, length: int) -> None:
        os.ftruncate(self._descriptor, length)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def fdatasync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class OsReader:
    """A file descriptor that is only read from."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, offset: int, length: int | None = None) -> bytes:
        if length is None:
            length = max(self.size() - offset, 0)
        return os.pread(self._descriptor, length, offset)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        os.close(self._descriptor)


class OsLock:
    """flock on a file: the kernel lets go of it when the process ends, however it ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        os.close(self._descriptor)


class OsDisk:
    """The real disk."""

    def make_directory(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def list(self, path: Path) -> list[str]:
        return sorted(os.listdir(path))  # noqa: PTH208  pathlib makes an object per name

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def read(self, path: Path, offset: int = 0, length: int | None = None) -> bytes:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            data: bytes = file.read() if length is None else file.read(length)
            return data

    def inode(self, path: Path) -> int:
        return path.stat().st_ino

    def open_reader(self, path: Path) -> OsReader:
        return OsReader(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def create(self, path: Path) -> OsFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return OsFile(os.open(path, flags, 0o640))

    def open(self, path: Path) -> OsFile:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        os.lseek(descriptor, 0, os.SEEK_END)
        return OsFile(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def copy(self, source: Path, target: Path) -> None:
        shutil.copyfile(source, target)
        descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def allocate(self, path: Path, length: int) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.posix_fallocate(descriptor, 0, length)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def space(self, path: Path) -> tuple[int, int]:
        facts = os.statvfs(path)
        return facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize

    def fsync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, path: Path) -> OsLock:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        return OsLock(descriptor)


class NoRoom(OSError):
    """The disk is full; nothing was changed by the attempt."""


def is_full(error: OSError) -> bool:
    """Whether an error of the operating system says that there is no space left."""
    return error.errno in FULL_ERRNOS


def append_whole(file: DiskFile, size: int, data: bytes) -> None:
    """Write at the end of a file of `size` bytes, and sync: all of `data`, or on a full disk none.

    Raises NoRoom for the latter. Any other OSError, and any of the sync, leaves it unknown what
    the file holds: nothing may be built on it before a new start has read it.
    """
    try:
        file.write(data)
    except OSError as error:
        if not is_full(error):
            raise
        file.truncate(size)  # a part may have been written
        file.fdatasync()
        raise NoRoom(error.errno, error.strerror) from error
    file.fdatasync()


def renew_file(disk: Disk, path: Path, data: bytes) -> None:
    """Make sure that bytes which a file begins with are on the disk, and are all that it holds.

    Written to a new file; on a disk without room for that, over themselves. Raises OSError.
    """
    try:
        write_new_file(disk, path, data)
    except NoRoom:
        file = disk.open(path)
        try:
            file.write_at(0, data)
            file.truncate(len(data))
            file.fdatasync()
        finally:
            file.close()


def write_new_file(disk: Disk, path: Path, data: bytes) -> None:
    """Put a whole file in its place so that a crash leaves the old one or the new one.

    If that fails before the rename, the old one stands and the half-made one is removed: NoRoom
    if the disk is full. Any other OSError leaves it open which of the two it is.
    """
    temporary = path.with_name(path.name + ".new")
    file = disk.create(temporary)
    try:
        file.write(data)
        file.fdatasync()
    except OSError as error:
        disk.unlink(temporary)
        if is_full(error):
            raise NoRoom(error.errno, error.strerror) from error
        raise
    finally:
        file.close()
    disk.rename(temporary, path)
    disk.fsync_directory(path.parent)
