"""Puts a whole segment in the place of a damaged or missing one, and keeps what was there.

The order is what keeps the promise: a copy of the damaged file in quarantine/, synced; then the
new one under a temporary name, synced; then the rename. Nothing is deleted, and a crash leaves
the old file or the new one.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import cbor2

from gapless_gateway.account.account import Account, SnapshotMalformedError
from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.wal.disk import Disk, NoRoom, is_full
from gapless_gateway.wal.entries import GONE_QUOTA, Gone, Record, decode_payload
from gapless_gateway.wal.errors import WalDamaged, WalTooNew
from gapless_gateway.wal.format import (
    ENTRY_HEADER_BYTES,
    HEADER_FIXED_BYTES,
    SEGMENT_FORMAT,
    FormatTooNewError,
    HeaderDamagedError,
    SegmentHeader,
    decode_fixed_header,
    decode_snapshot,
    first_lsn_of_name,
)
from gapless_gateway.wal.healing import (
    Gap,
    Numbers,
    ReadableRun,
    SegmentReading,
    assign_by_accounts,
    assign_by_neighbours,
    numbers_of,
    read_segment,
    rewritten,
    told_by,
    union,
)
from gapless_gateway.wal.paths import StatePaths
from gapless_gateway.wal.segment import SegmentScan, SegmentWriter

NEW_LOG_REMEDY = (
    "restore it from a copy, or move the state directory aside to begin a new log "
    "(docs/wal-format.md, Damage)"
)


@dataclass(slots=True)
class Repaired:
    """What was put in the place of a segment."""

    path: Path
    gone: list[tuple[int, Gone]] = field(default_factory=list)  # (LSN, entry)
    note: str = ""  # one sentence
    evidence: str | None = None  # name of the copy in quarantine/; None: there was no file


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Where a segment stands. LSNs of first entries; 0, None: there is no such segment."""

    first_lsn: int
    previous_first_lsn: int
    next_first_lsn: int | None


def too_new(path: Path, error: FormatTooNewError) -> WalTooNew:
    """The sentence about a segment of a newer format."""
    return WalTooNew(
        f"{path} has format {error.format} and this Gapless knows up to {SEGMENT_FORMAT}; "
        "install a newer Gapless"
    )


def restore_account(account_type: type[Account], snapshot: bytes, path: Path) -> Account:
    """The account in a segment's header. Raises WalTooNew, WalDamaged."""
    try:
        return account_type.restore(cbor2.loads(snapshot))
    except SnapshotMalformedError as error:
        raise WalTooNew(
            f"the account in the header of {path} is of another version ({error}); "
            "install the Gapless that wrote it, or a newer one"
        ) from None


def read_header(disk: Disk, path: Path) -> SegmentHeader:
    """The header that a file begins with. Raises HeaderDamagedError, FormatTooNewError, OSError."""
    header, length = decode_fixed_header(disk.read(path, 0, HEADER_FIXED_BYTES))
    rest = disk.read(path, HEADER_FIXED_BYTES, length - HEADER_FIXED_BYTES)
    return replace(header, snapshot=decode_snapshot(rest, header))


def keep_evidence(disk: Disk, paths: StatePaths, path: Path) -> str:
    """Copy a file into quarantine/, synced; returns the name of the copy.

    A copy of the same bytes is not made twice. Raises NoRoom, OSError.
    """
    taken = set(disk.list(paths.quarantine))
    data = disk.read(path)
    number = 1
    while (name := f"{path.name}.{number}") in taken:
        if disk.read(paths.quarantine / name) == data:
            return name
        number += 1
    try:
        disk.copy(path, paths.quarantine / name)
    except OSError as error:
        if not is_full(error):
            raise
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(paths.quarantine / name)
        raise NoRoom(error.errno, error.strerror) from error
    disk.fsync_directory(paths.quarantine)
    return name


