"""A backlog of millions of records, written through the real log, and how long it takes to read."""

from __future__ import annotations

import time
from pathlib import Path

from bench.boards import UTC_MS, record_of
from bench.measure import Progress
from gapless_gateway.wal.disk import Disk
from gapless_gateway.wal.entries import T_SOURCE_LINK, Record, Run, Session
from gapless_gateway.wal.log import ROTATION_HEADROOM_BYTES, SEGMENT_BYTES_MAX, Log

STREAM = b"\0\0\0\1"
BATCH_RECORDS = 4096
# The newest segment is the one that a start reads, so two backlogs are compared with a full one.
NEARLY_FULL_BYTES = SEGMENT_BYTES_MAX - ROTATION_HEADROOM_BYTES - 512 * 1024


def begin_log(state_dir: Path, disk: Disk | None = None) -> Log:
    """Make a new log in which a run has begun and one stream is open."""
    log = Log.open(state_dir, disk=disk)
    log.append(Run(UTC_MS, 1, "bench", "0", "bench", log.log_id, True, 0, ""))
    log.append(
        Session(
            device="bench-1", uid=b"bench-1", stream=STREAM, at_ms=UTC_MS, port="", boot=1, next=1,
            exact=True, held=(), acked=0, acked_by=None, uptime_ms=0, firmware="", board="",
            runtime="", base=0,
        )
    )  # fmt: skip
    log.commit()
    log.apply_committed()
    return log


def record_entry(seq: int) -> Record:
    """Return the record of this number as the gateway stores it."""
    return Record(
        STREAM, seq, UTC_MS + seq, UTC_MS + seq - 3, UTC_MS + seq, T_SOURCE_LINK, 0,
        record_of(seq, seq),
    )  # fmt: skip


def write_backlog(state_dir: Path, records: int, *, fill: bool) -> int:
    """Write at least so many records and return how many; `fill`: until a segment is full."""
    progress = Progress(f"{state_dir.name} backlog, records written")
    log = begin_log(state_dir)
    seq = 0
    while seq < records or (fill and _newest_bytes(state_dir) < NEARLY_FULL_BYTES):
        count = min(BATCH_RECORDS, records - seq) if seq < records else BATCH_RECORDS
        for _ in range(count):
            seq += 1
            log.append(record_entry(seq))
        log.commit()
        log.apply_committed()
        progress.at(seq, max(seq, records))
    log.close()
    return seq


def open_s(state_dir: Path) -> float:
    """Return how long it takes until the log can be appended to."""
    began_s = time.perf_counter()
    log = Log.open(state_dir)
    took_s = time.perf_counter() - began_s
    log.close()
    return took_s


def read_all_s(state_dir: Path, records: int) -> float:
    """Return how long it takes to read every entry of the log."""
    progress = Progress("reading all of it, records")
    log = Log.open(state_dir)
    began_s = time.perf_counter()
    lsn = log.first_lsn
    while entries := log.read(lsn, 1024):
        lsn = entries[-1][0] + 1
        progress.at(lsn, records)
    took_s = time.perf_counter() - began_s
    log.close()
    return took_s


def _newest_bytes(state_dir: Path) -> int:
    return max((state_dir / "wal").iterdir()).stat().st_size
