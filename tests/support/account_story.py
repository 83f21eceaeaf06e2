"""Random but lawful histories of a log: boards and a gateway that make no mistake.

A `Story` plays a few boards that number, hold, drop and forget records, other gateways that ack
some of them, a broker that comes and goes, and a gateway that settles and writes. What it writes
is what a correct gateway would have in its log, so any finding about it is a mistake of the
account; and it remembers the fate of every number on its own, to compare the account with.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from gapless_gateway.account.account import Account
from gapless_gateway.account.settling import Settlement, settle, settle_closed
from gapless_gateway.wal.entries import (
    REASON_OVERFLOW,
    Elsewhere,
    Entry,
    Fault,
    Lost,
    Outage,
    Progress,
    Quarantined,
    Record,
    Run,
    Session,
    Stopped,
    TimePair,
)

LOG_ID = b"log-0001"
OTHER_LOG_ID = b"log-0002"
RESERVED_BLOCK = 20
HELD_RANGES_MAX = 8


@dataclass
class Hello:
    device_id: str
    uid: bytes
    stream: bytes | None
    next: int
    exact: bool = True
    held: tuple[tuple[int, int], ...] = ()
    acked: int = 0
    acked_by: bytes | None = None


def hello(next: int, **fields: object) -> Hello:
    """A HELLO of the board pump-1."""
    given = {"device_id": "pump-1", "uid": b"uid-1", "stream": b"strm", **fields}
    return Hello(next=next, **given)  # type: ignore[arg-type]


def session(of: Hello, base: int, *, boot: int = 1, uptime_ms: int = 1, at_ms: int = 0) -> Session:
    """The Session entry of an accepted HELLO."""
    return Session(
        device=of.device_id,
        uid=of.uid,
        stream=of.stream or b"",
        at_ms=at_ms,
        port="/dev/ttyACM0",
        boot=boot,
        next=of.next,
        exact=of.exact,
        held=of.held,
        acked=of.acked,
        acked_by=of.acked_by,
        uptime_ms=uptime_ms,
        firmware="0.1",
        board="virtual",
        runtime="test",
        base=base,
    )


def run(number: int, *, clean: bool = True, log_id: bytes = LOG_ID) -> Run:
    """The Run entry of run `number`."""
    return Run(number, number, "gw", "0.1", "test", log_id, clean, 0, "")


def record(seq: int, *, stream: bytes = b"strm", outage: int = 0, data: bytes = b"") -> Record:
    """A record whose bytes are its own."""
    return Record(stream, seq, 1000 + seq, 1, 2, 1, outage, data or b"%s/%d" % (stream, seq))


def lost(
    first: int, last: int, reason: int, *, at_most: bool = False, by_gateway: bool = True
) -> Lost:
    """A LOST of the stream strm."""
    return Lost(b"strm", first, last, reason, at_most, by_gateway, 1, 0)


def fold(entries: list[Entry], first_lsn: int = 1, account: Account | None = None) -> Account:
    """The account of these entries, with consecutive LSNs."""
    account = account or Account(LOG_ID)
    for lsn, entry in enumerate(entries, first_lsn):
        account.apply(lsn, entry)
    return account


def verdict(account: Account) -> tuple[int, int, int]:
    """What must not rise: unexplained, conflicts, order violations."""
    return account.unexplained, account.conflicts, account.order_violations


@dataclass
class Board:
    """A board that numbers from 1. `items` are what it still holds, as records or as LOST."""

    device: str
    uid: bytes
    stream: bytes
    next: int = 1
    exact: bool = True
    boot: int = 0
    uptime_ms: int = 0
    held: set[int] = field(default_factory=set)
    overflowed: set[int] = field(default_factory=set)  # of those held: will be sent as LOST
    acked: int = 0
    acked_by: bytes | None = None
    linked: bool = False
    skipped: list[tuple[int, int, int, bool]] = field(default_factory=list)
    sent_through: int = 0

    def ranges(self) -> tuple[tuple[int, int], ...]:
        return tuple(runs_of(self.held))


def runs_of(numbers: set[int]) -> list[tuple[int, int]]:
    """The ranges of a set of integers, worked out one by one."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


