"""A disk in memory that does what real disks are allowed to do.

Legal faults, and no others:
- Power cut (`PowerCutError`): before any system call, or in the middle of a write. After it the
  disk holds, of every file, what was synced plus any subset of the 512-byte sectors written
  since; the length may have grown without the bytes (zeros). Of every directory it holds what was
  synced plus any subset of the changes since, each change whole (a rename is one change).
- Kill (`PowerCutError` as well, `after_kill` instead of `after_power_cut`): the process loses its
  locks; the kernel and its cache live on.
- A write or a sync fails with an errno. A failed write may have written a part. After a failed
  sync any subset of its sectors is on the disk, and the pages count as clean: they are read back
  from the cache, no later sync writes them, and a power cut, or the cache giving up clean pages
  (`drop_clean_pages`), loses them.
- No room: with `capacity_bytes` set, what makes the sum of all files (and of `others_bytes`, which
  somebody else takes up) larger fails with ENOSPC; as much as fits may have been written. Bytes
  are taken by write, truncate and allocate, and freed by truncate, unlink and a rename over a
  file. What is written over bytes that are there needs no room; nor do names and directories.
- Bit rot (`rot`): a bit of a durable byte flips, at rest, in any file; `rotted` remembers which.
But for bit rot, what was synced, and not written since, never changes.
"""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512


class PowerCutError(BaseException):
    """The power went: no code of the gateway may catch this."""


@dataclass
class Inode:
    cached: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    dirty: list[tuple[int, bytes | None]] = field(default_factory=list)  # None: cut there

    def write(self, offset: int, data: bytes) -> None:
        _put(self.cached, offset, data)
        self.dirty.append((offset, data))

    def truncate(self, length: int) -> None:
        del self.cached[length:]
        self.dirty.append((length, None))

    def sync(self) -> None:
        for offset, data in self.dirty:
            if data is None:
                del self.durable[offset:]
            else:
                _put(self.durable, offset, data)
        self.dirty.clear()

    def fail_to_sync(self, rng: random.Random) -> None:
        """Any subset is on the disk; all counts as clean for the kernel, and is never written."""
        _put_sectors(self.durable, self.dirty, rng, "random")
        self.dirty.clear()

    def after_power_cut(self, rng: random.Random, keep: str) -> Inode:
        survivor = bytearray(self.durable)
        _put_sectors(survivor, self.dirty, rng, keep)
        if keep == "random" and self.dirty and rng.random() < 0.3:
            grown = max(offset + len(data or b"") for offset, data in self.dirty)
            survivor.extend(bytes(max(0, grown - len(survivor))))
        return Inode(bytearray(survivor), bytearray(survivor))


@dataclass
class Change:
    """One un-synced change of a directory."""

    kind: str  # "link" | "unlink" | "rename"
    path: Path
    inode: Inode | None = None
    new: Path | None = None

    def apply(self, names: dict[Path, Inode]) -> None:
        if self.kind == "link":
            assert self.inode is not None
            names[self.path] = self.inode
        elif self.kind == "unlink":
            names.pop(self.path, None)
        else:
            assert self.inode is not None and self.new is not None
            names.pop(self.path, None)
            names[self.new] = self.inode