class SegmentRepair:
    """Repairs the segments of one log. All methods block, and raise OSError and WalError."""

    def __init__(
        self, disk: Disk, paths: StatePaths, log_id: bytes, account_type: type[Account]
    ) -> None:
        self._disk = disk
        self._paths = paths
        self._log_id = log_id
        self._account_type = account_type

    # What the gateway and `gapless wal repair` call

    def repair_older(
        self, where: Neighbours, delivered_through: Mapping[bytes, int]
    ) -> Repaired | None:
        """Repair a segment that another one follows; None if there is nothing to repair."""
        assert where.next_first_lsn is not None
        path = self._paths.segment(where.first_lsn)
        scan, missing = self._scan(where)
        try:
            if scan is None:
                header = self.header_of(where)
                reading = SegmentReading(end_lsn=where.first_lsn)
                reading.add_gap(where.next_first_lsn, 0, "the file is missing")
                self._assign(reading, header, where, delivered_through)
                return self._put_in_place(path, header, reading)
            reading = read_segment(scan, next_first_lsn=where.next_first_lsn)
            if not reading.gaps and not missing:
                return None
            self._assign(reading, scan.header, where, delivered_through)
            return self._put_in_place(path, scan, reading)
        finally:
            if scan is not None:
                scan.close()

    def repair_newest(
        self, scan: SegmentScan, delivered_through: Mapping[bytes, int]
    ) -> tuple[SegmentWriter, Repaired]:
        """Repair the newest segment; `scan` stands at its beginning. The writer is open."""
        reading = read_segment(scan, next_first_lsn=None)
        before = restore_account(self._account_type, scan.header.snapshot, scan.path)
        assign_by_neighbours(reading, before, delivered_through)
        content, gone = rewritten(scan, reading)
        repaired = Repaired(scan.path, gone, evidence=self._keep(scan.path))
        repaired.note = _note(repaired, reading)
        writer = SegmentWriter.create(
            self._disk, self._paths.segments, content, scan.header.first_lsn
        )
        return writer, repaired

    def drop_records(self, where: Neighbours) -> Repaired:
        """Give up the records of a segment for want of room; all its other entries stay."""
        scan = SegmentScan(self._disk, self._paths.segment(where.first_lsn))
        try:
            reading = without_records(scan)
            if not reading.gaps:  # dropped before this start
                return Repaired(scan.path)
            content, gone = rewritten(scan, reading, cause=GONE_QUOTA)
            SegmentWriter.create(self._disk, self._paths.segments, content, where.first_lsn).close()
            return Repaired(scan.path, gone)
        finally:
            scan.close()

    def header_of(self, where: Neighbours) -> SegmentHeader:
        """The header that a segment had, whose own cannot be read.

        From the copy of the newest header; else the account is folded from the segment before;
        else, for the first segment of a log, it is the empty account; else the account of the
        next segment stands in, which is later, so that the audit begins there. Raises WalDamaged.
        """
        paths = self._paths
        copy = self._header_or_none(paths.header_copy)
        if copy is not None and copy.first_lsn == where.first_lsn:
            return copy
        previous = self._header_or_none(paths.segment(where.previous_first_lsn))
        following = (
            None
            if where.next_first_lsn is None
            else self._header_or_none(paths.segment(where.next_first_lsn))
        )
        snapshot: bytes | None = None
        if where.first_lsn == 1:
            snapshot = cbor2.dumps(self._account_type(self._log_id).snapshot())
        elif previous is not None:
            snapshot = self._folded_through(paths.segment(where.previous_first_lsn), where)
        if snapshot is None and following is not None:
            snapshot = following.snapshot
        if snapshot is None:
            raise WalDamaged(
                f"{paths.segment(where.first_lsn)} is damaged: its header cannot be read, nor "
                f"derived from its neighbours; nothing was changed; {NEW_LOG_REMEDY}"
            )
        anchor = previous or following
        return SegmentHeader(
            log_id=self._log_id,
            first_lsn=where.first_lsn,
            previous_first_lsn=where.previous_first_lsn,
            created_ms=anchor.created_ms if anchor is not None else 0,
            ledger_count=anchor.ledger_count if anchor is not None else 0,
            ledger_hash=anchor.ledger_hash if anchor is not None else bytes(32),
            snapshot=snapshot,
        )

    def end_of(self, first_lsn: int) -> int | None:
        """The LSN behind the last entry of a segment; None: its end cannot be read."""
        try:
            scan = SegmentScan(self._disk, self._paths.segment(first_lsn), with_snapshot=False)
        except (HeaderDamagedError, FileNotFoundError):
            return None
        try:
            reading = read_segment(scan, next_first_lsn=None)
            # What would be a torn tail in the newest segment is damage in one that others follow.
            return reading.end_lsn if not reading.torn_bytes else None
        finally:
            scan.close()

    # Inside

    def _scan(self, where: Neighbours) -> tuple[SegmentScan | None, bool]:
        """A scan, and whether the header is damaged. No scan: there is no file."""
        path = self._paths.segment(where.first_lsn)
        try:
            return SegmentScan(self._disk, path), False
        except FileNotFoundError:
            return None, True
        except HeaderDamagedError:
            return SegmentScan(self._disk, path, header=self.header_of(where)), True

    def _header_or_none(self, path: Path) -> SegmentHeader | None:
        try:
            header = read_header(self._disk, path)
        except (HeaderDamagedError, FileNotFoundError):
            return None
        except FormatTooNewError as error:
            if path == self._paths.header_copy:
                return None  # what it is a copy of says whether that is so
            raise too_new(path, error) from None
        return header if header.log_id == self._log_id else None

    def _folded_through(self, path: Path, where: Neighbours) -> bytes | None:
        """The account at the end of the segment before; None if it cannot be folded whole."""
        scan = SegmentScan(self._disk, path)
        try:
            account = restore_account(self._account_type, scan.header.snapshot, path)
            while raw_entries := scan.take(1024):
                for raw in raw_entries:
                    account.apply(raw.lsn, decode_payload(raw.kind, raw.payload))
            if scan.stopped is not None or scan.lsn != where.first_lsn:
                return None
            return cbor2.dumps(account.snapshot())
        finally:
            scan.close()

    def _assign(
        self,
        reading: SegmentReading,
        header: SegmentHeader,
        where: Neighbours,
        delivered_through: Mapping[bytes, int],
    ) -> None:
        """Say which numbers stood in each gap.

        The accounts on both sides say so, unless one of them had to stand in for a header that
        was damaged as well. Then what all other segments tell takes its place.
        """
        path = self._paths.segment(where.first_lsn)
        following = self._following(where, delivered_through)
        if following is None:
            return  # the newest one's header and its copy as well: no one knows what was here
        before_account = restore_account(self._account_type, header.snapshot, path)
        after_account = restore_account(self._account_type, following.snapshot, path)
        before, after = numbers_of(before_account), numbers_of(after_account)
        if before_account.next_lsn not in (None, where.first_lsn):
            delivered = {one: IntervalSet([(0, to)]) for one, to in delivered_through.items()}
            before = union(delivered, self._told_by_segments(range(where.first_lsn)))
        if after_account.next_lsn != following.first_lsn:
            behind = self._told_by_segments(range(following.first_lsn, sys.maxsize))
            after = {
                stream: numbers.difference(behind.get(stream, IntervalSet()))
                for stream, numbers in after.items()
            }
        assign_by_accounts(reading, before, after)

    def _following(
        self, where: Neighbours, delivered_through: Mapping[bytes, int]
    ) -> SegmentHeader | None:
        """The header of the next segment, which is repaired first if need be."""
        assert where.next_first_lsn is not None
        path = self._paths.segment(where.next_first_lsn)
        found = self._header_or_none(path)
        if found is not None:
            return found
        copy = self._header_or_none(self._paths.header_copy)
        if copy is not None and copy.first_lsn == where.next_first_lsn:
            return copy
        behind = [one for one in self._first_lsns() if one > where.next_first_lsn]
        if not behind:
            return None
        self.repair_older(
            Neighbours(where.next_first_lsn, where.first_lsn, behind[0]), delivered_through
        )
        return self._header_or_none(path)

    def _first_lsns(self) -> list[int]:
        found = map(first_lsn_of_name, self._disk.list(self._paths.segments))
        return [first_lsn for first_lsn in found if first_lsn is not None]

    def _told_by_segments(self, first_lsns: range) -> Numbers:
        """What the segments that begin in a range of LSNs tell, as far as they can be read."""
        told: Numbers = {}
        for first_lsn in self._first_lsns():
            if first_lsn not in first_lsns:
                continue
            path = self._paths.segment(first_lsn)
            try:
                scan = SegmentScan(self._disk, path, with_snapshot=False)
            except HeaderDamagedError:
                continue
            try:
                told = union(told, told_by(read_segment(scan, next_first_lsn=None)))
            finally:
                scan.close()
        return told

    def _put_in_place(
        self, path: Path, source: SegmentScan | SegmentHeader, reading: SegmentReading
    ) -> Repaired:
        is_file = isinstance(source, SegmentScan)
        header = source.header if isinstance(source, SegmentScan) else source
        repaired = Repaired(path, evidence=self._keep(path) if is_file else None)
        content, repaired.gone = rewritten(source, reading)
        repaired.note = _note(repaired, reading)
        SegmentWriter.create(self._disk, self._paths.segments, content, header.first_lsn).close()
        return repaired

    def _keep(self, path: Path) -> str:
        return keep_evidence(self._disk, self._paths, path)


