"""A short life of a log, with everything in it: batches, rotations, cursor, retiring, a clean end.

`History` remembers what was appended and what was acked, and `check` holds a recovered log
against it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gapless_gateway.wal.disk import Disk
from gapless_gateway.wal.entries import (
    REASON_OVERFLOW,
    Entry,
    Lost,
    Progress,
    Record,
    Run,
    Session,
    Stopped,
)
from gapless_gateway.wal.ledger_compaction import LEDGER_LIMITS, LedgerLimits
from gapless_gateway.wal.log import Log
from tests.support.simulated_disk import SimulatedDisk

STATE_DIR = Path("/state")
STREAM = b"\x11\x22\x33\x44"
LOG_ID = bytes.fromhex("8877665544332211")
SEGMENT_BYTES_MAX = 2048


def open_log(
    disk: Disk,
    *,
    log_id: bytes = LOG_ID,
    segment_bytes_max: int = SEGMENT_BYTES_MAX,
    state_dir: Path = STATE_DIR,
    ledger_limits: LedgerLimits = LEDGER_LIMITS,
) -> Log:
    """A log with fixed id and time, so that its bytes are the same in every run."""
    return Log.open(
        state_dir,
        disk=disk,
        segment_bytes_max=segment_bytes_max,
        random_bytes=lambda count: log_id[:count],
        now_ms=lambda: 1_700_000_000_000,
        ledger_limits=ledger_limits,
    )


def record(seq: int, *, data: bytes | None = None, stream: bytes = STREAM) -> Record:
    at_ms = 1_700_000_000_000 + seq
    return Record(
        stream, seq, at_ms, at_ms - 5, at_ms - 1, 1, 0, data or b"\x83" + bytes([seq % 256]) * 390
    )


def session(next_seq: int, *, stream: bytes = STREAM, device: str = "pump-1") -> Session:
    return Session(
        device=device,
        uid=device.encode(),
        stream=stream,
        at_ms=1_700_000_000_000,
        port="/dev/ttyACM0",
        boot=1,
        next=next_seq,
        exact=True,
        held=((1, next_seq - 1),) if next_seq > 1 else (),
        acked=0,
        acked_by=None,
        uptime_ms=1000 + next_seq,
        firmware="0.1.0",
        board="virtual",
        runtime="micropython",
        base=0,
    )


def run(log: Log, number: int) -> Run:
    return Run(
        at_ms=1_700_000_000_000,
        run=number,
        gateway="plant",
        version="0.1.0",
        runtime="cpython",
        log_id=log.log_id,
        previous_clean=log.recovered.previous_clean,
        torn_bytes=log.recovered.torn_bytes,
        note="",
    )


@dataclass
class History:
    """What was appended (by LSN), what was acked, and how far the cursor was moved."""

    appended: dict[int, Entry] = field(default_factory=dict)
    acked_lsn: int = 0
    retire_below: int = 1
    stored: dict[str, int] = field(default_factory=lambda: {"resume": 1, "mark": 0})
    storing: dict[str, int] | None = None

    def commit(self, log: Log, *entries: Entry) -> None:
        """Append and commit one batch; acked only when the commit has returned."""
        for entry in entries:
            self.appended[log.append(entry)] = entry
        self.acked_lsn = log.commit()
        log.apply_committed()

    def store_cursor(self, log: Log, resume_lsn: int, mark_lsn: int, through: int) -> None:
        self.storing = {"resume": resume_lsn, "mark": mark_lsn}
        log.cursor.resume_lsn, log.cursor.send_mark_lsn = resume_lsn, mark_lsn
        log.cursor.delivered_through[STREAM] = through
        log.cursor.store()
        log.account.delivered(STREAM, through)
        self.stored, self.storing = self.storing, None

    def last_seq_below(self, lsn: int) -> int:
        """The highest seq that an entry below `lsn` is about."""
        below = [entry for at, entry in self.appended.items() if at < lsn]
        seqs = [
            e.seq if isinstance(e, Record) else e.last
            for e in below
            if isinstance(e, Record | Lost)
        ]
        return max(seqs, default=0)

    def retire(self, log: Log, resume_lsn: int) -> list[str]:
        self.retire_below = resume_lsn
        return log.retire(resume_lsn)

    def check(self, log: Log) -> list[tuple[int, Entry]]:
        """What must hold of every log that was recovered from this history."""
        found = read_all(log)
        lsns = [lsn for lsn, _ in found]
        assert lsns == list(range(log.first_lsn, log.next_lsn)), "a hole"
        assert log.first_lsn <= self.retire_below, "something was freed that was not delivered"
        assert log.next_lsn > self.acked_lsn, "what was acked is gone"
        for lsn, entry in found:
            assert entry == self.appended[lsn], "something appeared that was not written"
        assert log.durable_lsn == log.next_lsn - 1
        assert log.account.next_lsn in (log.next_lsn, None)
        cursor = {"resume": log.cursor.resume_lsn, "mark": log.cursor.send_mark_lsn}
        # Never behind what was stored, except where the log itself ends before it.
        legal = [self.stored] + ([self.storing] if self.storing else [])
        clamped = [
            {"resume": min(one["resume"], log.next_lsn), "mark": min(one["mark"], log.next_lsn - 1)}
            for one in legal
        ]
        if log.cursor.may_be_old:  # a power cut tore the slot that was being stored
            clamped = [one | {"mark": log.next_lsn - 1} for one in clamped]
        assert cursor in clamped and not log.recovered.cursor_lost
        return found


def noticed(disk: SimulatedDisk, log: Log) -> None:
    """The ledger was found damaged when the log was opened, and kept as it was."""
    (name,) = [one for one in log.recovered.quarantined if one.startswith("ledger")]
    assert any("ledger was damaged" in note for note in log.recovered.notes)
    del disk.names[STATE_DIR / "quarantine" / name]
    log.close()


def read_all(log: Log, at_a_time: int = 3) -> list[tuple[int, Entry]]:
    """Everything that can be read, a few entries at a time."""
    found: list[tuple[int, Entry]] = []
    lsn = log.first_lsn
    while entries := log.read(lsn, at_a_time):
        found += entries
        lsn = entries[-1][0] + 1
    return found


def live(
    disk: Disk,
    history: History,
    *,
    batches: int = 9,
    delivering_batches: int | None = None,
    ledger_limits: LedgerLimits = LEDGER_LIMITS,
) -> Log:
    """The life itself. Raises whatever the disk raises; `history` tells how far it came."""
    log = open_log(disk, ledger_limits=ledger_limits)
    history.commit(log, run(log, 1), session(1000))
    seq = 1
    for batch in range(batches):
        entries: list[Entry] = [record(seq + ahead) for ahead in range(3)]
        if batch == 2:
            entries.append(Lost(STREAM, seq + 3, seq + 4, REASON_OVERFLOW, False, False, 7, 0))
        if batch == 4:
            entries.append(Progress(9, 1, ((STREAM, seq - 1, 0, 0, 0),), ((3, 2),), (), 3))
        history.commit(log, *entries)
        seq += 3 + 2 * (batch == 2)
        if batch % 3 == 1 and (delivering_batches is None or batch < delivering_batches):
            done = log.durable_lsn - 4
            history.store_cursor(log, done, log.durable_lsn + 100, history.last_seq_below(done))
            history.retire(log, done)
    history.commit(log, Stopped(99, 1))
    log.close()
    return log