class SimulatedDisk:
    """The `Disk` of gapless_gateway.wal.disk. `calls` counts the system calls so far."""

    def __init__(self) -> None:
        self.names: dict[Path, Inode] = {}
        self.directories: set[Path] = set()
        self.durable_names: dict[Path, Inode] = {}
        self.changes: list[Change] = []
        self.locked: set[Path] = set()
        self.calls = 0
        self.power_cut_at: int | None = None
        self.fail_at: dict[int, int] = {}  # number of the call -> errno
        self.fail_next: dict[str, int] = {}  # "write" | "sync" -> errno, of the next such call
        self.failures: list[str] = []  # the calls that failed with an errno that was asked for
        self.capacity_bytes: int | None = None  # None: there is always room
        self.others_bytes = 0
        self.refused_for_room = 0
        self.rotted: list[
            tuple[Path, int, int, int]
        ] = []  # (file, offset, bit, the byte it became)
        self.trace: list[str] = []
        self.rng = random.Random(0)

    # What a test does to it

    def after_power_cut(self, seed: int, keep: str) -> SimulatedDisk:
        """The disk as the next boot finds it. keep: "none" | "all" | "random" of the un-synced."""
        rng = random.Random(seed)
        disk = SimulatedDisk()
        disk.directories = set(self.directories)
        names = dict(self.durable_names)
        for change in self.changes:
            if _chosen(rng, keep):
                change.apply(names)
        reborn: dict[int, Inode] = {}
        for path, inode in names.items():
            if id(inode) not in reborn:
                reborn[id(inode)] = inode.after_power_cut(rng, keep)
            disk.names[path] = reborn[id(inode)]
        disk.durable_names = dict(disk.names)
        disk.rng = self.rng
        disk.capacity_bytes, disk.others_bytes = self.capacity_bytes, self.others_bytes
        disk.rotted = self.rotted
        return disk

    def after_kill(self) -> SimulatedDisk:
        """The process died; the kernel and its page cache live on."""
        self.locked.clear()
        self.power_cut_at, self.fail_at, self.fail_next = None, {}, {}
        return self

    def drop_clean_pages(self) -> None:
        """The kernel needs memory: what counts as clean is read from the disk again."""
        for inode in self.names.values():
            if not inode.dirty and inode.cached != inode.durable:
                inode.cached[:] = inode.durable

    def rot(self, path: Path, offset: int, bit: int) -> None:
        """Flip a bit of a byte that is on the disk."""
        inode = self.names[path]
        inode.durable[offset] ^= 1 << bit
        if offset < len(inode.cached):
            inode.cached[offset] ^= 1 << bit
        self.rotted.append((path, offset, bit, inode.durable[offset]))

    @property
    def free_bytes(self) -> int:
        if self.capacity_bytes is None:
            return 1 << 40
        inodes = {id(inode): inode for inode in self.names.values()}
        used = sum(len(inode.cached) for inode in inodes.values())
        return max(0, self.capacity_bytes - self.others_bytes - used)

    def content(self, path: Path) -> bytearray:
        """The bytes of a file, to be read or spoilt in place (both cached and durable)."""
        return self.names[path].cached

    def spoil(self, path: Path, data: bytes) -> None:
        """Put other bytes in the place of a file's, as bit rot would."""
        inode = self.names[path]
        inode.cached[:], inode.durable[:] = data, data
        inode.dirty.clear()

    # What the log does with it

    def make_directory(self, path: Path) -> None:
        self._call(f"mkdir {path.name}")
        self.directories.add(path)

    def list(self, path: Path) -> list[str]:
        files = [name.name for name in self.names if name.parent == path]
        return sorted(files + [one.name for one in self.directories if one.parent == path])

    def size(self, path: Path) -> int:
        return len(self._inode(path).cached)

    def read(self, path: Path, offset: int = 0, length: int | None = None) -> bytes:
        data = self._inode(path).cached
        return bytes(data[offset:] if length is None else data[offset : offset + length])

    def inode(self, path: Path) -> int:
        self._inode(path)
        return 1  # nobody copies a simulated directory

    def open_reader(self, path: Path) -> SimulatedReader:
        return SimulatedReader(self._inode(path))

    def create(self, path: Path) -> SimulatedFile:
        self._call(f"create {path.name}")
        inode = Inode()
        self._change(Change("link", path, inode))
        return SimulatedFile(self, inode, path.name)

    def open(self, path: Path) -> SimulatedFile:
        return SimulatedFile(self, self._inode(path), path.name)

    def rename(self, old: Path, new: Path) -> None:
        self._call(f"rename {new.name}")
        self._change(Change("rename", old, self._inode(old), new))

    def unlink(self, path: Path) -> None:
        self._call(f"unlink {path.name}")
        self._inode(path)
        self._change(Change("unlink", path))

    def copy(self, source: Path, target: Path) -> None:
        file = self.create(target)
        file.write(self.read(source))
        file.fdatasync()

    def allocate(self, path: Path, length: int) -> None:
        file = self.create(path)
        file.write(bytes(length))
        file.fdatasync()

    def space(self, path: Path) -> tuple[int, int]:
        return self.free_bytes, (1 << 40 if self.capacity_bytes is None else self.capacity_bytes)

    def fsync_directory(self, path: Path) -> None:
        self._call(f"fsync_directory {path.name}")
        kept = []
        for change in self.changes:
            if change.path.parent == path:
                change.apply(self.durable_names)
            else:
                kept.append(change)
        self.changes = kept

    def lock(self, path: Path) -> SimulatedLock:
        if path in self.locked:
            raise BlockingIOError(errno.EAGAIN, "locked")
        self.locked.add(path)
        return SimulatedLock(self, path)

    # Inside

    def _inode(self, path: Path) -> Inode:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return self.names[path]

    def _change(self, change: Change) -> None:
        change.apply(self.names)
        self.changes.append(change)

    def _call(self, words: str) -> None:
        self.calls += 1
        self.trace.append(words)
        if self.calls == self.power_cut_at:
            raise PowerCutError(words)
        number = self.fail_at.get(self.calls)
        if number is None and self.fail_next:
            number = self.fail_next.pop(
                "write" if words.startswith("write") else "sync" if "sync" in words else "", None
            )
        if number is not None:
            self.failures.append(words)
            raise OSError(number, "simulated fault")


