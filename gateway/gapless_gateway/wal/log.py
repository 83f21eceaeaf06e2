"""The log: append, commit, read, rotate. What is done to older segments is in upkeep.py.

Durable before ack: `commit` is the one place where entries become durable, by one write and one
fdatasync for all that waits.

Threads: `commit` and `retire` block and belong on worker threads, one commit at a time. All else
is for the event loop's thread. `append` may go on while a commit is on its way.

Failure. An error of a sync, or of a write for another reason than a full disk, stops the log for
good: what the disk holds is unknown until the next start has read it. A full disk stops nothing
for good: the batch is taken back from the file, kept in memory, and written by a later commit.
Damage in an older segment is repaired when it is met (repairing.py), by whoever meets it.

Rotation. A segment's header holds a snapshot of the account exactly before its first LSN. Only
the event loop's thread may touch the account, so `apply_committed` takes the snapshot once the
segment is full, and the next `commit` begins the new segment with it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cbor2

from gapless_gateway.account.account import Account
from gapless_gateway.wal.disk import Disk, NoRoom, OsDisk, is_full, write_new_file
from gapless_gateway.wal.entries import Entry, decode_payload
from gapless_gateway.wal.errors import WalDamaged, WalFailed, WalFull, WalNotWritable
from gapless_gateway.wal.format import (
    FormatTooNewError,
    HeaderDamagedError,
    SegmentHeader,
    crc_seed,
    encode_entries,
    encode_segment_header,
)
from gapless_gateway.wal.ledger_compaction import LEDGER_LIMITS, LedgerLimits
from gapless_gateway.wal.paths import StatePaths
from gapless_gateway.wal.recovery import OpenedLog, Opener, home_content, utc_now_ms
from gapless_gateway.wal.repairing import SegmentRepair, too_new
from gapless_gateway.wal.segment import RawEntry, SegmentScan, SegmentWriter
from gapless_gateway.wal.segments import Segments
from gapless_gateway.wal.space import Space
from gapless_gateway.wal.upkeep import Quarantine, Upkeep

SEGMENT_BYTES_MAX = 16 * 1024 * 1024
# A segment is closed this far below its maximum, since the next batch is not known yet. Only a
# batch that is longer than this makes a segment longer than segment_bytes_max.
ROTATION_HEADROOM_BYTES = 1024 * 1024
# On a full disk a segment is closed early once it holds so much, so that it can be freed.
NEW_SEGMENT_WORTH_BYTES = 16 * 1024


class Log:
    """A log that is open for writing; `Log.open` makes one."""

    def __init__(
        self,
        opened: OpenedLog,
        segment_bytes_max: int,
        now_ms: Callable[[], int],
        space: Space,
        ledger_limits: LedgerLimits = LEDGER_LIMITS,
    ) -> None:
        self.log_id = opened.log_id
        self.account = opened.account  # folded over everything durable and applied
        self.cursor = opened.cursor
        self.recovered = opened.recovered
        self._disk, self._paths, self._ledger = opened.disk, opened.paths, opened.ledger
        self._disk_lock, self._writer = opened.lock, opened.writer
        self._seed = crc_seed(opened.log_id)
        self._now_ms = now_ms
        segment_bytes_max = space.segment_bytes_max(segment_bytes_max)
        headroom = min(ROTATION_HEADROOM_BYTES, segment_bytes_max // 4)
        self._rotate_at_bytes = segment_bytes_max - headroom
        self._header_bytes = opened.newest_header_bytes
        self._segments = Segments(opened.first_lsns)
        self.space = space
        self.upkeep = Upkeep(
            disk=opened.disk,
            paths=opened.paths,
            segments=self._segments,
            ledger=opened.ledger,
            ledger_limits=ledger_limits,
            cursor=opened.cursor,
            repair=SegmentRepair(opened.disk, opened.paths, opened.log_id, type(opened.account)),
            space=space,
            log_id=opened.log_id,
            now_ms=now_ms,
        )

        self._lock = threading.Lock()  # over what both threads touch: the next eight
        self._next_lsn = opened.next_lsn
        self._durable_lsn = opened.next_lsn - 1
        self._batch_first_lsn = opened.next_lsn
        self._pending: list[bytes] = []
        self._pending_entries: list[tuple[int, Entry]] = []
        self._committed: list[tuple[int, Entry]] = []
        # Where they end: (first LSN of the newest segment, byte).
        self._committed_end = (opened.first_lsns[-1], opened.writer.size)
        self.written_bytes = 0  # of entries, since the log was opened

        self._stuck: _Batch | None = None  # it found no room, and is the next to be written
        # No entry from here on is read: its segment is about to lose its records.
        self.barrier_lsn: int | None = None
        self._failed: str | None = None
        self._rotation_wanted = False
        self._rotation_due = False  # the next commit has to begin a new segment
        self._next_snapshot: tuple[int, bytes] | None = None  # (its first LSN, account in CBOR)
        self._readable_lsn = opened.next_lsn - 1  # durable, and folded into the account
        self._readable_end = self._committed_end  # older segments may be read to their end
        self._scan: SegmentScan | None = None  # where the last read left off

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        quota_bytes: int | None = None,
        free_bytes_min: int | None = None,
        disk: Disk | None = None,
        account_type: type[Account] = Account,
        random_bytes: Callable[[int], bytes] = os.urandom,
        now_ms: Callable[[], int] = utc_now_ms,
        ledger_limits: LedgerLimits = LEDGER_LIMITS,
    ) -> Log:
        """Open the log of a state directory, or create it; blocks for the newest segment's length.

        `quota_bytes`, `free_bytes_min`: see wal/space.py. Raises WalInUse, WalNotWritable,
        WalTooNew, WalDamaged, WalFull: each one sentence.
        """
        opener = Opener(
            disk=disk if disk is not None else OsDisk(),
            paths=StatePaths(Path(state_dir)),
            account_type=account_type,
            random_bytes=random_bytes,
            now_ms=now_ms,
        )
        try:
            opened = opener.open()
            space = Space(
                opened.disk, opened.paths, quota_bytes=quota_bytes, free_bytes_min=free_bytes_min
            )
            space.make_reserve()
            return cls(opened, segment_bytes_max, now_ms, space, ledger_limits)
        except OSError as error:
            if is_full(error):
                raise WalFull(
                    f"the disk of the state directory {state_dir} is full, so that the log cannot "
                    "be opened; free some space, then start again"
                ) from error
            at = f" ({error.filename})" if error.filename else ""
            raise WalNotWritable(
                f"the state directory {state_dir} cannot be used: "
                f"{error.strerror or error}{at}; make it a directory that this user can write"
            ) from error

    @property
    def next_lsn(self) -> int:
        """The LSN that the next append gets."""
        return self._next_lsn

    @property
    def durable_lsn(self) -> int:
        """Every entry up to this one is past its fdatasync."""
        return self._durable_lsn

    @property
    def first_lsn(self) -> int:
        """The first LSN that is still on disk (or will be next)."""
        return self._segments.oldest

    @property
    def newest_first_lsn(self) -> int:
        """The first LSN of the segment that grows."""
        return self._segments.newest

    @property
    def newest_is_worth_it(self) -> bool:
        """Whether the segment that grows holds enough to be worth a new one in its place."""
        return self._writer.size >= 2 * self._header_bytes + NEW_SEGMENT_WORTH_BYTES

    @property
    def must_apply_first(self) -> bool:
        """Whether a commit now would prevent the rotation that is due.

        A segment ends with a batch that was folded into the account, whose snapshot the next one
        begins with.
        """
        return self._rotation_due

    @property
    def failed(self) -> str | None:
        """Why nothing can be committed any more, or None."""
        return self._failed

    def append(self, entry: Entry) -> int:
        """Take an entry into memory; returns its LSN. Raises WalFailed after a failure."""
        return self.append_many((entry,))

    def append_many(self, entries: Sequence[Entry]) -> int:
        """Take entries into memory, all or none; returns the LSN of the last. Raises WalFailed."""
        with self._lock:
            if self._failed is not None:
                raise WalFailed(self._failed)
            lsn = self._next_lsn
            self._pending += encode_entries(lsn, self._batch_first_lsn, entries, self._seed)
            self._pending_entries += enumerate(entries, lsn)
            self._next_lsn = lsn + len(entries)
        return self._next_lsn - 1

    @property
    def stuck(self) -> bool:
        """Whether a batch waits for room on the disk."""
        return self._stuck is not None

    def commit(self) -> int:
        """Make everything appended so far durable; blocks. Returns the durable LSN.

        Raises WalFull if there is no room: nothing is lost, and a later commit tries again.
        Raises WalFailed if the disk fails, and for ever after: what is on the disk is then
        unknown until the next start has read it.
        """
        while (batch := self._next_batch()) is not None:
            try:
                if self._next_snapshot is not None and self._next_snapshot[0] == batch.first_lsn:
                    self._rotate(*self._next_snapshot)
                self._writer.append(b"".join(batch.data))
            except NoRoom as error:
                self._stuck = batch
                raise WalFull(
                    f"there is no room for the log in {self._paths.segments}; it goes on by itself "
                    "when there is"
                ) from error
            except OSError as error:
                self._failed = (
                    f"the log in {self._paths.segments} cannot be written: "
                    f"{error.strerror or error}; check the disk, then restart the gateway"
                )
                raise WalFailed(self._failed) from error
            with self._lock:
                self._durable_lsn = batch.entries[-1][0]
                self.written_bytes += sum(map(len, batch.data))
                self._committed += batch.entries
                self._committed_end = (self._segments.newest, self._writer.size)
                self._rotation_due = self._rotation_wanted or self._is_full(self._writer.size)
            was_stuck, self._stuck = self._stuck is batch, None
            if not was_stuck:
                break  # what came meanwhile is the next batch
        return self._durable_lsn

    def _next_batch(self) -> _Batch | None:
        """What is to be written next: the batch that found no room, else all that waits."""
        with self._lock:
            if self._failed is not None:
                raise WalFailed(self._failed)
            if self._stuck is not None:
                return self._stuck
            if not self._pending:
                return None
            batch = _Batch(self._batch_first_lsn, self._pending, self._pending_entries)
            self._batch_first_lsn = self._next_lsn
            self._pending, self._pending_entries = [], []
            return batch

    def apply_committed(self) -> list[tuple[int, Entry]]:
        """Fold what was committed into the account and let it be read; returns it, in order."""
        with self._lock:
            entries, self._committed = self._committed, []
            end = self._committed_end
        if not entries:
            return entries
        self.account.apply_all(entries)
        self._readable_lsn, self._readable_end = entries[-1][0], end
        with self._lock:
            # Not while a batch behind these is durable already: it stands in the old segment.
            due = self._rotation_due and not self._committed
        if due:
            self._take_snapshot()
            self._rotation_due = False
        return entries

    def begin_new_segment(self) -> None:
        """Let the next commit begin a new segment, so that this one can be freed or repaired."""
        self._rotation_wanted = True
        if self._readable_lsn == self._durable_lsn:  # else once what is durable is folded
            self._take_snapshot()

    def _take_snapshot(self) -> None:
        """The next batch begins a new segment, unless it is on its way already."""
        self._next_snapshot = (self._readable_lsn + 1, cbor2.dumps(self.account.snapshot()))

    def read(self, from_lsn: int, limit: int) -> list[tuple[int, Entry]]:
        """Up to `limit` durable entries from `from_lsn` on, in order; [] when there are none.

        Where the segment of `from_lsn` was retired it begins with the oldest that is left; the
        first entry may be a Gone that takes up `from_lsn`. Reading on from where the last call
        ended is cheap. Damage is repaired on the way: Gone stands in for what is lost (in the
        newest segment once another one has begun, and until then nothing is read). Raises OSError;
        WalDamaged if even that is impossible, WalTooNew.
        """
        lsn = max(from_lsn, self.first_lsn)
        readable_lsn = self._readable_lsn
        if self.barrier_lsn is not None:
            readable_lsn = min(readable_lsn, self.barrier_lsn - 1)
        entries: list[tuple[int, Entry]] = []
        while len(entries) < limit and lsn <= readable_lsn:
            scan, end = self._scan_at(lsn)
            raw_entries: list[RawEntry] = []
            if scan is not None:
                wanted = min(limit - len(entries), readable_lsn - lsn + 1)
                raw_entries = scan.take(wanted, end)
            if scan is None or not raw_entries:
                if not self._repair_for_reading(lsn):
                    break
                continue
            entries += [(raw.lsn, decode_payload(raw.kind, raw.payload)) for raw in raw_entries]
            lsn = scan.lsn
        return entries

    def retire(self, resume_lsn: int, quarantined: Quarantine | None = None) -> list[str]:
        """Free the segments that hold nothing from `resume_lsn` on, never the newest; blocks.

        `quarantined`: stream -> the seqs in quarantine; their records are kept aside first.
        Returns the names of the files that are gone. For each the order is: summary into the
        ledger, synced; unlink; directory synced. A segment that cannot be read is repaired first.
        Raises WalFailed, WalDamaged; WalFull if there is not even room for the summary.
        """
        if self._failed is not None:
            raise WalFailed(self._failed)
        try:
            return self.upkeep.retire(resume_lsn, quarantined or {})
        except NoRoom as error:
            raise WalFull(
                f"there is no room to free a delivered segment in {self._paths.segments}"
            ) from error
        except OSError as error:
            self._failed = (
                f"a delivered segment in {self._paths.segments} cannot be freed: "
                f"{error.strerror or error}; check the disk, then restart the gateway"
            )
            raise WalFailed(self._failed) from error

    def can_retire(self, resume_lsn: int) -> bool:
        """Whether there is a segment below `resume_lsn` that may be freed."""
        return self.upkeep.can_retire(resume_lsn)

    def settle_in(self) -> None:
        """Note that the log lives in this directory, and a copy of it somewhere else is a copy.

        Call it once the first entries of a run are durable; blocks. A disk without room, or without
        such numbers, does without.
        """
        with contextlib.suppress(OSError):
            file = self._disk.create(self._paths.home)
            try:
                file.write(home_content(self._disk, self._paths))
                file.fdatasync()
            finally:
                file.close()
            self._disk.fsync_directory(self._paths.state_dir)

    def close(self) -> None:
        """Close the files and let go of the lock. What was not committed is gone."""
        if self._failed is None:
            self._failed = "the log is closed"
        self._close_scan()
        self._writer.close()
        self._ledger.close()
        self.cursor.close()
        self._disk_lock.release()

    def _is_full(self, size: int) -> bool:
        # At least as many bytes of entries as of header: a large account does not eat the disk.
        return size >= self._rotate_at_bytes and size >= 2 * self._header_bytes

    def _rotate(self, first_lsn: int, snapshot: bytes) -> None:
        """Begin a new segment. The old one is all synced, since its last batch was."""
        ledger_count, ledger_hash = self._ledger.head
        header = SegmentHeader(
            log_id=self.log_id,
            first_lsn=first_lsn,
            previous_first_lsn=self._segments.newest,
            created_ms=self._now_ms(),
            ledger_count=ledger_count,
            ledger_hash=ledger_hash,
            snapshot=snapshot,
        )
        content = encode_segment_header(header)
        try:
            writer = SegmentWriter.create(self._disk, self._paths.segments, content, first_lsn)
        except NoRoom:
            if not self.space.release_reserve():
                raise
            writer = SegmentWriter.create(self._disk, self._paths.segments, content, first_lsn)
        with contextlib.suppress(OSError):  # a second copy: not worth stopping for
            write_new_file(self._disk, self._paths.header_copy, content)
        self._writer.close()
        with self._lock:
            self._writer, self._header_bytes = writer, len(content)
            self._segments.begin(first_lsn)
            self._next_snapshot = None
            self._rotation_wanted = self._rotation_due = False

    def _scan_at(self, lsn: int) -> tuple[SegmentScan | None, int | None]:
        """A scan whose next entry is, or takes up, `lsn`; the byte its segment may be read to.

        None for a scan: damage came before it.
        """
        first_lsn = self._segments.holding(lsn)
        newest_first_lsn, newest_end = self._readable_end
        end = newest_end if first_lsn == newest_first_lsn else None
        scan = self._scan
        if scan is None or scan.header.first_lsn != first_lsn or scan.lsn > lsn or scan.stopped:
            self._close_scan()
            try:
                # With the account in its header, though nobody needs it: a damaged one is noticed.
                scan = self._scan = SegmentScan(self._disk, self._paths.segment(first_lsn))
            except (HeaderDamagedError, FileNotFoundError):
                return None, end
            except FormatTooNewError as error:
                raise too_new(self._paths.segment(first_lsn), error) from None
        return scan if scan.skip_to(lsn, end) else None, end

    def _repair_for_reading(self, lsn: int) -> bool:
        """Repair the segment of `lsn`; False if that has to wait, because it is the newest."""
        first_lsn = self._segments.holding(lsn)
        where = self.upkeep.neighbours(first_lsn)
        if where.next_first_lsn is None:
            self.begin_new_segment()
            return False
        self._close_scan()
        try:
            repaired = self.upkeep.repair_older(where)
        except NoRoom:
            return False  # the evidence has to be kept first; later there may be room for it
        if not repaired:
            path = self._paths.segment(first_lsn)
            raise WalDamaged(f"{path} holds no LSN {lsn}, and is whole; this is a bug of ours")
        return True

    def _close_scan(self) -> None:
        if self._scan is not None:
            self._scan.close()
            self._scan = None


@dataclass(slots=True)
class _Batch:
    """What one write and one sync make durable."""

    first_lsn: int
    data: list[bytes]
    entries: list[tuple[int, Entry]]
