"""A gateway's history, made by hand: a state directory and a capture that belong together.

The log is written through the real Log, the messages are those of the real publisher, the lines
those of the real capture; only boards, broker and clock are played. What is produced, lost and
delivered is decided here, so a test knows the truth that the audit has to find.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import cbor2

from gapless_gateway.account.histogram import Histogram
from gapless_gateway.account.settling import settle
from gapless_gateway.publisher.message import MessageMaker
from gapless_gateway.publisher.status import StatusMaker
from gapless_gateway.wal.entries import (
    T_SOURCE_LINK,
    Entry,
    Lost,
    Outage,
    Progress,
    Record,
    Run,
    Session,
    Stopped,
)
from gapless_gateway.wal.ledger_compaction import LEDGER_LIMITS, LedgerLimits
from gapless_gateway.wal.log import Log
from gapless_tools.capture_messages import render_line
from gapless_tools.capture_store import CAPTURE_NAME

BEGAN_MS = 1_767_265_200_000  # 2026-01-01 11:00:00 UTC
STEP_MS = 50
SEED = 20260101
SENT_PER_STEP_MAX = 4
SENT_AHEAD = 6  # messages on their way when a broker or a gateway dies


@dataclass
class Board:
    """A played board."""

    device: str
    stream: bytes
    uid: bytes
    period_ms: int
    next: int = 1
    boot: int = 1
    booted_ms: int = BEGAN_MS
    outbox: list[tuple[int, int, bytes]] = field(default_factory=list)  # (seq, taken_ms, data)
    declared: list[tuple[int, int]] = field(default_factory=list)  # overflowed, not yet told

    def sample(self, now_ms: int, random_: random.Random) -> None:
        """Take one sample."""
        ticks = now_ms - self.booted_ms
        value = {"temperature": float(20 + self.next % 7), "ok": True, "count": self.next}
        kind = 0
        if self.next % 50 == 1:
            kind, value = 1, {"event": "boot", "cause": "power"}
        data = cbor2.dumps([self.boot, 0, ticks, kind, value], canonical=True)
        self.outbox.append((self.next, now_ms - random_.randrange(3), data))
        self.next += 1

    def reset(self, now_ms: int) -> int:
        """Restart: what the memory held is gone. Returns how many numbers that were."""
        gone = len(self.outbox)
        self.outbox.clear()
        self.boot += 1
        self.booted_ms = now_ms
        return gone

    def overflow(self, how_many: int) -> None:
        """Drop the oldest and remember that they have to be declared."""
        first, last = self.outbox[0][0], self.outbox[how_many - 1][0]
        del self.outbox[:how_many]
        self.declared.append((first, last))

    def held(self) -> tuple[tuple[int, int], ...]:
        """What it will still send, as records or as LOST."""
        seqs = [*self.declared, *((seq, seq) for seq, _, _ in self.outbox)]
        merged: list[tuple[int, int]] = []
        for first, last in sorted(seqs):
            if merged and merged[-1][1] == first - 1:
                merged[-1] = (merged[-1][0], last)
            else:
                merged.append((first, last))
        return tuple(merged)


class History:
    """Plays a gateway; every method is something that happens to it."""

    def __init__(
        self,
        directory: Path,
        *,
        segment_bytes_max: int = 1 << 20,
        mode: str = "receipt",
        ledger_limits: LedgerLimits = LEDGER_LIMITS,
    ) -> None:
        self.state_dir = directory / "state"
        self.capture_dir = directory / "capture"
        self.capture_dir.mkdir(parents=True)
        self.now_ms = BEGAN_MS
        self.random = random.Random(SEED)
        self.boards = [
            Board("pump-1", bytes.fromhex("0a1b2c3d"), b"\x11" * 12, 100),
            Board("tank-2", bytes.fromhex("5e6f7081"), b"\x22" * 12, 250),
            Board("valve-3", bytes.fromhex("92a3b4c5"), b"\x33" * 12, 400),
        ]
        self.mode = mode
        self.lines: list[bytes] = []
        self.broker_up = True
        self.run = 0
        self.outage = 0
        self._segment_bytes_max = segment_bytes_max
        self._ledger_limits = ledger_limits
        self._sent_lsn = 0  # the highest LSN that was ever sent
        self._next_send_lsn = 1
        self._delivered_lsn = 0
        self._redelivered: dict[bytes, int] = {}
        self._durable, self._delivered = Histogram(), Histogram()
        self._progress_ms = 0
        self._waiting_gaps: dict[str, list[tuple[int, int, int, bool]]] = {}
        self._outage_open = 0
        self._backlog_end_lsn = 0
        self.log: Log | None = None

    # -- what happens

    def start(self, note: str = "", power_cut: Board | None = None) -> None:
        """The gateway starts (again). `power_cut`: this board's numbering is not exact."""
        ids = count(1)
        self.log = Log.open(
            self.state_dir,
            segment_bytes_max=self._segment_bytes_max,
            random_bytes=lambda n: next(ids).to_bytes(n, "big"),
            now_ms=lambda: self.now_ms,
            ledger_limits=self._ledger_limits,
        )
        self.run += 1
        clean = self.run == 1 or self.log.recovered.previous_clean
        self._append(
            Run(
                self.now_ms, self.run, "hall-3", "0.1.0", "CPython 3.11.2", self.log.log_id,
                clean, self.log.recovered.torn_bytes, note,
            )
        )  # fmt: skip
        self._maker = MessageMaker("hall-3", self.run, "json")
        self._commit()
        for board in self.boards:
            self.connect(board, exact=board is not power_cut)
        self._next_send_lsn = self._delivered_lsn + 1
        self._tell_status()

    def connect(self, board: Board, *, exact: bool = True) -> None:
        """A board says HELLO; what it names no longer is declared lost in its place."""
        assert self.log is not None
        account = self.log.account.streams.get(board.stream)
        delivered = self.log.log_id if account is not None else None
        session = Session(
            board.device, board.uid, board.stream, self.now_ms, "/dev/serial/by-id/usb-1",
            board.boot, board.next, exact, board.held(),
            account.durable if account is not None else 0, delivered,
            self.now_ms - board.booted_ms + 1, "0.1.0", "virtual", "MicroPython 1.28 (unix)", 0,
        )  # fmt: skip
        settlement = settle(session, account, self.log.log_id)
        self._append(session)
        self._commit()
        self._waiting_gaps = {board.device: list(settlement.gaps)}
        self._take_in(board)

    def play(self, seconds: float, *, gateway: bool = True) -> None:
        """Time passes; boards sample, the gateway (if it runs) takes in and delivers."""
        for _ in range(int(seconds * 1000) // STEP_MS):
            self.now_ms += STEP_MS
            for board in self.boards:
                if (self.now_ms - BEGAN_MS) % board.period_ms == 0:
                    board.sample(self.now_ms - 2, self.random)
                if gateway:
                    self._take_in(board)
            if gateway:
                self._commit()
                self._deliver()
                self._progress()

    def lose_broker(self, cause: str = "connection refused") -> None:
        """The broker is gone; what is on its way arrives and is not acknowledged."""
        for board in self.boards:
            board.sample(self.now_ms - 1, self.random)
            self._take_in(board)
        self._commit()
        self._send(SENT_AHEAD, acknowledged=False)
        self.broker_up = False
        if not self._outage_open:
            self.outage += 1
            self._outage_open = self.outage
            self._append(Outage(self.outage, True, self.now_ms, cause, self._pending()))
            self._commit()

    def regain_broker(self) -> None:
        """The broker is back; everything not acknowledged is sent (again)."""
        assert self.log is not None
        self.broker_up = True
        self._backlog_end_lsn = self.log.durable_lsn
        self._next_send_lsn = self._delivered_lsn + 1
        self._tell_status()

    def kill(self) -> None:
        """SIGKILL: no word of farewell."""
        assert self.log is not None
        self.log.close()
        self.log = None

    def stop(self) -> None:
        """SIGTERM."""
        assert self.log is not None
        self._progress(at_once=True)
        self._append(Stopped(self.now_ms, self.run))
        self._commit()
        self.log.close()
        self.log = None

    def retire(self) -> list[str]:
        """Free what is delivered; the ledger keeps the summaries."""
        assert self.log is not None
        return self.log.retire(self._delivered_lsn + 1)

    def write_capture(self) -> Path:
        """The consumer's file."""
        path = self.capture_dir / CAPTURE_NAME
        path.write_bytes(b"".join(self.lines))
        return path

    # -- how

    def _append(self, entry: Entry) -> None:
        assert self.log is not None
        self.log.append(entry)

    def _commit(self) -> None:
        assert self.log is not None
        self.log.commit()
        self.log.apply_committed()

    def _take_in(self, board: Board) -> None:
        gaps = self._waiting_gaps.get(board.device, [])
        outage = self._outage_open if not self.broker_up else 0
        rx_ms = self.now_ms + 3
        ranges = [(first, last, 1, False, False) for first, last in board.declared]
        ranges += [(*gap, True) for gap in gaps]
        for first, last, reason, at_most, by_gateway in sorted(ranges):
            for seq, taken_ms, data in [one for one in board.outbox if one[0] < first]:
                self._record(board, seq, taken_ms, data, rx_ms, outage)
            board.outbox = [one for one in board.outbox if one[0] > last]
            self._append(
                Lost(board.stream, first, last, reason, at_most, by_gateway, rx_ms, outage)
            )
        board.declared.clear()
        gaps.clear()
        for seq, taken_ms, data in board.outbox:
            self._record(board, seq, taken_ms, data, rx_ms, outage)
        board.outbox.clear()

    def _record(
        self, board: Board, seq: int, taken_ms: int, data: bytes, rx_ms: int, outage: int
    ) -> None:
        err_ms = self.random.randrange(1, 4)
        self._append(
            Record(
                board.stream, seq, rx_ms, taken_ms - err_ms, taken_ms + err_ms, T_SOURCE_LINK,
                outage, data,
            )
        )  # fmt: skip
        self._durable.add(max(rx_ms - taken_ms + self.random.randrange(12), 0))

    def _deliver(self) -> None:
        if self.broker_up:
            self._send(SENT_PER_STEP_MAX, acknowledged=True)
        if self._outage_open and self.broker_up and self._delivered_lsn >= self._backlog_end_lsn:
            self._append(
                Outage(self._outage_open, False, self.now_ms, "backlog delivered", self._pending())
            )
            self._commit()
            self._outage_open = 0

    def _send(self, messages_max: int, *, acknowledged: bool) -> None:
        assert self.log is not None
        for lsn, entry in self._to_send(messages_max):
            again = lsn <= self._sent_lsn
            device = next(
                (b.device for b in self.boards if b.stream == getattr(entry, "stream", None)), ""
            )
            if isinstance(entry, Record):
                message = self._maker.of_record(device, entry, redelivery=again)
            else:
                assert isinstance(entry, Lost)
                message = self._maker.of_lost(device, entry, redelivery=again)
            stream = entry.stream
            self._redelivered[stream] = self._redelivered.get(stream, 0) + again
            self._capture(message.topic, message.payload)
            self._sent_lsn = max(self._sent_lsn, lsn)
            if acknowledged:
                self._delivered_lsn = lsn
                through = entry.seq if isinstance(entry, Record) else entry.last
                self.log.account.delivered(stream, through)
                self.log.cursor.delivered_through[stream] = through
                if isinstance(entry, Record):
                    self._delivered.add(self.now_ms - entry.t_hi_ms + self.random.randrange(30))
        self.log.cursor.resume_lsn = self._delivered_lsn + 1
        self.log.cursor.send_mark_lsn = self._sent_lsn
        self.log.cursor.store()

    def _to_send(self, messages_max: int) -> Iterator[tuple[int, Record | Lost]]:
        assert self.log is not None
        sent = 0
        for lsn, entry in self.log.read(self._next_send_lsn, 10 * messages_max):
            if sent == messages_max:
                return
            self._next_send_lsn = lsn + 1
            if isinstance(entry, Record | Lost):
                sent += 1
                yield lsn, entry

    def _capture(self, topic: str, payload: bytes) -> None:
        self.lines.append(render_line(self.now_ms + 8, topic, payload, retain=False))

    def _tell_status(self) -> None:
        assert self.log is not None
        if self.broker_up:
            maker = StatusMaker("hall-3", self.run, self.log.log_id, self.mode)
            message = maker.online(self.now_ms, self.log.account.streams.values())
            self._capture(message.topic, message.payload)

    def _pending(self) -> int:
        assert self.log is not None
        streams = self.log.account.streams.values()
        return sum(one.balance().pending_gateway for one in streams)

    def _progress(self, *, at_once: bool = False) -> None:
        assert self.log is not None
        if self.now_ms - self._progress_ms < 1000 and not at_once:
            return
        if self.now_ms == self._progress_ms:
            return
        self._progress_ms = self.now_ms
        self._append(
            Progress(
                self.now_ms,
                self.run,
                tuple(
                    (one.stream, one.delivered_through, 0, self._redelivered.get(one.stream, 0), 0)
                    for one in self.log.account.streams.values()
                ),
                self._durable.items(),
                self._delivered.items(),
                self._pending(),
            )
        )
        self._durable, self._delivered = Histogram(), Histogram()
        self._commit()


def short_history(directory: Path, mode: str = "receipt") -> History:
    """A few seconds, one outage with a kill in it, nothing lost, everything delivered."""
    history = History(directory, mode=mode)
    history.start()
    history.play(2)
    history.lose_broker()
    history.play(2)
    history.kill()
    history.play(0.5, gateway=False)
    history.start(note="the run before did not end cleanly")
    history.play(0.5)
    history.regain_broker()
    history.play(3)
    history.stop()
    history.write_capture()
    return history


def lossy_history(directory: Path) -> History:
    """As the short one, and two boards lose something: one by a reset, one by overflow."""
    history = History(directory)
    pump, tank, valve = history.boards
    history.start()
    history.play(2)
    history.lose_broker()
    history.play(2)
    history.kill()
    history.play(2, gateway=False)
    pump.reset(history.now_ms)
    tank.overflow(3)
    valve.reset(history.now_ms)
    valve.next += 4  # a power cut: the numbers up to the reserved mark may never have been used
    history.play(0.5, gateway=False)
    history.start(power_cut=valve)
    history.regain_broker()
    history.play(3)
    history.stop()
    history.write_capture()
    return history


def field_history(directory: Path) -> History:
    """A minute of three boards: an outage, a kill of the gateway in it, boards that lose."""
    history = History(directory)
    pump, _, valve = history.boards
    history.start()
    history.play(19)
    history.lose_broker("connection reset by peer")
    history.play(9)
    history.kill()
    history.play(2, gateway=False)
    pump.reset(history.now_ms)
    history.play(1, gateway=False)
    history.start(note="the run before did not end cleanly")
    history.play(7)
    history.regain_broker()
    history.play(8)
    valve.reset(history.now_ms)
    valve.next += 5
    history.connect(valve, exact=False)
    history.play(14)
    history.stop()
    history.write_capture()
    return history


def retired_history(
    directory: Path, *, ledger_limits: LedgerLimits = LEDGER_LIMITS, rounds: int = 7
) -> History:
    """Small segments, most of them delivered and retired: what is left of them is the ledger."""
    history = History(directory, segment_bytes_max=8_192, ledger_limits=ledger_limits)
    history.start()
    for _ in range(rounds):
        history.play(2)
        history.retire()
    history.play(12)
    history.stop()
    history.write_capture()
    return history