class SimulatedFile:
    def __init__(self, disk: SimulatedDisk, inode: Inode, name: str) -> None:
        self._disk, self._inode, self._name = disk, inode, name

    def write(self, data: bytes) -> None:
        self.write_at(len(self._inode.cached), data)

    def write_at(self, offset: int, data: bytes) -> None:
        rng = self._disk.rng
        fits = self._fits(offset, data)
        try:
            self._disk._call(f"write {self._name}")
        except (PowerCutError, OSError):
            self._inode.write(offset, data[: rng.randrange(fits + 1)])
            raise
        if fits < len(data):
            self._disk.refused_for_room += 1
            self._inode.write(offset, data[: rng.randrange(fits + 1)])
            raise OSError(errno.ENOSPC, "No space left on device")
        self._inode.write(offset, data)

    def _fits(self, offset: int, data: bytes) -> int:
        """How many of these bytes there is room for."""
        end_max = max(len(self._inode.cached), offset) + self._disk.free_bytes
        return max(0, min(len(data), end_max - offset))

    def truncate(self, length: int) -> None:
        self._disk._call(f"truncate {self._name}")
        self._inode.truncate(length)

    def fdatasync(self) -> None:
        try:
            self._disk._call(f"fdatasync {self._name}")
        except OSError:
            self._inode.fail_to_sync(self._disk.rng)
            raise
        self._inode.sync()

    def close(self) -> None:
        pass


class SimulatedReader:
    def __init__(self, inode: Inode) -> None:
        self._inode = inode

    def read(self, offset: int, length: int | None = None) -> bytes:
        data = self._inode.cached
        return bytes(data[offset:] if length is None else data[offset : offset + length])

    def size(self) -> int:
        return len(self._inode.cached)

    def close(self) -> None:
        pass


class SimulatedLock:
    def __init__(self, disk: SimulatedDisk, path: Path) -> None:
        self._disk, self._path = disk, path

    def release(self) -> None:
        self._disk.locked.discard(self._path)


def _put(data: bytearray, offset: int, new: bytes) -> None:
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(new)] = new


def _put_sectors(
    survivor: bytearray, dirty: list[tuple[int, bytes | None]], rng: random.Random, keep: str
) -> None:
    for offset, data in dirty:
        if data is None:
            if _chosen(rng, keep):
                del survivor[offset:]
            continue
        for start in range(0, max(len(data), 1), SECTOR_BYTES):
            if _chosen(rng, keep):
                _put(survivor, offset + start, data[start : start + SECTOR_BYTES])


def _chosen(rng: random.Random, keep: str) -> bool:
    return keep == "all" or (keep == "random" and rng.random() < 0.5)
