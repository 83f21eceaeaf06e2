"""From a state directory to a log that can be appended to.

Recovery reads the newest segment and the fixed headers of the others, whatever the backlog. What
it has read is written to new files and synced before anything is built on it: after a failed
sync or a power cut the page cache may hold what the disk does not. Nothing that was durable is
deleted or overwritten; what it cannot set right it refuses with one sentence.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cbor2

from gapless_gateway.account.account import Account
from gapless_gateway.wal.chain import SegmentChain
from gapless_gateway.wal.cursor import (
    Cursor,
    read_cursor,
    read_cursor_of,
    renew_cursor_file,
    write_cursor_file,
)
from gapless_gateway.wal.disk import Disk, DiskLock, write_new_file
from gapless_gateway.wal.entries import GONE_CORRUPTION, EntryMalformed, Gone, decode_payload
from gapless_gateway.wal.errors import WalDamaged, WalInUse
from gapless_gateway.wal.format import (
    FormatTooNewError,
    HeaderDamagedError,
    SegmentHeader,
    crc_seed,
    encode_entry,
    encode_segment_header,
    first_lsn_of_name,
)
from gapless_gateway.wal.ledger import (
    NO_HASH,
    Ledger,
    LedgerContent,
    read_ledger,
    rewrite_ledger_file,
    write_ledger_file,
)
from gapless_gateway.wal.paths import StatePaths
from gapless_gateway.wal.repairing import (
    NEW_LOG_REMEDY,
    Neighbours,
    Repaired,
    SegmentRepair,
    keep_evidence,
    read_header,
    restore_account,
)
from gapless_gateway.wal.segment import SegmentScan, SegmentWriter

RECOVERY_ENTRIES = 1024  # read at a time
LOG_ID_BYTES = 8


@dataclass(slots=True)
class Recovery:
    """What was found and done when the log was opened."""

    created: bool = False  # there was no log, a new one was made
    copied: bool = False  # the directory was copied since the last start, as a restored one is
    previous_clean: bool = True  # the run before ended with its Stopped entry
    torn_bytes: int = 0  # cut from the end of the newest segment; they were never acked
    cursor_lost: bool = False  # neither slot of the cursor held: all that is stored is sent again
    quarantined: list[str] = field(default_factory=list)  # names of files in quarantine/
    # (LSN, entry) of what stands in for entries that are gone, as far as it was met
    gone: list[tuple[int, Gone]] = field(default_factory=list)
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
            put_back = self._put_newest_back(first_lsns)
            if not first_lsns:
                return self._create(lock)
            return self._recover(lock, first_lsns, put_back=put_back)
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

    def _put_newest_back(self, first_lsns: list[int]) -> bool:
        """The newest segment is missing if the copy of its header is of a later one than any here.

        It begins anew, with that header; what it held the boards tell with their next HELLO.
        """
        try:
            header = read_header(self.disk, self.paths.header_copy)
        except (FileNotFoundError, HeaderDamagedError, FormatTooNewError):
            return False
        if header.first_lsn <= max(first_lsns, default=0):
            return False
        content = encode_segment_header(header)
        SegmentWriter.create(self.disk, self.paths.segments, content, header.first_lsn).close()
        first_lsns.append(header.first_lsn)
        return True

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
        write_new_file(self.disk, self.paths.header_copy, data)
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

    def _recover(self, lock: DiskLock, first_lsns: list[int], *, put_back: bool) -> OpenedLog:
        """`put_back`: the newest segment was missing, and begins anew."""
        recovered = Recovery(copied=not self._is_at_home())
        chain = SegmentChain(self.disk, self.paths, first_lsns)
        log_id = chain.log_id
        repair = SegmentRepair(self.disk, self.paths, log_id, self.account_type)
        suspects = chain.suspects(repair)
        cursor = read_cursor_of(self.disk, self.paths.cursor, log_id)
        through = cursor.delivered_through if cursor is not None else {}
        for where in reversed(suspects):
            repaired = repair.repair_older(where, through)
            if repaired is not None:
                _note_repaired(recovered, repaired)
                recovered.gone += repaired.gone
        newest = Neighbours(first_lsns[-1], ([0, *first_lsns])[-2], None)
        scan = self._scan_newest(newest, repair)
        try:
            content = self._recover_ledger(scan.header, recovered)
            tail = self._fold(scan, cursor, repair, recovered)
            self._append_cut_tail(tail, cursor, recovered, put_back=put_back)
            recovered.previous_clean = not tail.account.running
        finally:
            scan.close()
        cursor = self._recover_cursor(cursor, tail.account, first_lsns[0], tail.next_lsn, recovered)
        return OpenedLog(
            disk=self.disk,
            paths=self.paths,
            lock=lock,
            log_id=log_id,
            account=tail.account,
            first_lsns=first_lsns,
            writer=tail.writer,
            next_lsn=tail.next_lsn,
            ledger=Ledger(self.disk, self.paths.ledger, log_id, content),
            cursor=cursor,
            recovered=recovered,
            newest_header_bytes=tail.header_bytes,
        )

    def _scan_newest(self, where: Neighbours, repair: SegmentRepair) -> SegmentScan:
        path = self._path(where.first_lsn)
        try:
            return SegmentScan(self.disk, path)
        except HeaderDamagedError:
            return SegmentScan(self.disk, path, header=repair.header_of(where))

    def _fold(
        self, scan: SegmentScan, cursor: Cursor | None, repair: SegmentRepair, recovered: Recovery
    ) -> _Tail:
        """The account over the newest segment, which is written anew, whole."""
        tail = self._folded(scan, recovered)
        path, first_lsn = scan.path, scan.header.first_lsn
        if tail is None:
            scan.start_again()
            through = cursor.delivered_through if cursor is not None else {}
            writer, repaired = repair.repair_newest(scan, through)
            _note_repaired(recovered, repaired)
            again = SegmentScan(self.disk, path)
            try:
                tail = self._folded(again, recovered)
                assert tail is not None, "what was just repaired is whole"
            finally:
                again.close()
        else:
            # Never trust the page cache: what was read is written anew and synced.
            header = encode_segment_header(scan.header)
            body = scan.read(scan.header_bytes, scan.offset - scan.header_bytes)
            tail.header_bytes = len(header)
            writer = SegmentWriter.renew(
                self.disk, self.paths.segments, header + body, first_lsn,
                in_place=len(header) == scan.header_bytes,
            )  # fmt: skip
        tail.writer = writer
        self._keep_header_copy(path, first_lsn, tail.header_bytes)
        return tail

    def _folded(self, scan: SegmentScan, recovered: Recovery) -> _Tail | None:
        """Fold a segment to its end or its torn tail; None if it is damaged before that."""
        if scan.stopped is not None:
            return None
        account = restore_account(self.account_type, scan.header.snapshot, scan.path)
        gone: list[tuple[int, Gone]] = []
        while raw_entries := scan.take(RECOVERY_ENTRIES):
            for raw in raw_entries:
                try:
                    entry = decode_payload(raw.kind, raw.payload)
                except EntryMalformed as error:
                    raise WalDamaged(
                        f"{scan.path} holds an entry that this Gapless cannot read (LSN "
                        f"{raw.lsn}: {error}); nothing was changed; install a newer Gapless"
                    ) from None
                account.apply(raw.lsn, entry)
                if type(entry) is Gone:
                    gone.append((raw.lsn, entry))
        if scan.stopped is not None:
            damage = scan.damage()
            if not damage.torn:
                return None
            recovered.torn_bytes = damage.torn_bytes
            recovered.notes.append(
                f"{damage.torn_bytes} bytes of a batch that was never acked were cut from "
                f"{scan.path.name} ({damage.why})"
            )
        recovered.gone += gone
        return _Tail(account, scan.lsn, scan.header_bytes, scan.batch_first_lsn)

    def _append_cut_tail(
        self, tail: _Tail, cursor: Cursor | None, recovered: Recovery, *, put_back: bool
    ) -> None:
        """Make room in the log for what the cursor says was in it, and is not there any more."""
        ranges = []
        resume_lsn = 0
        if cursor is not None:
            resume_lsn = cursor.resume_lsn
            for stream, through in sorted(cursor.delivered_through.items()):
                known = tail.account.streams.get(stream)
                if known is None and through:
                    # The Session that opened it is gone as well: its account begins here.
                    ranges.append((stream, through, through))
                elif known is not None and known.durable < through:
                    ranges.append((stream, known.durable + 1, through))
        if not (ranges or put_back or resume_lsn > tail.next_lsn):
            return
        lsn = tail.next_lsn
        last_lsn = max(resume_lsn - 1, lsn)
        gone = Gone(last_lsn, GONE_CORRUPTION, tuple(ranges))
        tail.writer.append(encode_entry(lsn, lsn, gone, crc_seed(tail.account.log_id)))
        tail.account.apply(lsn, gone)
        tail.next_lsn = last_lsn + 1
        recovered.gone.append((lsn, gone))
        recovered.notes.append(
            f"the newest segment was missing, and begins anew with LSN {lsn}"
            if put_back
            else f"the log ends before LSN {last_lsn}, which the cursor says was delivered: "
            "its end was cut off, or the log was restored from an older copy than the cursor"
        )

    def _is_at_home(self) -> bool:
        """Whether this directory is the one that the log was written in, and no copy of it."""
        try:
            told = self.disk.read(self.paths.home)
            return not told or told == home_content(self.disk, self.paths)
        except FileNotFoundError:
            return True  # the first start of this version

    def _keep_header_copy(self, path: Path, first_lsn: int, header_bytes: int) -> None:
        """See to it that the copy of the newest header is there; a full disk does without."""
        header = self.disk.read(path, 0, header_bytes)
        with contextlib.suppress(FileNotFoundError):
            if self.disk.read(self.paths.header_copy) == header:
                return
        with contextlib.suppress(OSError):
            write_new_file(self.disk, self.paths.header_copy, header)

    def _recover_ledger(self, newest: SegmentHeader, recovered: Recovery) -> LedgerContent:
        """The ledger, written anew as far as it is valid.

        It is evidence, and nothing that is stored depends on it: a damaged one is kept aside and
        gone on with, and the audit says that a part of it is missing.
        """
        path = self.paths.ledger
        try:
            content = read_ledger(self.disk, path)
        except FileNotFoundError:
            recovered.notes.append(
                f"{path.name} was missing: what it told of is not known any more"
            )
            return write_ledger_file(self.disk, path, newest.log_id)
        except WalDamaged:
            content = None
        if content is None or content.log_id != newest.log_id:
            self._keep_damaged_ledger(recovered, "its beginning is damaged")
            return write_ledger_file(self.disk, path, newest.log_id)
        fault = content.fault or _fault_of_anchor(content, newest)
        if fault is not None:
            self._keep_damaged_ledger(recovered, fault)
        rewrite_ledger_file(self.disk, path, content)
        return content

    def _keep_damaged_ledger(self, recovered: Recovery, why: str) -> None:
        name = keep_evidence(self.disk, self.paths, self.paths.ledger)
        recovered.quarantined.append(name)
        recovered.notes.append(
            f"{self.paths.ledger.name} was damaged ({why}): a copy is in quarantine/{name}, and it "
            "goes on with what can be read"
        )

    def _recover_cursor(
        self,
        cursor: Cursor | None,
        account: Account,
        oldest_first_lsn: int,
        next_lsn: int,
        recovered: Recovery,
    ) -> Cursor:
        path = self.paths.cursor
        if cursor is None:
            if path.name in self.disk.list(self.paths.state_dir):
                recovered.quarantined.append(keep_evidence(self.disk, self.paths, path))
            cursor = Cursor(account.log_id)
            cursor.resume_lsn, cursor.send_mark_lsn = oldest_first_lsn, next_lsn - 1
            cursor.delivered_through = {
                stream: kept.delivered_through for stream, kept in account.streams.items()
            }
            recovered.cursor_lost = True
            recovered.notes.append(
                "the cursor is missing or unreadable: everything that is still stored is sent "
                "again, flagged as a redelivery"
            )
        elif cursor.may_be_old:
            cursor.send_mark_lsn = next_lsn - 1
            recovered.notes.append(
                "one of the two slots of the cursor is unreadable: what is still stored is flagged "
                "as a redelivery, since it may have been sent"
            )
        if recovered.copied:
            cursor.send_mark_lsn = next_lsn - 1
            recovered.notes.append(
                "the state directory is a copy, restored or moved: what it holds may have been "
                "sent since the copy was made, and is flagged as a redelivery"
            )
        # LSNs from here on are given anew: nothing of them was sent or delivered.
        cursor.resume_lsn = min(cursor.resume_lsn, next_lsn)
        cursor.send_mark_lsn = min(cursor.send_mark_lsn, next_lsn - 1)
        for stream, through in cursor.delivered_through.items():
            if stream in account.streams:
                account.delivered(stream, through)
        renew_cursor_file(self.disk, path, cursor)
        return cursor

    def _path(self, first_lsn: int) -> Path:
        return self.paths.segment(first_lsn)


@dataclass(slots=True)
class _Tail:
    """The end of the log, folded."""

    account: Account
    next_lsn: int
    header_bytes: int
    batch_first_lsn: int
    writer: SegmentWriter = field(init=False)


def home_content(disk: Disk, paths: StatePaths) -> bytes:
    """What the file `home` holds in the directory in which it was made. Raises OSError."""
    return b"%d\n" % disk.inode(paths.home)


def _fault_of_anchor(content: LedgerContent, newest: SegmentHeader) -> str | None:
    """What is wrong if the ledger has not the head that the newest segment was begun with."""
    count, digest = newest.ledger_count, newest.ledger_hash
    if content.hash_at(count) != digest:
        return f"entry {count} is anchored in the log, and is not there or is another one"
    return None


def _note_repaired(recovered: Recovery, repaired: Repaired) -> None:
    recovered.notes.append(repaired.note)
    if repaired.evidence is not None:
        recovered.quarantined.append(repaired.evidence)


def utc_now_ms() -> int:
    """Milliseconds of UTC since 1970."""
    return time.time_ns() // 1_000_000
