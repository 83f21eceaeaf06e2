"""From a state directory to a log that can be appended to.

Recovery reads the newest segment and the fixed headers of the others, whatever the backlog. What
it has read is written to new files and synced before anything is built on it: after a failed
sync or a power cut the page cache may hold what the disk does not. Nothing that was durable is
deleted or overwritten; what it cannot set right it refuses with one sentence.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cbor2

from gapless_gateway.account.account import Account, SnapshotMalformedError
from gapless_gateway.wal.cursor import Cursor, read_cursor, write_cursor_file
from gapless_gateway.wal.disk import Disk, DiskLock
from gapless_gateway.wal.entries import Lost, decode_payload
from gapless_gateway.wal.errors import WalDamaged, WalInUse, WalTooNew
from gapless_gateway.wal.format import (
    HEADER_FIXED_BYTES,
    SEGMENT_FORMAT,
    FormatTooNewError,
    HeaderDamagedError,
    SegmentHeader,
    crc_seed,
    decode_fixed_header,
    encode_entry,
    encode_segment_header,
    first_lsn_of_name,
    segment_name,
)
from gapless_gateway.wal.ledger import (
    NO_HASH,
    Ledger,
    LedgerContent,
    read_ledger,
    rewrite_ledger_file,
    write_ledger_file,
)
from gapless_gateway.wal.salvage import derive_lost, first_seqs
from gapless_gateway.wal.segment import Damage, RawEntry, SegmentScan, SegmentWriter

RECOVERY_ENTRIES = 1024  # read at a time
LOG_ID_BYTES = 8
NEW_LOG_REMEDY = (
    "restore it from a copy, or move the state directory aside to begin a new log "
    "(docs/wal-format.md, Damage)"
)


@dataclass(frozen=True, slots=True)
class StatePaths:
    """Where things are in a state directory."""

    state_dir: Path

    @property
    def lock(self) -> Path:
        """Held by the gateway that runs on this directory."""
        return self.state_dir / "lock"

    @property
    def segments(self) -> Path:
        """The directory of the segments."""
        return self.state_dir / "wal"

    @property
    def quarantine(self) -> Path:
        """Copies of damaged files, kept as evidence."""
        return self.state_dir / "quarantine"

    @property
    def cursor(self) -> Path:
        """How far delivery has come."""
        return self.state_dir / "cursor"

    @property
    def ledger(self) -> Path:
        """Summaries of retired segments."""
        return self.state_dir / "ledger"


@dataclass(slots=True)
class Recovery:
    """What was found and done when the log was opened."""

    created: bool = False  # there was no log, a new one was made
    previous_clean: bool = True  # the run before ended with its Stopped entry
    torn_bytes: int = 0  # cut from the end of the newest segment; they were never acked
    cursor_lost: bool = False  # neither slot of the cursor held: all that is stored is sent again
    quarantined: list[str] = field(default_factory=list)  # names of files in quarantine/
    notes: list[str] = field(default_factory=list)  # one sentence each


@dataclass(slots=True)
class OpenedLog:
    """All that an open log consists of."""

    disk: Disk
    paths: StatePaths
    lock: DiskLock
    log_id: bytes
    account: Account
    first_lsns: list[int]  # of the segments, oldest first
    writer: SegmentWriter
    next_lsn: int
    ledger: Ledger
    cursor: Cursor
    recovered: Recovery
    newest_header_bytes: int


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens the log of one state directory; the caller turns OSError into a sentence."""

    disk: Disk
    paths: StatePaths
    account_type: type[Account]
    random_bytes: Callable[[int], bytes]
    now_ms: Callable[[], int]

    def open(self) -> OpenedLog:
        """Take the lock, then create or recover. Raises WalError, OSError."""
        paths, disk = self.paths, self.disk
        disk.make_directory(paths.state_dir)
        try:
            lock = disk.lock(paths.lock)
        except BlockingIOError:
            raise WalInUse(
                f"the state directory {paths.state_dir} is in use by another gateway; "
                "stop that one, or give this one a state_dir of its own"
            ) from None
        try:
            disk.make_directory(paths.segments)
            disk.make_directory(paths.quarantine)
            disk.fsync_directory(paths.state_dir)
            disk.fsync_directory(paths.state_dir.parent)
            first_lsns = self._list_segments()
            return self._recover(lock, first_lsns) if first_lsns else self._create(lock)
        except BaseException:
            lock.release()
            raise

    def _list_segments(self) -> list[int]:
        """First LSNs in order; a half-made file that never got its name is swept away."""
        first_lsns = []
        for name in self.disk.list(self.paths.segments):
            first_lsn = first_lsn_of_name(name)
            if first_lsn is not None:
                first_lsns.append(first_lsn)
            elif name.endswith(".wal.new"):
                self.disk.unlink(self.paths.segments / name)
        return first_lsns

    # A new log

    def _create(self, lock: DiskLock) -> OpenedLog:
        self._refuse_if_a_log_was_here()
        log_id = self.random_bytes(LOG_ID_BYTES)
        cursor = Cursor(log_id)
        content = write_ledger_file(self.disk, self.paths.ledger, log_id)
        write_cursor_file(self.disk, self.paths.cursor, cursor)
        account = self.account_type(log_id)
        header = SegmentHeader(
            log_id, 1, 0, self.now_ms(), 0, NO_HASH, cbor2.dumps(account.snapshot())
        )
        data = encode_segment_header(header)
        # The segment comes last: with it the log exists, without it nothing was ever promised.
        writer = SegmentWriter.create(self.disk, self.paths.segments, data, 1)
        opened = OpenedLog(
            disk=self.disk,
            paths=self.paths,
            lock=lock,
            log_id=log_id,
            account=account,
            first_lsns=[1],
            writer=writer,
            next_lsn=1,
            ledger=Ledger(self.disk, self.paths.ledger, log_id, content),
            cursor=cursor,
            recovered=Recovery(created=True),
            newest_header_bytes=len(data),
        )
        cursor.attach(self.disk, self.paths.cursor)
        return opened

    def _refuse_if_a_log_was_here(self) -> None:
        """An empty wal/ beside a ledger or cursor that has seen entries: the log is gone."""
        names = self.disk.list(self.paths.state_dir)
        cursor = read_cursor(self.disk, self.paths.cursor) if "cursor" in names else None
        used = cursor is not None and (cursor.resume_lsn > 1 or cursor.send_mark_lsn > 0)
        if "ledger" in names and not used:
            used = read_ledger(self.disk, self.paths.ledger).count > 0
        if used:
            raise WalDamaged(
                f"{self.paths.segments} holds no segment, but the cursor or ledger beside it "
                f"belongs to a log that was in use; {NEW_LOG_REMEDY}"
            )

    # A log that is there

    def _recover(self, lock: DiskLock, first_lsns: list[int]) -> OpenedLog:
        recovered = Recovery()
        self._check_chain(first_lsns)
        path = self._path(first_lsns[-1])
        try:
            scan = SegmentScan(self.disk, path)
        except HeaderDamagedError as error:
            raise _header_damaged(path, error) from None
        log_id = scan.header.log_id
        try:
            content = self._recover_ledger(scan.header, first_lsns[0])
            account, data = self._fold(scan, recovered)
        finally:
            scan.close()
        # Never trust the page cache: what was read is written anew and synced.
        writer = SegmentWriter.create(self.disk, self.paths.segments, data, first_lsns[-1])
        cursor = self._recover_cursor(log_id, account, first_lsns[0], scan.lsn, recovered)
        return OpenedLog(
            disk=self.disk,
            paths=self.paths,
            lock=lock,
            log_id=log_id,
            account=account,
            first_lsns=first_lsns,
            writer=writer,
            next_lsn=scan.lsn,
            ledger=Ledger(self.disk, self.paths.ledger, log_id, content),
            cursor=cursor,
            recovered=recovered,
            newest_header_bytes=scan.header_bytes,
        )

    def _check_chain(self, first_lsns: list[int]) -> None:
        """Every segment names the one before it: none is missing, none is of another log."""
        previous: SegmentHeader | None = None
        for first_lsn in first_lsns:
            path = self._path(first_lsn)
            header = self._fixed_header(path)
            if header.first_lsn != first_lsn:
                raise WalDamaged(
                    f"{path} says that it begins with LSN {header.first_lsn}, so it was renamed; "
                    "give it back its name"
                )
            if previous is not None and header.log_id != previous.log_id:
                raise WalDamaged(
                    f"{path} belongs to another log ({header.log_id.hex()}) than the segments "
                    f"before it ({previous.log_id.hex()}); move it out of this directory"
                )
            if previous is not None and header.previous_first_lsn != previous.first_lsn:
                missing = self._path(header.previous_first_lsn)
                raise WalDamaged(f"the segment {missing} is missing; {NEW_LOG_REMEDY}")
            previous = header

    def _fixed_header(self, path: Path) -> SegmentHeader:
        try:
            return decode_fixed_header(self.disk.read(path, 0, HEADER_FIXED_BYTES))[0]
        except FormatTooNewError as error:
            raise WalTooNew(
                f"{path} has format {error.format} and this Gapless knows up to "
                f"{SEGMENT_FORMAT}; install a newer Gapless"
            ) from None
        except HeaderDamagedError as error:
            raise _header_damaged(path, error) from None

    def _fold(self, scan: SegmentScan, recovered: Recovery) -> tuple[Account, bytes]:
        """The account over the newest segment, and the bytes that take the segment's place."""
        account = self._restore(scan)
        pieces: list[bytes] = []
        start = 0
        while True:
            while raw_entries := scan.take(RECOVERY_ENTRIES):
                for raw in raw_entries:
                    account.apply(raw.lsn, decode_payload(raw.kind, raw.payload))
            if scan.stopped is None:
                break
            damage = scan.damage()
            if damage.torn:
                recovered.torn_bytes = damage.torn_bytes
                recovered.notes.append(
                    f"{damage.torn_bytes} bytes of a batch that was never acked were cut from "
                    f"{scan.path.name} ({damage.why})"
                )
                break
            pieces += [scan.read(start, damage.offset - start)]
            for lsn, lost in enumerate(self._salvage(scan, damage, account), damage.lsn):
                account.apply(lsn, lost)
                seed = crc_seed(scan.header.log_id)
                pieces.append(encode_entry(lsn, min(damage.lsn, damage.next_batch), lost, seed))
            self._keep_evidence(scan, damage, recovered)
            scan.go_on_behind(damage)
            start = damage.end_offset
        pieces.append(scan.read(start, scan.offset - start))
        recovered.previous_clean = not account.running
        return account, b"".join(pieces)

    def _restore(self, scan: SegmentScan) -> Account:
        try:
            return self.account_type.restore(cbor2.loads(scan.header.snapshot))
        except SnapshotMalformedError as error:
            raise WalTooNew(
                f"the account in the header of {scan.path} is of another version ({error}); "
                "install the Gapless that wrote it, or a newer one"
            ) from None

    def _salvage(self, scan: SegmentScan, damage: Damage, account: Account) -> list[Lost]:
        """LOST for exactly what is gone. Raises WalDamaged where that cannot be derived.

        What may have been sent may have been delivered, and what was delivered is never LOST: so
        nothing is declared up to the send mark.
        """
        assert damage.next_lsn is not None
        names = self.disk.list(self.paths.state_dir)
        cursor = read_cursor(self.disk, self.paths.cursor) if "cursor" in names else None
        lost = None
        if cursor is not None and cursor.send_mark_lsn < damage.lsn:
            scan.go_on_behind(damage)
            lost = derive_lost(
                damage.lsn,
                damage.next_lsn,
                durable={stream: kept.durable for stream, kept in account.streams.items()},
                behind=first_seqs(_take_all(scan)),
                rx_ms=self.now_ms(),
                outage=account.outage.id if account.outage is not None else 0,
            )
        if lost is None:
            raise WalDamaged(
                f"{scan.path} is damaged at byte {damage.offset} ({damage.why}): the entries "
                f"from LSN {damage.lsn} through {damage.next_lsn - 1} were durable and cannot be "
                f"read, nor derived from their neighbours; nothing was changed; {NEW_LOG_REMEDY}"
            )
        return lost

    def _keep_evidence(self, scan: SegmentScan, damage: Damage, recovered: Recovery) -> None:
        if not recovered.quarantined:
            recovered.quarantined.append(self._quarantine(scan.path))
        recovered.notes.append(
            f"{scan.path.name} was damaged at byte {damage.offset} ({damage.why}): a copy is in "
            f"quarantine/{recovered.quarantined[0]}, and what LSN {damage.lsn} and following held "
            "is declared LOST(corruption)"
        )

    def _recover_ledger(self, newest: SegmentHeader, oldest_first_lsn: int) -> LedgerContent:
        path = self.paths.ledger
        try:
            content = read_ledger(self.disk, path)
        except FileNotFoundError:
            raise WalDamaged(f"{path} is missing; {NEW_LOG_REMEDY}") from None
        if content.log_id != newest.log_id:
            raise WalDamaged(f"{path} is not the ledger of this log; {NEW_LOG_REMEDY}")
        if content.hash_at(newest.ledger_count) != newest.ledger_hash:
            raise WalDamaged(
                f"{path} was cut short or rewritten: {newest.ledger_count} entries are anchored "
                f"in the log and {content.count} can be read; {NEW_LOG_REMEDY}"
            )
        if content.fault is not None:
            raise WalDamaged(f"{path} was changed: {content.fault}; {NEW_LOG_REMEDY}")
        previous = self._fixed_header(self._path(oldest_first_lsn)).previous_first_lsn
        if previous > content.retired_through:
            raise WalDamaged(
                f"the segment {self._path(previous)} is missing and the ledger does not say that "
                f"it was retired; {NEW_LOG_REMEDY}"
            )
        rewrite_ledger_file(self.disk, path, content)
        return content

    def _recover_cursor(
        self,
        log_id: bytes,
        account: Account,
        oldest_first_lsn: int,
        next_lsn: int,
        recovered: Recovery,
    ) -> Cursor:
        path = self.paths.cursor
        present = path.name in self.disk.list(self.paths.state_dir)
        cursor = read_cursor(self.disk, path) if present else None
        if cursor is None or cursor.log_id != log_id:
            if present:
                recovered.quarantined.append(self._quarantine(path))
            cursor = Cursor(log_id)
            cursor.resume_lsn, cursor.send_mark_lsn = oldest_first_lsn, next_lsn - 1
            cursor.delivered_through = {
                stream: kept.delivered_through for stream, kept in account.streams.items()
            }
            recovered.cursor_lost = True
            recovered.notes.append(
                "the cursor is missing or unreadable: everything that is still stored is sent "
                "again, flagged as a redelivery"
            )
        # LSNs from here on are given anew: nothing of them was sent or delivered.
        cursor.resume_lsn = min(cursor.resume_lsn, next_lsn)
        cursor.send_mark_lsn = min(cursor.send_mark_lsn, next_lsn - 1)
        for stream, through in cursor.delivered_through.items():
            if stream in account.streams:
                account.delivered(stream, through)
        write_cursor_file(self.disk, path, cursor)
        cursor.attach(self.disk, path)
        return cursor

    def _quarantine(self, path: Path) -> str:
        """Copy a file into quarantine/, synced; returns the name of the copy."""
        taken = set(self.disk.list(self.paths.quarantine))
        number = 1
        while (name := f"{path.name}.{number}") in taken:
            number += 1
        self.disk.copy(path, self.paths.quarantine / name)
        self.disk.fsync_directory(self.paths.quarantine)
        return name

    def _path(self, first_lsn: int) -> Path:
        return self.paths.segments / segment_name(first_lsn)


def _take_all(scan: SegmentScan) -> list[RawEntry]:
    """Every entry up to the next damage or the end: of one segment, so bounded by its size."""
    taken: list[RawEntry] = []
    while entries := scan.take(RECOVERY_ENTRIES):
        taken += entries
    return taken


def _header_damaged(path: Path, error: HeaderDamagedError) -> WalDamaged:
    return WalDamaged(f"{path} is damaged: {error}; {NEW_LOG_REMEDY}")


def utc_now_ms() -> int:
    """Milliseconds of UTC since 1970."""
    return time.time_ns() // 1_000_000
