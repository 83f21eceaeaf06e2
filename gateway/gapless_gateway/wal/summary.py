"""What the ledger keeps of a segment that is retired: the account of its entries, without data.

The summary is a CBOR map; docs/wal-format.md names its keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.wal.disk import Disk
from gapless_gateway.wal.entries import (
    RECORD_FIXED,
    Conflict,
    Gone,
    Lost,
    Outage,
    Progress,
    Quarantined,
    Record,
    Run,
    decode_payload,
)
from gapless_gateway.wal.errors import WalDamaged
from gapless_gateway.wal.segment import READ_BYTES, RawEntry, SegmentScan

PROGRESS_POINTS_MAX = 64  # of the curve of the backlog that a summary keeps
SCAN_ENTRIES = 1024
_NONE = IntervalSet()


class _StreamSummary:
    def __init__(self) -> None:
        self.records = 0
        self.stored: list[list[int]] = []
        self.lost: list[list[Any]] = []
        self.delivered_through = 0

    def add_seq(self, seq: int) -> None:
        """A seq was stored; seqs come in order, so the last range is the one that grows."""
        self.records += 1
        if self.stored and self.stored[-1][1] == seq - 1:
            self.stored[-1][1] = seq
        else:
            self.stored.append([seq, seq])

    def stored_ranges(self) -> list[list[int]]:
        """In order, joined where they touch: one taken again comes late, as a Gone may."""
        return [list(one) for one in IntervalSet((first, last) for first, last in self.stored)]


class SegmentSummary:
    """Folds the entries of one segment into what the ledger keeps."""

    def __init__(self) -> None:
        self._streams: dict[bytes, _StreamSummary] = {}
        self._kinds: dict[int, int] = {}
        self._runs: list[list[Any]] = []
        self._outages: list[list[Any]] = []
        self._conflicts: list[list[Any]] = []
        self._quarantined: list[list[Any]] = []
        self._progress: list[list[Any]] = []
        self._histograms: dict[str, dict[int, int]] = {"durable": {}, "delivered": {}}
        self._from_ms: int | None = None
        self._to_ms: int | None = None

    def add(self, raw: RawEntry) -> None:
        """Take in one entry."""
        self._kinds[raw.kind] = self._kinds.get(raw.kind, 0) + 1
        if raw.kind == Record.KIND:
            stream, seq, rx_ms, _, _, _, _ = RECORD_FIXED.unpack_from(raw.payload)
            self._stream(stream).add_seq(seq)
            self._at(rx_ms)
            return
        entry = decode_payload(raw.kind, raw.payload)
        at_ms = getattr(entry, "at_ms", None)
        if at_ms is not None:
            self._at(at_ms)
        match entry:
            case Lost():
                self._at(entry.rx_ms)
                self._stream(entry.stream).lost.append(
                    [entry.first, entry.last, entry.reason, entry.at_most, entry.by_gateway]
                )
            case Gone():
                # As the account does: they count as stored, whatever becomes of them later.
                for stream, first, last in entry.ranges:
                    self._stream(stream).stored.append([first, last])
            case Run():
                self._runs.append([entry.at_ms, entry.run, entry.previous_clean, entry.torn_bytes])
            case Outage():
                self._outages.append([entry.id, entry.began, entry.at_ms, entry.pending])
            case Conflict():
                self._conflicts.append([entry.stream, entry.seq, entry.what])
            case Quarantined():
                self._quarantined.append([entry.stream, entry.seq])
            case Progress():
                self._add_progress(entry)

    def to_map(self) -> dict[str, Any]:
        """The CBOR-able summary."""
        return {
            "from_ms": self._from_ms,
            "to_ms": self._to_ms,
            "kinds": dict(sorted(self._kinds.items())),
            "streams": [
                [stream, kept.records, kept.stored_ranges(), kept.lost, kept.delivered_through]
                for stream, kept in sorted(self._streams.items())
            ],
            "runs": self._runs,
            "outages": self._outages,
            "conflicts": self._conflicts,
            "quarantined": self._quarantined,
            "progress": self._progress,
            "durable_histogram": sorted(map(list, self._histograms["durable"].items())),
            "delivered_histogram": sorted(map(list, self._histograms["delivered"].items())),
        }

    def _stream(self, stream: bytes) -> _StreamSummary:
        kept = self._streams.get(stream)
        if kept is None:
            kept = self._streams[stream] = _StreamSummary()
        return kept

    def _at(self, at_ms: int) -> None:
        self._from_ms = at_ms if self._from_ms is None else min(self._from_ms, at_ms)
        self._to_ms = at_ms if self._to_ms is None else max(self._to_ms, at_ms)

    def _add_progress(self, entry: Progress) -> None:
        through = [[stream, delivered] for stream, delivered, _, _, _ in entry.streams]
        for stream, delivered, _, _, _ in entry.streams:
            kept = self._stream(stream)
            kept.delivered_through = max(kept.delivered_through, delivered)
        for name, added in (
            ("durable", entry.durable_histogram),
            ("delivered", entry.delivered_histogram),
        ):
            histogram = self._histograms[name]
            for bucket, count in added:
                histogram[bucket] = histogram.get(bucket, 0) + count
        self._progress.append([entry.at_ms, entry.pending, through])
        if len(self._progress) > PROGRESS_POINTS_MAX:
            # Every second point, and always the newest: a curve of even detail in bounded space.
            self._progress = self._progress[:-1:2] + self._progress[-1:]


def summarise_segment(
    disk: Disk, path: Path, quarantined: Mapping[bytes, IntervalSet]
) -> tuple[SegmentScan, SegmentSummary, list[tuple[int, Record]]]:
    """Read a whole segment: its scan, its summary, and (LSN, record) of those in `quarantined`.

    Raises WalDamaged if not every entry can be read, HeaderDamagedError, OSError.
    """
    scan, summary = SegmentScan(disk, path, with_snapshot=False), SegmentSummary()
    aside: list[tuple[int, Record]] = []
    try:
        while entries := scan.take(SCAN_ENTRIES):
            for raw in entries:
                summary.add(raw)
                if quarantined and raw.kind == Record.KIND:
                    record = decode_payload(raw.kind, raw.payload)
                    if isinstance(record, Record) and record.seq in quarantined.get(
                        record.stream, _NONE
                    ):
                        aside.append((raw.lsn, record))
    finally:
        scan.close()
    if scan.stopped is not None:
        raise WalDamaged(
            f"{path} is damaged at byte {scan.offset} ({scan.stopped}), so it is kept; "
            "run `gapless wal verify` on the state directory"
        )
    return scan, summary, aside


def file_digest(disk: Disk, path: Path) -> bytes:
    """SHA-256 of a whole file, read a piece at a time."""
    digest, offset = hashlib.sha256(), 0
    while data := disk.read(path, offset, READ_BYTES):
        digest.update(data)
        offset += len(data)
    return digest.digest()