def without_records(scan: SegmentScan) -> SegmentReading:
    """A segment's reading in which a gap stands for every run of records. Raises WalDamaged."""
    reading = SegmentReading(end_lsn=scan.header.first_lsn)
    gap: Gap | None = None
    while raw_entries := scan.take(1024):
        for raw in raw_entries:
            end_offset = raw.offset + ENTRY_HEADER_BYTES + len(raw.payload)
            if raw.kind != Record.KIND:
                gap = None
                reading.pieces.append(
                    ReadableRun(raw.offset, end_offset, raw.batch_first_lsn, raw.batch_first_lsn)
                )
            else:
                if gap is None:
                    gap = Gap(raw.lsn, raw.lsn, raw.offset, GONE_QUOTA)
                    reading.pieces.append(gap)
                record = decode_payload(raw.kind, raw.payload)
                assert isinstance(record, Record)
                _extend(gap, record)
                gap.next_lsn = raw.lsn + 1
    if scan.stopped is not None:
        raise WalDamaged(f"{scan.path} is damaged at byte {scan.offset} ({scan.stopped})")
    reading.end_lsn = scan.lsn
    return reading


def _extend(gap: Gap, record: Record) -> None:
    for index in range(len(gap.ranges) - 1, -1, -1):
        stream, first, last = gap.ranges[index]
        if stream == record.stream:
            if last == record.seq - 1:
                gap.ranges[index] = (stream, first, record.seq)
                return
            break
    gap.ranges.append((record.stream, record.seq, record.seq))


def _note(repaired: Repaired, reading: SegmentReading) -> str:
    gaps = reading.gaps
    why = gaps[0].why if gaps else "its header was damaged"
    kept = (
        f"a copy is in quarantine/{repaired.evidence}"
        if repaired.evidence is not None
        else "there was nothing to keep"
    )
    lost = sum(gap.next_lsn - gap.lsn for gap in gaps)
    numbers = sum(last - first + 1 for gap in gaps for _, first, last in gap.ranges)
    at = f" at byte {gaps[0].offset}" if gaps else ""
    return (
        f"{repaired.path.name} was damaged{at} ({why}): {kept}, and in its place stands what could "
        f"be saved; {lost} entries with {numbers} numbers in them are gone"
    )
