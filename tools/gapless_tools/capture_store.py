"""The file of a capture: appended and synced in batches, and read back.

Duplicates are kept: they are evidence. A line that a crash tore is cut off when the capture is
opened again, into a file beside it (`capture.torn-OFFSET`); it was never synced, so no receipt
covers it. What was found in the file is synced once more before it counts, since after a crash
it may have been read from memory and not from the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

from gapless_gateway.errors import UserError
from gapless_tools.capture_messages import Captured, parse_line

CAPTURE_NAME = "capture.jsonl"
LOCK_NAME = "lock"


@dataclass(frozen=True, slots=True)
class Damaged:
    """A line that cannot be read. `torn`: it is the last and has no newline."""

    line: int
    offset: int
    torn: bool
    why: str


CaptureItem: TypeAlias = Captured | Damaged


class CaptureStoreError(UserError):
    """The capture's directory cannot be used, or its disk failed."""


def read_capture(path: Path) -> Iterator[CaptureItem]:
    """Yield what the capture file at `path` (or in that directory) holds, line by line.

    Read-only, safe beside a running capture (whose last line may then be torn). Lines are numbered
    from 1. Raises CaptureStoreError where the file cannot be read; what stands in it is never an
    exception: CapturedOther for a message of an unknown form, Damaged for an unreadable line.
    """
    file_path = path / CAPTURE_NAME if path.is_dir() else path
    offset = 0
    try:
        with file_path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    yield Damaged(number, offset, True, "it has no end")
                    return
                try:
                    yield parse_line(number, line)
                except ValueError as error:
                    yield Damaged(number, offset, False, str(error))
                offset += len(line)
    except OSError as error:
        raise CaptureStoreError(f"{file_path} cannot be read: {error.strerror}") from error


class CaptureStore:
    """An open capture: `append` returns when the lines are on the disk."""

    def __init__(self, directory: Path, descriptor: int, lock: int, damaged: int) -> None:
        """Use `CaptureStore.open`."""
        self.directory = directory
        self.damaged_lines = damaged
        self._descriptor = descriptor
        self._lock = lock

    @classmethod
    def open(cls, directory: Path, gateway: str, on_item: Callable[[Captured], object]) -> Self:
        """Open (or make) the capture in `directory` and hand what it holds to `on_item`.

        Raises CaptureStoreError when another capture uses the directory, when it holds another
        gateway's messages, or when it is not writable.
        """
        path = directory / CAPTURE_NAME
        with contextlib.ExitStack() as undo:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                lock = _take_lock(directory)
                undo.callback(os.close, lock)
                descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
                undo.callback(os.close, descriptor)
                _check_gateway(path, gateway)
                damaged = _rebuild(path, descriptor, on_item)
                os.fsync(descriptor)
                _sync_directory(directory)
            except OSError as error:
                raise CaptureStoreError(
                    f"the capture directory {directory} cannot be used: {error.strerror}"
                ) from error
            undo.pop_all()
        return cls(directory, descriptor, lock, damaged)

    def append(self, lines: list[bytes]) -> None:
        """Append whole lines and sync them. After an error nothing may be appended any more."""
        try:
            rest = memoryview(b"".join(lines))
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise CaptureStoreError(
                f"{self.directory / CAPTURE_NAME} cannot be written: {error.strerror}; "
                "nothing is receipted any more, see to the disk and start again"
            ) from error

    def close(self) -> None:
        """Close the file and let the directory go."""
        os.close(self._descriptor)
        os.close(self._lock)


def _take_lock(directory: Path) -> int:
    lock = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise CaptureStoreError(
            f"another capture is writing to {directory}: choose another --out"
        ) from None
    return lock


def _check_gateway(path: Path, gateway: str) -> None:
    with path.open("rb") as file, contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
        known = json.loads(file.readline())["topic"].split("/")[1]
        if known != gateway:
            raise CaptureStoreError(
                f"{path} holds what the gateway {known} published, not {gateway}: "
                "choose another --out"
            )


def _rebuild(path: Path, descriptor: int, on_item: Callable[[Captured], object]) -> int:
    """Hand on what is readable, cut an unreadable end; return how many lines are unreadable."""
    damaged = 0
    unreadable_from: int | None = None  # where the unreadable lines at the end begin
    for item in read_capture(path):
        if isinstance(item, Damaged):
            damaged += 1
            unreadable_from = item.offset if unreadable_from is None else unreadable_from
        else:
            unreadable_from = None
            on_item(item)
    if unreadable_from is not None:
        _cut(path, descriptor, unreadable_from)
    return damaged


def _cut(path: Path, descriptor: int, offset: int) -> None:
    """Move everything from `offset` on to a side file; the file is cut only when that is synced."""
    torn = os.pread(descriptor, os.fstat(descriptor).st_size - offset, offset)
    side = os.open(
        path.with_name(f"capture.torn-{offset}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
    )
    try:
        os.write(side, torn)
        os.fsync(side)
    finally:
        os.close(side)
    _sync_directory(path.parent)
    os.ftruncate(descriptor, offset)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
