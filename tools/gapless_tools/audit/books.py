"""The books: one gateway's account, rebuilt from its state directory, offline and read-only.

Every entry that is still in the log is folded again. What was retired is known from the snapshot
in the oldest segment and from the ledger, and these two are held against each other. The snapshot
in each later segment has to be what the entries before it give.

Safe beside a running gateway: the cursor is read before the log and the ledger after it, so that
neither tells of anything that was not read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cbor2

from gapless_gateway.account.account import Account, OutageAccount, SnapshotMalformedError
from gapless_gateway.errors import UserError
from gapless_gateway.wal import reader
from gapless_gateway.wal.cursor import Cursor
from gapless_gateway.wal.entries import (
    Conflict,
    Entry,
    Fault,
    Gone,
    Outage,
    Progress,
    Quarantined,
    Record,
    Run,
    Session,
)
from gapless_gateway.wal.errors import WalDamaged, WalTooNew
from gapless_gateway.wal.format import SegmentHeader
from gapless_gateway.wal.ledger import LedgerContent
from gapless_tools.audit.content import UNREADABLE, ContentUnreadableError, digest_of_record
from gapless_tools.audit.findings import US, Findings
from gapless_tools.audit.in_use import is_in_use
from gapless_tools.audit.ledger_check import check_ledger, take_retired
from gapless_tools.audit.numbers import SeqNumbers
from gapless_tools.audit.timeline import Timeline

# A gateway that still runs may have dated an entry a little before another that it wrote earlier.
STILL_RUNNING_TOLERANCE_MS = 5_000
PROGRESS_EVERY_ENTRIES = 4096
RUNS_KEPT_MAX = 256
FAULTS_KEPT_MAX = 256


class CouldNotJudgeError(UserError):
    """What there is cannot be read, so there is no verdict: exit status 3."""


@dataclass(slots=True)
class Books:
    """What one gateway's state directory says."""

    state_dir: Path
    account: Account
    timeline: Timeline = field(default_factory=Timeline)
    digests: dict[bytes, SeqNumbers] = field(default_factory=dict)  # stream -> of each record
    runs: list[Run] = field(default_factory=list)
    sessions: dict[bytes, Session] = field(default_factory=dict)  # the last one of each stream
    conflicts: list[Conflict] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    drain_began_ms: dict[int, int] = field(default_factory=dict)  # outage id -> broker was back
    segments: int = 0
    entries: int = 0
    gone_entries: int = 0  # whose place a Gone has taken: unreadable, or dropped for want of room
    first_lsn: int = 0
    torn_tail_bytes: int = 0
    from_ms: int | None = None
    to_ms: int | None = None
    in_use: bool = False
    ledger_entries: int = 0  # that were ever chained; with ledger_head an anchor of the ledger
    ledger_head: bytes = bytes(32)
    segments_retired: int = 0

    @property
    def gateway(self) -> str:
        """The gateway's name, as its topics have it."""
        return self.account.gateway

    @property
    def runtime(self) -> str:
        """What the last run of the gateway ran on."""
        return self.runs[-1].runtime if self.runs else ""

    @property
    def board_runtimes(self) -> dict[bytes, str]:
        """What each stream's board last said that it runs on."""
        return {stream: session.runtime for stream, session in self.sessions.items()}

    @property
    def ends_cleanly(self) -> bool:
        """Whether the last entry is the clean end of a run."""
        return not self.account.running

    @property
    def judged_to_ms(self) -> int:
        """What the gateway took in after this moment may be missing from these books."""
        tolerance_ms = STILL_RUNNING_TOLERANCE_MS if self.in_use else 0
        return (self.to_ms or 0) - tolerance_ms

    def drained_in_s(self, outage: OutageAccount) -> float | None:
        """From the broker's return to the backlog's last record, in seconds; None: not known."""
        began_ms = self.drain_began_ms.get(outage.id)
        if began_ms is None or outage.ended_ms is None:
            return None
        return max(outage.ended_ms - began_ms, 0) / 1000


def read_books(state_dir: Path, findings: Findings, progress: Callable[[float], None]) -> Books:
    """Read a state directory and note what is wrong with its log and its ledger.

    `progress` is called with 0..1. Raises CouldNotJudgeError, UserError (there is no log).
    """
    try:
        before = reader.read_books(state_dir)
        folding = _Folding(state_dir, before.ledger, findings)
        books = folding.fold(progress)
        _take_cursor(books, before.cursor, findings)
        ledger = reader.read_books(state_dir).ledger
    except OSError as error:
        raise CouldNotJudgeError(
            f"{error.filename or state_dir} cannot be read: {error.strerror or error}; "
            "run the audit as a user who can read the state directory"
        ) from error
    except (WalTooNew, WalDamaged) as error:
        raise CouldNotJudgeError(str(error)) from error
    check_ledger(books, ledger, folding.headers, folding.first_account, findings)
    return books


