"""The one reader of a whole log: verify, inspect and the audit go through it.

Read-only, and safe beside a running gateway: a segment that is retired while it reads is not
missed, one that is begun is followed, and a batch that is just being written is a torn tail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gapless_gateway.wal import entries
from gapless_gateway.wal.cursor import Cursor, read_cursor
from gapless_gateway.wal.disk import Disk, OsDisk
from gapless_gateway.wal.entries import EntryMalformed, decode_payload
from gapless_gateway.wal.errors import WalDamaged, WalError, WalTooNew
from gapless_gateway.wal.format import (
    SEGMENT_FORMAT,
    FormatTooNewError,
    HeaderDamagedError,
    SegmentHeader,
    first_lsn_of_name,
    segment_name,
)
from gapless_gateway.wal.ledger import LedgerContent, read_ledger
from gapless_gateway.wal.segment import SegmentScan

ENTRIES_AT_A_TIME = 1024


@dataclass(frozen=True, slots=True)
class SegmentStart:
    """A segment begins; what follows up to the next SegmentStart stands in it."""

    path: Path
    header: SegmentHeader  # with the snapshot of the account before header.first_lsn
    size: int  # bytes, at this moment


class Entry(NamedTuple):
    """One valid entry."""

    lsn: int
    entry: entries.Entry
    batch_first_lsn: int
    offset: int  # of its first byte in the segment


@dataclass(frozen=True, slots=True)
class TornTail:
    """The end of the newest segment is a batch that is not whole: never acked, no damage."""

    path: Path
    offset: int
    size: int  # bytes from `offset` to the end of the file
    why: str


@dataclass(frozen=True, slots=True)
class Corruption:
    """Something that was durable cannot be read, or is not there."""

    path: Path
    offset: int
    end_offset: int
    lsn: int  # the first LSN that is missing
    next_lsn: int | None  # the first one that can be read again; None: not known
    why: str


Item = SegmentStart | Entry | TornTail | Corruption


@dataclass(frozen=True, slots=True)
class Books:
    """What stands beside the segments."""

    ledger: LedgerContent | None
    cursor: Cursor | None


def segments_directory(path: Path) -> Path:
    """The directory of the segments, of a state directory or of itself."""
    return path / "wal" if (path / "wal").is_dir() else path


def read_books(path: Path, *, disk: Disk | None = None) -> Books:
    """Ledger and cursor of a state directory; None where the file is not there.

    Raises WalTooNew, WalDamaged (a file that is no ledger), OSError.
    """
    disk = disk if disk is not None else OsDisk()
    names = disk.list(path)
    return Books(
        ledger=read_ledger(disk, path / "ledger") if "ledger" in names else None,
        cursor=read_cursor(disk, path / "cursor") if "cursor" in names else None,
    )


def read_directory(path: Path, *, disk: Disk | None = None) -> Iterator[Item]:
    """Every segment and entry of a log, oldest first, and every damage where it stands.

    `path` is a state directory, or the directory of the segments. Bounded memory. Behind damage
    the reading goes on with the next entry that is valid. Raises WalError if there is no log,
    WalTooNew, OSError.
    """
    return _Reading(disk if disk is not None else OsDisk(), segments_directory(path)).items()


class _Reading:
    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk, self._directory = disk, directory
        self._due_lsn: int | None = None  # with which the next segment has to begin
        self._previous: SegmentHeader | None = None

    def items(self) -> Iterator[Item]:
        first_lsns = self._list()
        if not first_lsns:
            raise WalError(f"{self._directory} holds no segment of a log; name a state directory")
        while first_lsns:
            done = first_lsns[0]
            yield from self._segment(done)
            first_lsns = [first_lsn for first_lsn in self._list() if first_lsn > done]

    def _list(self) -> list[int]:
        found = map(first_lsn_of_name, self._disk.list(self._directory))
        return [first_lsn for first_lsn in found if first_lsn is not None]

    def _segment(self, first_lsn: int) -> Iterator[Item]:
        path = self._directory / segment_name(first_lsn)
        try:
            scan = SegmentScan(self._disk, path)
        except FileNotFoundError:
            return  # retired since it was listed; a gap that this leaves is seen at the next one
        except FormatTooNewError as error:
            raise WalTooNew(
                f"{path} has format {error.format} and this Gapless knows up to "
                f"{SEGMENT_FORMAT}; install a newer Gapless"
            ) from None
        except HeaderDamagedError as error:
            yield Corruption(path, 0, self._disk.size(path), first_lsn, None, str(error))
            self._due_lsn = None
            return
        try:
            yield from self._check_start(scan, first_lsn)
            yield SegmentStart(path, scan.header, scan.size())
            yield from self._entries(scan)
        finally:
            scan.close()
        self._due_lsn, self._previous = scan.lsn, scan.header

    def _check_start(self, scan: SegmentScan, first_lsn: int) -> Iterator[Item]:
        header, due, before = scan.header, self._due_lsn, self._previous
        why = None
        if header.first_lsn != first_lsn:
            why = f"its name and its header (first LSN {header.first_lsn}) do not agree"
        elif before is not None and header.log_id != before.log_id:
            why = f"it belongs to another log ({header.log_id.hex()})"
        elif before is None or header.previous_first_lsn != before.first_lsn:
            if not self._was_retired(header.previous_first_lsn):
                why = (
                    f"the segment before it, {segment_name(header.previous_first_lsn)}, is missing"
                )
        elif due is not None and header.first_lsn != due:
            why = f"the segment before it ends with LSN {due - 1}"
        if why is not None:
            missing = due if due is not None else header.previous_first_lsn
            yield Corruption(scan.path, 0, 0, missing, header.first_lsn, why)

    def _was_retired(self, first_lsn: int) -> bool:
        """Whether the ledger says so: a running gateway may have retired it just now."""
        if first_lsn == 0:
            return True  # there never was one
        try:
            ledger = read_ledger(self._disk, self._directory.parent / "ledger")
        except (OSError, WalDamaged):
            return self._previous is None  # segments without their ledger: nothing to go by
        return ledger.retired_through >= first_lsn

    def _entries(self, scan: SegmentScan) -> Iterator[Item]:
        """The entries of a segment, and its damage."""
        while True:
            yield from self._valid_entries(scan)
            # Whether it is the newest is asked after its end was read: a gateway may have gone
            # on, and only the newest can have a torn tail.
            newest = max(self._list(), default=0) <= scan.header.first_lsn
            if scan.stopped is None or not newest:
                # Of a segment that was the newest when its end was read, the rest.
                scan.forget_buffer()
                yield from self._valid_entries(scan)
            if scan.stopped is None:
                return
            damage = scan.damage()
            if newest and damage.torn:
                size = scan.size() - damage.offset
                yield TornTail(scan.path, damage.offset, size, damage.why)
                return
            yield Corruption(
                scan.path,
                damage.offset,
                damage.end_offset,
                damage.lsn,
                damage.next_lsn,
                damage.why,
            )
            if damage.next_lsn is None:
                return
            scan.go_on_behind(damage)

    def _valid_entries(self, scan: SegmentScan) -> Iterator[Item]:
        while raw_entries := scan.take(ENTRIES_AT_A_TIME):
            for raw in raw_entries:
                try:
                    entry = decode_payload(raw.kind, raw.payload)
                except EntryMalformed as error:
                    end = raw.offset + len(raw.payload)
                    yield Corruption(scan.path, raw.offset, end, raw.lsn, raw.lsn + 1, str(error))
                    continue
                yield Entry(raw.lsn, entry, raw.batch_first_lsn, raw.offset)


def count_bytes(path: Path) -> int:
    """How many bytes of segments there are to read, for a progress line."""
    directory = segments_directory(path)
    return sum(file.stat().st_size for file in directory.glob("*.wal"))
