"""What is done to older segments: freed once delivered, dropped for want of room, repaired.

Delivered before free: `retire` is the one place where a segment is unlinked, and it writes the
segment's summary to the ledger first. All methods but `droppable`, `can_retire` and `take_notes`
block and belong on a worker thread; one at a time replaces or unlinks a segment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.wal.cursor import Cursor
from gapless_gateway.wal.disk import Disk, NoRoom
from gapless_gateway.wal.entries import Gone, decode_payload
from gapless_gateway.wal.errors import WalDamaged
from gapless_gateway.wal.format import FormatTooNewError, HeaderDamagedError
from gapless_gateway.wal.kept_records import keep_records
from gapless_gateway.wal.ledger import Ledger, RetiredSegment
from gapless_gateway.wal.ledger_compaction import LedgerLimits, compact_ledger
from gapless_gateway.wal.paths import StatePaths
from gapless_gateway.wal.repairing import Neighbours, Repaired, SegmentRepair, too_new
from gapless_gateway.wal.segment import SegmentScan
from gapless_gateway.wal.segments import Segments
from gapless_gateway.wal.space import Space
from gapless_gateway.wal.summary import file_digest, summarise_segment

Quarantine = Mapping[bytes, IntervalSet]  # stream -> seqs

REPAIR_PROGRESS_S = 2.0
SCAN_ENTRIES = 1024


class Upkeep:
    """The older segments of a log that is open for writing."""

    def __init__(
        self,
        *,
        disk: Disk,
        paths: StatePaths,
        segments: Segments,
        ledger: Ledger,
        ledger_limits: LedgerLimits,
        cursor: Cursor,
        repair: SegmentRepair,
        space: Space,
        log_id: bytes,
        now_ms: Callable[[], int],
    ) -> None:
        self._disk = disk
        self._paths = paths
        self._segments = segments
        self._ledger = ledger
        self.ledger_limits = ledger_limits
        self._cursor = cursor
        self._repair = repair
        self._space = space
        self._log_id = log_id
        self._now_ms = now_ms
        self._replacing = threading.Lock()
        self._dropped: set[int] = set()  # first LSNs of segments whose records were dropped
        self.notes: list[str] = []  # of what was repaired meanwhile, one sentence each

    def neighbours(self, first_lsn: int) -> Neighbours:
        """Where a segment stands."""
        before, behind = self._segments.around(first_lsn)
        previous = before if before is not None else self._ledger.retired_through
        return Neighbours(first_lsn, previous, behind)

    def take_notes(self) -> list[str]:
        """One sentence for each repair since the last call."""
        notes, self.notes = self.notes, []
        return notes

    # Freeing

    def can_retire(self, resume_lsn: int) -> bool:
        """Whether there is a segment below `resume_lsn` that may be freed."""
        return self._segments.is_below(resume_lsn)

    def retire(self, resume_lsn: int, quarantined: Quarantine) -> list[str]:
        """Free the segments that hold nothing from `resume_lsn` on, never the newest.

        `quarantined`: the seqs in quarantine; their records are kept aside first. Returns the
        names of the files that are gone. Raises NoRoom, OSError, WalDamaged, WalTooNew.
        """
        freed: list[str] = []
        while self.can_retire(resume_lsn):
            try:
                freed.append(self._retire_oldest(quarantined))
            except NoRoom:
                if not self._space.release_reserve():
                    raise
        if freed:
            self._compact_ledger()
        return freed

    def _retire_oldest(self, quarantined: Quarantine) -> str:
        first_lsn = self._segments.oldest
        path = self._paths.segment(first_lsn)
        if self._ledger.retired_through < first_lsn:  # else a crash came between ledger and unlink
            self._enter_into_ledger(first_lsn, path, quarantined)
        self._segments.forget_oldest()
        self._disk.unlink(path)
        self._disk.fsync_directory(self._paths.segments)
        return path.name

    def _enter_into_ledger(self, first_lsn: int, path: Path, quarantined: Quarantine) -> None:
        where = self.neighbours(first_lsn)
        try:
            scan, summary, kept = summarise_segment(self._disk, path, quarantined)
            whole = scan.lsn == where.next_first_lsn
        except (WalDamaged, HeaderDamagedError, FileNotFoundError):
            whole = False
        except FormatTooNewError as error:
            raise too_new(path, error) from None
        if not whole:
            self.repair_older(where)
            scan, summary, kept = summarise_segment(self._disk, path, quarantined)
        if kept:
            keep_records(self._disk, self._paths.kept_records, self._log_id, kept)
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

    def _compact_ledger(self) -> None:
        oldest = self._paths.segment(self._segments.oldest)
        try:
            compact_ledger(self._ledger, self._disk, oldest, self.ledger_limits, self._now_ms())
        except WalDamaged as error:  # evidence; it is left as it is, and the next start tells
            if str(error) not in self.notes:
                self.notes.append(str(error))

    # Dropping

    def droppable(self, send_mark_lsn: int) -> int | None:
        """First LSN of the oldest segment of which nothing was ever sent; None: there is none.

        Never the newest, nor one whose records were dropped already.
        """
        for first_lsn in self._segments.older():
            if first_lsn > send_mark_lsn and first_lsn not in self._dropped:
                return first_lsn
        return None

    def drop(self, first_lsn: int) -> list[tuple[bytes, int, int]]:
        """Free the space of an older segment's records. Its other entries stay.

        Gone(quota) takes their place. Returns (stream, first, last) of what was in it. The owner
        sees to it that nothing of it was ever sent. Raises NoRoom, OSError, WalDamaged, WalTooNew.
        """
        with self._replacing:
            try:
                repaired = self._without_records(first_lsn)
            except NoRoom:
                if not self._space.release_reserve():
                    raise
                repaired = self._without_records(first_lsn)
            self._dropped.add(first_lsn)
        return [one for _, gone in repaired.gone for one in gone.ranges]

    def _without_records(self, first_lsn: int) -> Repaired:
        """The segment without its records; one that cannot be read is repaired first."""
        where = self.neighbours(first_lsn)
        try:
            return self._repair.drop_records(where)
        except (WalDamaged, HeaderDamagedError, FileNotFoundError):
            self._repair.repair_older(where, self._cursor.delivered_through)
            return self._repair.drop_records(where)
        except FormatTooNewError as error:
            raise too_new(self._paths.segment(first_lsn), error) from None

    # Repairing

    def repair_older(self, where: Neighbours) -> bool:
        """Repair a segment that another one follows; False: it was whole."""
        with self._replacing:
            repaired = self._repair.repair_older(where, self._cursor.delivered_through)
        if repaired is None:
            return False
        self.notes.append(repaired.note)
        return True

    def repair_all(self, progress: Callable[[int, int], None]) -> list[tuple[int, Gone]]:
        """Repair every older segment that needs it. Returns what is gone: (LSN, entry).

        `progress(done, all)` is called every two seconds, in segments. What Gone there was before
        is in it too: a crash may have come before it was declared. Raises NoRoom, OSError,
        WalDamaged, WalTooNew.
        """
        gone: list[tuple[int, Gone]] = []
        older = self._segments.older()
        due_s = time.monotonic() + REPAIR_PROGRESS_S
        for done, first_lsn in enumerate(older, 1):
            self.repair_older(self.neighbours(first_lsn))
            gone += self._gone_in(first_lsn)
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + REPAIR_PROGRESS_S
                progress(done, len(older))
        return gone

    def _gone_in(self, first_lsn: int) -> list[tuple[int, Gone]]:
        scan = SegmentScan(self._disk, self._paths.segment(first_lsn), with_snapshot=False)
        gone: list[tuple[int, Gone]] = []
        try:
            while raw_entries := scan.take(SCAN_ENTRIES):
                for raw in raw_entries:
                    if raw.kind == Gone.KIND:
                        entry = decode_payload(raw.kind, raw.payload)
                        assert isinstance(entry, Gone)
                        gone.append((raw.lsn, entry))
        finally:
            scan.close()
        return gone