class _Folding:
    """The log, folded from its oldest segment on."""

    def __init__(self, state_dir: Path, ledger: LedgerContent | None, findings: Findings) -> None:
        self._state_dir = state_dir
        self._ledger = ledger
        self._findings = findings
        self._books: Books | None = None
        self._damaged = False  # since the last segment began
        self._open_outage: Outage | None = None
        self._last_idle_ms = 0
        self.headers: list[SegmentHeader] = []
        self.first_account: Account | None = None  # before the oldest entry of the log

    def fold(self, progress: Callable[[float], None]) -> Books:
        bytes_all = max(reader.count_bytes(self._state_dir), 1)
        bytes_before = bytes_now = 0
        for number, item in enumerate(reader.read_directory(self._state_dir)):
            if isinstance(item, reader.Entry):
                self._take(item.lsn, item.entry)
                if number % PROGRESS_EVERY_ENTRIES == 0:
                    progress(min((bytes_before + item.offset) / bytes_all, 1.0))
            elif isinstance(item, reader.SegmentStart):
                bytes_before, bytes_now = bytes_before + bytes_now, item.size
                self._begin_segment(item.header, item.path)
            elif isinstance(item, reader.TornTail):
                self._started().torn_tail_bytes = item.size
            else:
                self._take_damage(item)
        progress(1.0)
        books = self._started()
        books.in_use = is_in_use(self._state_dir / "lock")
        return books

    def _started(self) -> Books:
        if self._books is None:
            raise CouldNotJudgeError(
                f"no segment of the log in {self._state_dir} can be read; "
                "restore the state directory from a copy, then audit again"
            )
        return self._books

    def _begin_segment(self, header: SegmentHeader, path: Path) -> None:
        try:
            told = Account.restore(cbor2.loads(header.snapshot))
        except (SnapshotMalformedError, cbor2.CBORDecodeError) as error:
            raise CouldNotJudgeError(f"{path} cannot be read: {error}") from error
        self.headers.append(header)
        if self._books is None:
            self._books = Books(self._state_dir, told, first_lsn=header.first_lsn)
            self.first_account = Account.restore(cbor2.loads(header.snapshot))
            if self._ledger is not None:
                take_retired(self._books.timeline, self._ledger, header.first_lsn)
        elif self._damaged:
            self._books.account = told  # the entries between are not all there any more
        elif self._books.account.snapshot() != told.snapshot():
            self._findings.add(
                "log", (US,), f"{path.name} begins with another account than its log adds up to"
            )
        self._damaged = False
        self._books.segments += 1

    def _take_damage(self, damage: reader.Corruption) -> None:
        self._damaged = True
        through = f"through {damage.next_lsn - 1}" if damage.next_lsn else "on"
        self._findings.add(
            "log",
            (US,),
            f"{damage.path} is damaged at byte {damage.offset}: entries from LSN {damage.lsn} "
            f"{through} cannot be read ({damage.why})",
        )

    def _take(self, lsn: int, entry: Entry) -> None:
        books = self._started()
        books.account.apply(lsn, entry)
        books.entries += 1
        if type(entry) is Record:
            self._take_record(books, entry)
            return
        at_ms = getattr(entry, "at_ms", None) or getattr(entry, "rx_ms", None)
        if at_ms is not None:
            _saw(books, at_ms)
        match entry:
            case Progress():
                books.timeline.take_progress(entry)
            case Outage():
                self._take_outage(books, entry)
            case Run():
                books.runs.append(entry)
                del books.runs[:-RUNS_KEPT_MAX]
            case Session():
                books.sessions[entry.stream] = entry
            case Conflict():
                books.conflicts.append(entry)
            case Quarantined():
                books.quarantined.append(entry)
            case Gone():
                # What stood there is known only to the account in the next segment's header.
                self._damaged = True
                books.gone_entries += entry.last_lsn - lsn + 1
            case Fault():
                books.faults.append(entry)
                del books.faults[:-FAULTS_KEPT_MAX]

    def _take_record(self, books: Books, entry: Record) -> None:
        _saw(books, entry.rx_ms)
        if self._open_outage is not None:
            self._date_drain(books, self._open_outage, entry)
        books.timeline.take_record(entry)
        digests = books.digests.get(entry.stream)
        if digests is None:
            digests = books.digests[entry.stream] = SeqNumbers()
        if digests.get(entry.seq):
            return  # a second record of this seq: the fold counts it, the first bytes win
        try:
            digest = digest_of_record(entry)
        except ContentUnreadableError:
            digest = UNREADABLE  # no message can carry it: one that claims to, differs
        digests.set(entry.seq, digest)

    def _date_drain(self, books: Books, outage: Outage, entry: Record) -> None:
        """A record of no outage while one is open: the broker is back, its backlog drains."""
        if entry.outage:
            books.drain_began_ms.pop(outage.id, None)  # lost again before the backlog was through
            self._last_idle_ms = entry.rx_ms
        else:
            books.drain_began_ms.setdefault(outage.id, entry.rx_ms)

    def _take_outage(self, books: Books, entry: Outage) -> None:
        books.timeline.backlog.add(entry.at_ms, entry.pending)
        if entry.began:
            self._open_outage, self._last_idle_ms = entry, entry.at_ms
        elif self._open_outage is not None:
            books.drain_began_ms.setdefault(entry.id, self._last_idle_ms)
            self._open_outage = None


def _saw(books: Books, at_ms: int) -> None:
    books.from_ms = at_ms if books.from_ms is None else min(books.from_ms, at_ms)
    books.to_ms = at_ms if books.to_ms is None else max(books.to_ms, at_ms)


def _take_cursor(books: Books, cursor: Cursor | None, findings: Findings) -> None:
    """What was delivered after the last Progress entry; without a cursor only that counts."""
    if cursor is None:
        return
    if cursor.log_id != books.account.log_id:
        findings.add("log", (US,), "the cursor belongs to another log")
        return
    for stream, through in cursor.delivered_through.items():
        if stream in books.account.streams:
            books.account.delivered(stream, through)
        else:
            words = f"the cursor tells of stream {stream.hex()}, which the log does not know"
            findings.add("order", (US,), words, stream=stream.hex())
