"""What is quarantined in a log, and what its owner decides: send it again, or give it up.

Used by `gapless wal repair` on a log that it has opened, so no gateway runs meanwhile. Decisions
are entries of a run of their own: a record that is sent again is appended once more, as it was;
what is given up is a LOST.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.wal.disk import Disk
from gapless_gateway.wal.entries import (
    REASON_CORRUPTION,
    REASON_DISCARDED,
    Lost,
    Record,
    decode_payload,
)
from gapless_gateway.wal.format import HeaderDamagedError
from gapless_gateway.wal.kept_records import read_kept, write_kept
from gapless_gateway.wal.log import Log
from gapless_gateway.wal.paths import StatePaths
from gapless_gateway.wal.segment import SegmentScan

READ_ENTRIES = 1024

Seqs = dict[bytes, IntervalSet]  # stream -> seqs


@dataclass(frozen=True, slots=True)
class QuarantinedRange:
    """Neighbouring seqs of one stream that are kept aside for one cause."""

    device: str
    stream: bytes
    first: int
    last: int
    unreadable: bool  # their bytes are gone from the log; else the broker refuses them
    may_be_delivered: bool  # unreadable ones only: the consumer may have them all the same


def quarantined_ranges(log: Log) -> list[QuarantinedRange]:
    """All that is quarantined, stream by stream, in order."""
    found = []
    for one in log.account.streams.values():
        unreadable = one.unreadable_quarantined
        refused = one.quarantined.difference(unreadable.keys())
        ranges = [
            QuarantinedRange(one.device, one.stream, first, last, True, may_be_sent)
            for first, last, may_be_sent in unreadable
        ]
        ranges += [
            QuarantinedRange(one.device, one.stream, first, last, False, False)
            for first, last in refused
        ]
        found += sorted(ranges, key=lambda row: row.first)
    return found


class OwnersDecisions:
    """Requeues and discards in an open log whose Run entry is appended. Blocks; raises OSError."""

    def __init__(self, log: Log, disk: Disk, paths: StatePaths, now_ms: int) -> None:
        self._log = log
        self._disk = disk
        self._paths = paths
        self._now_ms = now_ms

    def requeue(self, wanted: Seqs, copies: Iterable[Path]) -> Seqs:
        """Append the records of these seqs again; returns those whose bytes nobody has.

        They are looked for among the records kept aside, in the segments, and in `copies`:
        intact copies of segment files of this log.
        """
        missing = {stream: seqs.copy() for stream, seqs in wanted.items()}
        for _, record in read_kept(self._disk, self._paths.kept_records, self._log.log_id):
            self._requeue_if_missing(record, missing)
        names = [one for one in self._disk.list(self._paths.segments) if one.endswith(".wal")]
        for path in [*(self._paths.segments / name for name in names), *copies]:
            if any(missing.values()):
                for record in self._records_in(path):
                    self._requeue_if_missing(record, missing)
        return {stream: seqs for stream, seqs in missing.items() if seqs}

    def discard(self, wanted: Seqs) -> None:
        """Give these seqs up: LOST, for the reason that brought them here."""
        for stream, seqs in wanted.items():
            unreadable = self._log.account.streams[stream].unreadable_quarantined.keys()
            for reason, part in (
                (REASON_CORRUPTION, seqs.intersection(unreadable)),
                (REASON_DISCARDED, seqs.difference(unreadable)),
            ):
                for first, last in part:
                    self._log.append(
                        Lost(stream, first, last, reason, False, True, self._now_ms, 0)
                    )

    def forget_kept(self) -> None:
        """Drop from the records kept aside what is not quarantined any more, by the account."""
        kept = read_kept(self._disk, self._paths.kept_records, self._log.log_id)
        streams = self._log.account.streams
        still = [
            (lsn, record)
            for lsn, record in kept
            if record.stream in streams and record.seq in streams[record.stream].quarantined
        ]
        if len(still) < len(kept):
            write_kept(self._disk, self._paths.kept_records, self._log.log_id, still)

    def _requeue_if_missing(self, record: Record, missing: Seqs) -> None:
        seqs = missing.get(record.stream)
        if seqs is not None and record.seq in seqs:
            seqs.remove(record.seq, record.seq)
            self._log.append(record)

    def _records_in(self, path: Path) -> list[Record]:
        try:
            scan = SegmentScan(self._disk, path, with_snapshot=False)
        except HeaderDamagedError:
            return []
        found = []
        try:
            if scan.header.log_id != self._log.log_id:
                return []
            while True:
                while raw_entries := scan.take(READ_ENTRIES):
                    for raw in raw_entries:
                        if raw.kind == Record.KIND:
                            entry = decode_payload(raw.kind, raw.payload)
                            assert isinstance(entry, Record)
                            found.append(entry)
                if scan.stopped is None:
                    return found
                damage = scan.damage()
                if damage.next_lsn is None:
                    return found
                scan.go_on_behind(damage)
        finally:
            scan.close()