class Story:
    """See the module. `entries` is the log, `account` is folded as it is written."""

    def __init__(self, seed: int, *, devices: int = 2) -> None:
        self.random = random.Random(seed)
        self.entries: list[Entry] = []
        self.account = Account(LOG_ID)
        self.now_ms = 1_000_000
        self.run = 0
        self.fate: dict[tuple[bytes, int], str] = {}
        self.outage = 0
        self.outages = 0
        self.delivered: dict[bytes, int] = {}
        self.boards = [
            Board(f"pump-{i}", b"uid-%d" % i, b"st%02d" % i, boot=1) for i in range(1, devices + 1)
        ]
        self.streams = devices
        self.write(Run(self.now_ms, 1, "gw", "0.1", "test", LOG_ID, True, 0, ""))
        self.run = 1

    def write(self, entry: Entry) -> None:
        self.account.apply(len(self.entries) + 1, entry)
        self.entries.append(entry)

    def play(self, steps: int) -> Story:
        """Let `steps` things happen."""
        for _ in range(steps):
            self.now_ms += self.random.randrange(1, 2000)
            board = self.random.choice(self.boards)
            board.uptime_ms += self.random.randrange(1, 2000)
            doings = [
                (6, self.produce),
                (8, self.send),
                (3, self.connect),
                (1, self.overflow),
                (1, self.reset),
                (1, self.power_cut),
                (1, self.elsewhere),
                (1, self.wipe),
                (4, self.deliver),
                (1, self.quarantine),
                (1, self.break_or_mend),
                (1, self.end_run),
                (1, self.note),
            ]
            [doing] = self.random.choices([one for _, one in doings], [one for one, _ in doings])
            doing(board)
        return self

    # -- at the board

    def produce(self, board: Board) -> None:
        for _ in range(self.random.randrange(1, 12)):
            board.held.add(board.next)
            board.next += 1

    def overflow(self, board: Board) -> None:
        lowest = sorted(board.held)[: self.random.randrange(1, 5)]
        board.overflowed.update(lowest)

    def reset(self, board: Board) -> None:
        """The RAM is gone; the mark in the backup registers is exact."""
        board.boot, board.uptime_ms, board.linked = board.boot + 1, 0, False
        keep = {seq for seq in board.held if self.random.random() < 0.3}
        board.held = {seq for a, b in runs_of(keep)[-HELD_RANGES_MAX:] for seq in range(a, b + 1)}
        board.overflowed &= board.held
        board.exact = True

    def power_cut(self, board: Board) -> None:
        """The mark is gone as well: numbering goes on at the next reserved block."""
        self.reset(board)
        board.exact = False
        board.next += self.random.randrange(RESERVED_BLOCK)
        board.acked, board.acked_by = 0, None

    def wipe(self, board: Board) -> None:
        if self.random.random() < 0.7 or board.stream not in self.account.streams:
            return
        self.streams += 1
        at = self.boards.index(board)
        fresh = Board(board.device, board.uid, b"st%02d" % self.streams, boot=board.boot + 1)
        self.boards[at] = fresh

    def elsewhere(self, board: Board) -> None:
        """Another gateway has the board for a while, and acks a part of what it holds."""
        board.linked = False
        if not board.held:
            return
        through = self.random.choice(sorted(board.held))
        known = self.account.streams.get(board.stream)
        if known is not None and through < known.durable:
            return
        board.held = {seq for seq in board.held if seq > through}
        board.overflowed &= board.held
        board.acked, board.acked_by = through, OTHER_LOG_ID

    # -- at the gateway

    def connect(self, board: Board) -> None:
        known = self.account.streams.get(board.stream)
        greeting = Hello(
            board.device,
            board.uid,
            board.stream,
            board.next,
            board.exact,
            board.ranges(),
            board.acked,
            board.acked_by,
        )
        settlement = settle(greeting, known, LOG_ID)
        assert settlement.went_backwards is None
        former = self.account.by_device(board.device)
        if former is not None and former.stream != board.stream and not former.closed:
            for first, last, reason, at_most in settle_closed(former):
                self.write_lost(former.stream, first, last, reason, at_most, True)
        board.uptime_ms += 1
        self.write(
            session(
                greeting,
                settlement.base,
                boot=board.boot,
                uptime_ms=board.uptime_ms,
                at_ms=self.now_ms,
            )
        )
        self.note_settlement(board, settlement)
        board.linked, board.sent_through = True, settlement.durable
        board.skipped = [one for one in settlement.skipped if one[1] > settlement.durable]
        self.free(board)

    def note_settlement(self, board: Board, settlement: Settlement) -> None:
        for first, last, log_id in settlement.elsewhere:
            self.write(Elsewhere(board.stream, first, last, log_id))
            for seq in range(first, last + 1):
                self.fate[board.stream, seq] = "elsewhere"

    def free(self, board: Board) -> None:
        durable = self.account.streams[board.stream].durable
        board.held = {seq for seq in board.held if seq > durable}
        board.overflowed &= board.held
        if durable:
            board.acked, board.acked_by = durable, LOG_ID

    def send(self, board: Board) -> None:
        """Bring the next few numbers, whatever they are, in order."""
        if not board.linked:
            return
        for _ in range(self.random.randrange(1, 10)):
            seq = board.sent_through + 1
            if board.skipped and board.skipped[0][0] == seq:
                first, last, reason, at_most = board.skipped.pop(0)
                if reason:
                    self.write_lost(board.stream, first, last, reason, at_most, True)
                board.sent_through = last
            elif seq in board.overflowed:
                last = next(b for a, b in runs_of(board.overflowed) if a <= seq <= b)
                self.write_lost(board.stream, seq, last, REASON_OVERFLOW, False, False)
                board.sent_through = last
            elif seq in board.held:
                self.write(record(seq, stream=board.stream, outage=self.outage))
                self.fate[board.stream, seq] = "stored"
                board.sent_through = seq
            else:
                break
        self.free(board)

    def write_lost(
        self, stream: bytes, first: int, last: int, reason: int, at_most: bool, ours: bool
    ) -> None:
        self.write(Lost(stream, first, last, reason, at_most, ours, self.now_ms, self.outage))
        for seq in range(first, last + 1):
            self.fate[stream, seq] = "lost_at_most" if at_most else "lost"

    def deliver(self, _board: Board) -> None:
        """The broker takes some; a Progress says so."""
        rows = []
        for stream, known in self.account.streams.items():
            through = self.delivered.get(stream, known.base)
            if not self.outage:
                through = self.random.randint(through, max(through, known.durable))
            self.delivered[stream] = through
            logged = known.logged
            repeats = self.random.randrange(3)
            rows.append((stream, through, logged.suppressed + repeats, logged.redelivered, 0))
        self.write(
            Progress(self.now_ms, self.run, tuple(rows), ((5, 1),), ((9, 2),), 3),
        )

    def quarantine(self, board: Board) -> None:
        known = self.account.streams.get(board.stream)
        if known is None:
            return
        first = self.delivered.get(board.stream, known.base) + 1
        fresh = [
            seq for a, b in known.stored.within(first, known.durable) for seq in range(a, b + 1)
        ]
        fresh = [seq for seq in fresh if self.fate[board.stream, seq] == "stored"]
        if fresh:
            seq = self.random.choice(fresh)
            self.write(Quarantined(board.stream, seq, self.now_ms, "too large"))
            self.fate[board.stream, seq] = "quarantined"

    def break_or_mend(self, _board: Board) -> None:
        if self.outage:
            self.write(Outage(self.outage, False, self.now_ms, "", 0))
            self.outage = 0
        else:
            self.outages += 1
            self.outage = self.outages
            self.write(Outage(self.outage, True, self.now_ms, "refused", 1))

    def end_run(self, _board: Board) -> None:
        clean = self.random.random() < 0.5
        if clean:
            self.write(Stopped(self.now_ms, self.run))
        self.run += 1
        self.write(Run(self.now_ms, self.run, "gw", "0.1", "test", LOG_ID, clean, 0, ""))
        for board in self.boards:
            board.linked = False

    def note(self, board: Board) -> None:
        self.write(Fault(self.now_ms, "/dev/x", "identity", board.device, board.uid, "no"))
        if board.stream in self.account.streams:
            pair = TimePair(
                board.stream, board.boot, board.uptime_ms, self.now_ms, self.now_ms + 9, True
            )
            self.write(pair)

    def finish(self) -> Story:
        """Bring everything in, deliver it, stop: every number has a later witness."""
        if self.outage:
            self.break_or_mend(self.boards[0])
        for board in self.boards:
            self.produce(board)
            board.exact = True
            self.connect(board)
            while board.held:
                self.send(board)
        rows = tuple(
            (stream, known.durable, known.suppressed, known.redelivered, 0)
            for stream, known in self.account.streams.items()
        )
        self.now_ms += 1
        self.write(Progress(self.now_ms, self.run, rows, (), (), 0))
        self.write(Stopped(self.now_ms, self.run))
        return self
