"""The log: append, commit, read, retire.

Durable before ack: `commit` is the one place where entries become durable, by one write and one
fdatasync for all that waits. Delivered before free: `retire` is the one place where a segment is
unlinked, and it writes the segment's summary to the ledger first.

Threads: `commit` and `retire` block and belong on worker threads, one commit at a time. All else
is for the event loop's thread. `append` may go on while a commit is on its way.

Rotation. A segment's header holds a snapshot of the account exactly before its first LSN. Only
the event loop's thread may touch the account, so `apply_committed` takes the snapshot once the
segment is full, and the next `commit` begins the new segment with it.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

import cbor2

from gapless_gateway.account.account import Account
from gapless_gateway.wal.disk import Disk, OsDisk
from gapless_gateway.wal.entries import Entry, decode_payload
from gapless_gateway.wal.errors import WalDamaged, WalFailed, WalNotWritable
from gapless_gateway.wal.format import (
    SegmentHeader,
    crc_seed,
    encode_entries,
    encode_segment_header,
    segment_name,
)
from gapless_gateway.wal.ledger import RetiredSegment
from gapless_gateway.wal.recovery import OpenedLog, Opener, StatePaths, utc_now_ms
from gapless_gateway.wal.segment import SegmentScan, SegmentWriter
from gapless_gateway.wal.summary import file_digest, summarise_segment

SEGMENT_BYTES_MAX = 16 * 1024 * 1024
# A segment is closed this far below its maximum, since the next batch is not known yet. Only a
# batch that is longer than this makes a segment longer than segment_bytes_max.
ROTATION_HEADROOM_BYTES = 1024 * 1024


class Log:
    """A log that is open for writing; `Log.open` makes one."""

    def __init__(
        self, opened: OpenedLog, segment_bytes_max: int, now_ms: Callable[[], int]
    ) -> None:
        self.log_id = opened.log_id
        self.account = opened.account  # folded over everything durable and applied
        self.cursor = opened.cursor
        self.recovered = opened.recovered
        self._disk, self._paths, self._ledger = opened.disk, opened.paths, opened.ledger
        self._disk_lock, self._writer = opened.lock, opened.writer
        self._seed = crc_seed(opened.log_id)
        self._now_ms = now_ms
        headroom = min(ROTATION_HEADROOM_BYTES, segment_bytes_max // 4)
        self._rotate_at_bytes = segment_bytes_max - headroom
        self._header_bytes = opened.newest_header_bytes
        self._first_lsns = opened.first_lsns

        self._lock = threading.Lock()  # over what both threads touch: the next seven
        self._next_lsn = opened.next_lsn
        self._durable_lsn = opened.next_lsn - 1
        self._batch_first_lsn = opened.next_lsn
        self._pending: list[bytes] = []
        self._pending_entries: list[tuple[int, Entry]] = []
        self._committed: list[tuple[int, Entry]] = []
        # Where they end: (first LSN of the newest segment, byte).
        self._committed_end = (opened.first_lsns[-1], opened.writer.size)

        self._failed: str | None = None
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
        disk: Disk | None = None,
        account_type: type[Account] = Account,
        random_bytes: Callable[[int], bytes] = os.urandom,
        now_ms: Callable[[], int] = utc_now_ms,
    ) -> Log:
        """Open the log of a state directory, or create it; blocks for the newest segment's length.

        Raises WalInUse, WalNotWritable, WalTooNew, WalDamaged: each one sentence.
        """
        opener = Opener(
            disk=disk if disk is not None else OsDisk(),
            paths=StatePaths(Path(state_dir)),
            account_type=account_type,
            random_bytes=random_bytes,
            now_ms=now_ms,
        )
        try:
            return cls(opener.open(), segment_bytes_max, now_ms)
        except OSError as error:
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
        return self._first_lsns[0]

    @property
    def must_apply_first(self) -> bool:
        """Whether a commit now would prevent the rotation that is due.

        A segment ends with a batch that was folded into the account, whose snapshot the next one
        begins with.
        """
        with self._lock:
            return bool(self._committed) and self._is_full(self._committed_end[1])

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

    def commit(self) -> int:
        """Make everything appended so far durable; blocks. Returns the durable LSN.

        Raises WalFailed if the disk fails, and for ever after: what is on the disk is then
        unknown until the next start has read it.
        """
        with self._lock:
            if self._failed is not None:
                raise WalFailed(self._failed)
            if not self._pending:
                return self._durable_lsn
            batch, entries = self._pending, self._pending_entries
            first_lsn, self._batch_first_lsn = self._batch_first_lsn, self._next_lsn
            self._pending, self._pending_entries = [], []
        try:
            if self._next_snapshot is not None and self._next_snapshot[0] == first_lsn:
                self._rotate(*self._next_snapshot)
            self._writer.append(b"".join(batch))
        except OSError as error:
            self._failed = (
                f"the log in {self._paths.segments} cannot be written: "
                f"{error.strerror or error}; check the disk, then restart the gateway"
            )
            raise WalFailed(self._failed) from error
        with self._lock:
            self._durable_lsn = entries[-1][0]
            self._committed += entries
            self._committed_end = (self._first_lsns[-1], self._writer.size)
        return self._durable_lsn

    def apply_committed(self) -> list[tuple[int, Entry]]:
        """Fold what was committed into the account and let it be read; returns it, in order."""
        with self._lock:
            entries, self._committed = self._committed, []
            end = self._committed_end
        if not entries:
            return entries
        self.account.apply_all(entries)
        self._readable_lsn, self._readable_end = entries[-1][0], end
        if self._is_full(end[1]):
            self._next_snapshot = (self._readable_lsn + 1, cbor2.dumps(self.account.snapshot()))
        return entries

    def read(self, from_lsn: int, limit: int) -> list[tuple[int, Entry]]:
        """Up to `limit` durable entries from `from_lsn` on, in order; [] when there are none.

        Where the segment of `from_lsn` was retired it begins with the oldest that is left.
        Reading on from where the last call ended is cheap. Raises WalDamaged if what was durable
        cannot be read any more; OSError.
        """
        lsn = max(from_lsn, self.first_lsn)
        entries: list[tuple[int, Entry]] = []
        while len(entries) < limit and lsn <= self._readable_lsn:
            scan, end = self._scan_at(lsn)
            wanted = min(limit - len(entries), self._readable_lsn - lsn + 1)
            raw_entries = scan.take(wanted, end)
            if not raw_entries:
                raise _unreadable(scan, lsn)
            entries += [(raw.lsn, decode_payload(raw.kind, raw.payload)) for raw in raw_entries]
            lsn = scan.lsn
        return entries

    def retire(self, resume_lsn: int) -> list[str]:
        """Free the segments that hold nothing from `resume_lsn` on, never the newest; blocks.

        Returns the names of the files that are gone. For each the order is: summary into the
        ledger, synced; unlink; directory synced. Raises WalDamaged for a segment that cannot be
        read (it is kept), WalFailed.
        """
        freed: list[str] = []
        if self._failed is not None:
            raise WalFailed(self._failed)
        try:
            while len(self._first_lsns) > 1 and self._first_lsns[1] <= resume_lsn:
                freed.append(self._retire_oldest())
        except OSError as error:
            self._failed = (
                f"a delivered segment in {self._paths.segments} cannot be freed: "
                f"{error.strerror or error}; check the disk, then restart the gateway"
            )
            raise WalFailed(self._failed) from error
        return freed

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
            previous_first_lsn=self._first_lsns[-1],
            created_ms=self._now_ms(),
            ledger_count=ledger_count,
            ledger_hash=ledger_hash,
            snapshot=snapshot,
        )
        content = encode_segment_header(header)
        writer = SegmentWriter.create(self._disk, self._paths.segments, content, first_lsn)
        self._writer.close()
        with self._lock:
            self._writer, self._header_bytes = writer, len(content)
            self._first_lsns.append(first_lsn)
            self._next_snapshot = None

    def _scan_at(self, lsn: int) -> tuple[SegmentScan, int | None]:
        """A scan whose next entry is `lsn`, and the byte at which its segment may be read to."""
        with self._lock:
            first_lsn = self._first_lsns[bisect_right(self._first_lsns, lsn) - 1]
        newest_first_lsn, newest_end = self._readable_end
        end = newest_end if first_lsn == newest_first_lsn else None
        scan = self._scan
        if scan is None or scan.header.first_lsn != first_lsn or scan.lsn > lsn or scan.stopped:
            path = self._paths.segments / segment_name(first_lsn)
            self._close_scan()
            scan = self._scan = SegmentScan(self._disk, path, with_snapshot=False)
        scan.skip_to(lsn, end)
        if scan.lsn != lsn:
            raise _unreadable(scan, scan.lsn)
        return scan, end

    def _close_scan(self) -> None:
        if self._scan is not None:
            self._scan.close()
            self._scan = None

    def _retire_oldest(self) -> str:
        first_lsn = self._first_lsns[0]
        path = self._paths.segments / segment_name(first_lsn)
        if self._ledger.last_first_lsn < first_lsn:  # else a crash came between ledger and unlink
            scan, summary = summarise_segment(self._disk, path)
            if scan.lsn != self._first_lsns[1]:
                raise _unreadable(scan, scan.lsn)
            self._ledger.append(
                RetiredSegment(
                    index=self._ledger.head[0] + 1,
                    first_lsn=first_lsn,
                    last_lsn=scan.lsn - 1,
                    segment_bytes=scan.offset,
                    segment_sha256=file_digest(self._disk, path),
                    retired_ms=self._now_ms(),
                    summary=summary.to_map(),
                )
            )
        with self._lock:
            del self._first_lsns[0]
        self._disk.unlink(path)
        self._disk.fsync_directory(self._paths.segments)
        return path.name


def _unreadable(scan: SegmentScan, lsn: int) -> WalDamaged:
    why = scan.stopped or "it ends there"
    return WalDamaged(
        f"{scan.path} is damaged: LSN {lsn} cannot be read at byte {scan.offset} ({why}); "
        "run `gapless wal verify` on the state directory and restore the file from a copy"
    )
