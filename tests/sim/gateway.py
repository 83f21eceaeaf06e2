"""The gateway of a history: the real parts, stepped by hand.

Real are the log, the account, the daemon's first steps, Committer's batch, Intake, LinkedStream
behind PortSession, the reorder buffer, Publisher with Sending, Delivery and Bookkeeping, and the
messages. What loops and waits in them is not run: `SimulatedGateway` takes their steps one at a
time, in an order that the world chooses. The bytes of the link and of MQTT are left out.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gapless_gateway.committer import Batch, Committer
from gapless_gateway.daemon import Daemon
from gapless_gateway.ingest import Clock, Ingest
from gapless_gateway.intake import Intake, OnFull
from gapless_gateway.metrics import Metrics
from gapless_gateway.publisher.metrics import PublisherMetrics
from gapless_gateway.publisher.publisher import Publisher
from gapless_gateway.publisher.settings import PublisherSettings
from gapless_gateway.session import PortSession
from gapless_gateway.wal.entries import Entry, Stopped
from gapless_gateway.wal.errors import WalError
from gapless_gateway.wal.log import Log
from gapless_link.receiver import (
    GREETED,
    IDLE,
    LINKED,
    NO_OFFER,
    ClockSample,
    Ended,
    HelloReceived,
    Started,
)
from gapless_link.reorder import ReorderBuffer
from tests.sim.boards import Board
from tests.sim.broker import Broker, Connection
from tests.sim.inline_loop import InlineLoop, Task
from tests.sim.truth import Truth, promise
from tests.support.simulated_disk import SimulatedDisk

STATE_DIR = Path("/state")
WINDOW_MESSAGES = 6
SEND_MARK_BLOCK_LSNS = 12
READ_AHEAD_ENTRIES = 5
METRICS = Metrics()  # counters that nobody reads here; dear to make


@dataclass(frozen=True)
class Settings:
    """What the owner of the gateway configured."""

    segment_bytes_max: int = 3000
    quota_bytes: int | None = None
    on_full: OnFull = "hold"
    boards: int = 3


class SimulatedClock(Clock):
    """Both clocks; the world moves them."""

    def __init__(self) -> None:
        super().__init__(lambda: True)
        self.now_ms = 1_700_000_000_000

    def monotonic_ms(self) -> int:
        return self.now_ms - 1_600_000_000_000

    def utc_ms(self) -> int:
        return self.now_ms


class WatchedLog(Log):
    """The log; every entry that is appended is looked at and remembered."""

    watch: Callable[[int, Entry], None]
    failures: list[str]  # of the disk
    failed_in_commit: str = ""  # the call of a commit that failed: what the disk holds is unknown

    def commit(self) -> int:
        before = len(self.failures)
        try:
            return super().commit()
        finally:
            failed = [one for one in self.failures[before:] if ".wal" in one]
            self.failed_in_commit = self.failed_in_commit or " ".join(failed)

    def append_many(self, entries: Sequence[Entry]) -> int:
        last_lsn = super().append_many(entries)
        for lsn, entry in enumerate(entries, last_lsn - len(entries) + 1):
            self.watch(lsn, entry)
        return last_lsn


class SimulatedCommitter(Committer):
    """Commits when it is told to; who waits for a commit lets it happen."""

    committing: Task | None = None

    def step(self) -> None:
        """The next step of the commit on its way, or of a new one."""
        if self.committing is None:
            if not self._pending() or self.failed is not None:
                return
            self.committing = Task(self._commit_batch())
        self.committing.step()
        if self.committing.done:
            self.committing = None

    def attempt(self) -> None:
        """One whole commit: the one on its way, or a new one."""
        self.step()
        while self.committing is not None:
            self.step()


class SimulatedPublisher(Publisher):
    """The publisher without its modes' waiting."""

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def connect(self, connection: Connection) -> None:
        self._begin(connection)  # type: ignore[arg-type]

    def lose(self, cause: str) -> None:
        Task(self._lost(cause, slowly=False)).finish()

    async def _or_stopping(self, what: Any) -> None:
        what.close()  # no waiting between two attempts

    def check(self) -> bool:
        """Whether sending has come to an end over this connection. Raises its failure."""
        if self._sending.failure is not None:
            raise self._sending.failure
        return self._sending.stopped.is_set()

    def period(self) -> None:
        """What Bookkeeping does every second, before it stores."""
        self._books.note_progress()
        self._period_is_over()

    def store(self) -> Task:
        """What Bookkeeping does then, and whenever a mark is wanted."""
        return Task(self._books._store(self._books._mark_to_reserve()))

    def leave(self) -> None:
        self._sending.pause()
        self._connection = None
        Task(self._books.finish()).finish()

    @property
    def mark_lsn(self) -> int:
        return self._sending.mark_lsn


class SimulatedReceiver:
    """The gateway's end of the link to one board, without its bytes."""

    def __init__(
        self,
        board: Board,
        on_told: Callable[[bytes, int], None],
        on_freed: Callable[[Board, int], None],
    ) -> None:
        self.board = board
        self.counters: dict[str, int] = {}
        self.offer_state = NO_OFFER
        self.session_state = IDLE
        self.lose_acks = False
        self.late_ack: tuple[int, int] | None = None
        self.events: deque[Any] = deque()
        self._on_told, self._on_freed = on_told, on_freed
        self._hello: Any = None
        self._life = 0
        self._reorder: ReorderBuffer | None = None
        self._durable = self._credit = 0
        self._stream = board.stream  # of the session: the board may be wiped meanwhile

    # The board's side

    def greet(self) -> None:
        self._hello, self._life = self.board.hello(), self.board.life
        self.offer_state = GREETED
        self.events.append(HelloReceived(self._hello))

    def take(self, first: int, last: int, data: bytes | None) -> None:
        if self.session_state != LINKED or self._reorder is None:
            return
        if last < self._reorder.expected:  # a repeat: whatever told it so was lost
            self.late_ack = (self._durable, self._credit)
        if data is None:
            self._reorder.add_lost(first, last, 1, False, self.events)
        else:
            self._reorder.add_record(first, data, self.events)

    def tick(self, now_ms: int) -> None:
        if self.session_state == LINKED:
            ticks_ms = self.board.uptime_ms
            self.events.append(ClockSample(0, ticks_ms, now_ms - 3, now_ms))

    # What PortSession asks of a Receiver

    def welcome(self, log_id: bytes, stream: bytes, durable: int, credit: int) -> None:
        self.offer_state = NO_OFFER
        if self.board.life != self._life:
            return  # it was reset or unplugged meanwhile
        self._stream = stream
        self._on_told(stream, durable)
        self._on_freed(self.board, durable)
        if self.session_state != IDLE:
            self._end("new session")
        self._durable = durable
        self.board.welcomed(log_id, durable, credit)
        self.session_state = "starting"
        self.events.append(Started(self._hello))

    def reject(self, _code: int, _words: str) -> None:
        self.offer_state = NO_OFFER
        if self.session_state != IDLE:
            self._end("rejected")
        self.board.unlink()

    def begin(self, expected: int, gaps: list[tuple[int, int, int, bool]]) -> None:
        assert expected > self._durable
        self.session_state = LINKED
        self._reorder = ReorderBuffer(expected, gaps, self.events)

    def acknowledge(self, durable: int, credit: int) -> None:
        if self.session_state != LINKED or self._reorder is None:
            return
        assert self._durable <= durable < self._reorder.expected
        self._durable, self._credit = durable, credit
        self._on_told(self._stream, durable)
        self.late_ack = (durable, credit)
        if not self.lose_acks:
            self.deliver_ack()

    def deliver_ack(self) -> None:
        if self.late_ack is not None and self.board.linked:
            self.board.take_ack(*self.late_ack)
        self.late_ack = None

    def close(self) -> None:
        self.late_ack = None
        self.offer_state = NO_OFFER
        if self.session_state != IDLE:
            self._end("closed")
        self.board.unlink()

    def next_event(self) -> Any:
        return self.events.popleft() if self.events else None

    def data_to_send(self, _now_ms: int) -> bytes:
        if self.session_state == LINKED and not self.lose_acks:
            self.deliver_ack()
        return b""

    def next_deadline_ms(self, _now_ms: int) -> None:
        return None

    def _end(self, why: str) -> None:
        self.session_state = IDLE
        self._reorder = None
        self.events.append(Ended(why))


class SimulatedSession(PortSession):
    """The real session over a receiver without bytes."""

    def __init__(self, ingest: Ingest, receiver: SimulatedReceiver) -> None:
        super().__init__(f"/dev/{receiver.board.name}", ingest)
        self._receiver = self.receiver = receiver
        self.port_opened(lambda _data: None)

    def pump(self) -> None:
        self._rx_ms = self._ingest.clock.utc_ms()
        self._pump()


class SimulatedGateway(Daemon):
    """One run of the gateway."""

    def __init__(
        self,
        settings: Settings,
        disk: SimulatedDisk,
        clock: SimulatedClock,
        loop: InlineLoop,
        truth: Truth,
        watch: Callable[[int, Entry], None],
    ) -> None:
        """Opens the log, which recovers it. Raises WalError, PowerCutError."""
        self.settings = settings
        self.disk = disk
        self.loop = loop
        self.truth = truth
        self.metrics = METRICS
        self._clock = clock
        self._config = SimpleNamespace(gateway=SimpleNamespace(name="plant"))  # type: ignore
        self._publisher_failed = None
        self._storing: Task | None = None
        self._looking: Task | None = None
        log_ids = random.Random(len(truth.events))
        self.wal = self._wal = WatchedLog.open(
            STATE_DIR,
            disk=disk,
            segment_bytes_max=settings.segment_bytes_max,
            quota_bytes=settings.quota_bytes,
            random_bytes=log_ids.randbytes,
            now_ms=clock.utc_ms,
        )
        self.wal.watch, self.wal.failures = watch, disk.failures

    @property
    def account(self) -> Any:  # type: ignore[override]
        return self.wal.account

    def start(self, boards: list[Board]) -> None:
        """The daemon's first steps, and its wiring."""
        self._begin_run()
        self.truth.durable_lsn = self.wal.durable_lsn
        wal = self.wal
        self.committer = self._committer = SimulatedCommitter(wal)
        self._publisher_metrics = PublisherMetrics()
        self.publisher = self._publisher = SimulatedPublisher(
            wal,
            self.committer.append,
            SimpleNamespace(address="broker:1883"),  # type: ignore[arg-type]
            PublisherSettings(
                gateway="plant",
                window=WINDOW_MESSAGES,
                send_mark_block_lsns=SEND_MARK_BLOCK_LSNS,
                read_ahead_entries=READ_AHEAD_ENTRIES,
            ),
            self._publisher_metrics,
            run=wal.account.run,
            clock_ms=self._clock.utc_ms,
            rng=random.Random(1),
        )
        ingest = Ingest(
            account=wal.account,
            committer=self.committer,
            metrics=METRICS,
            clock=self._clock,
            random_bytes=random.Random(2).randbytes,
            outage_id=lambda: self.publisher.outages.current_id,
            credit_window=lambda: self.intake.window_seqs,
        )
        self.intake = self._intake = Intake(
            wal,
            self.committer,
            on_full=self.settings.on_full,
            boards=self.settings.boards,
            outage_id=ingest.outage_id,
            clock_ms=self._clock.utc_ms,
        )
        self.sessions = self._sessions = [
            SimulatedSession(ingest, SimulatedReceiver(board, self._on_told, self._on_freed))
            for board in boards
        ]  # type: ignore[assignment]
        self.committer.call_on_durable(self._note_durable)
        self.committer.call_on_durable(self._on_durable)
        self.committer.call_on_failed(self._on_ingest_stopped)
        self.intake.call_on_changed(self._on_credit_changed)
        self.intake.call_on_dropped(
            lambda: self.publisher.notify_durable(self.committer.applied_lsn)
        )

    # Steps

    def commit(self, *, whole: bool) -> None:
        if whole:
            self.committer.attempt()
        else:
            self.committer.step()
        self.loop.run_ready()

    def keep_books(self, *, whole: bool) -> None:
        """A step of storing the cursor and retiring, or all of it."""
        if self._publisher_failed is not None:
            return
        self._storing = self._storing or self.publisher.store()
        self._storing = self._step(self._storing, whole)

    def look(self, *, whole: bool) -> None:
        """A step of the intake's look at the room, or all of it."""
        if self.committer.failed is not None:
            return
        self._looking = self._looking or Task(self.intake.look())
        self._looking = self._step(self._looking, whole)

    def _step(self, task: Task, whole: bool) -> Task | None:
        try:
            task.step()
            while whole and not task.done:
                task.step()
        except WalError as error:
            self._publisher_failed = str(error)
        self.loop.run_ready()
        return None if task.done else task

    def period(self) -> None:
        if self._publisher_failed is None:
            self.publisher.period()
            self.loop.run_ready()

    def connect(self, broker: Broker) -> None:
        if self._publisher_failed is None and not self.publisher.connected:
            self.publisher.connect(Connection(broker))
            self.loop.run_ready()

    def lose_broker(self, broker: Broker, rng: random.Random, cause: str) -> None:
        broker.cut(rng)
        if self._publisher_failed is None and self.publisher.connected:
            self.publisher.lose(cause)
            self.loop.run_ready()

    def settle_publisher(self, broker: Broker, rng: random.Random) -> None:
        """Whatever made sending stop is dealt with. Raises what the daemon would not survive."""
        if self._publisher_failed is not None:
            return
        try:
            stopped = self.publisher.check()
        except WalError as error:
            self._publisher_failed = str(error)
            return
        if stopped:
            self.lose_broker(broker, rng, "refused for now")

    def stop(self, broker: Broker, rng: random.Random) -> None:
        """The clean end, as Daemon._finish has it."""
        if self._looking is not None:
            self._looking.forget()
        self.committer.finishing()
        self.committer.attempt()
        self.loop.run_ready()
        for session in self.sessions:
            session.port_closed("the gateway stops")
        if self._publisher_failed is None:
            broker.take(rng.randrange(len(broker.wire) + 1))
            broker.acknowledge(rng.randrange(5), rng)
            self.loop.run_ready()
            try:
                if self._storing is not None:
                    self._storing.finish()
                self.publisher.leave()
            except WalError as error:
                self._publisher_failed = str(error)
        broker.cut(rng)
        self.committer.append(Stopped(self._clock.utc_ms(), self._run))
        self.committer.finish()
        self.committer.attempt()
        self.loop.run_ready()
        self.wal.close()

    def forget(self) -> None:
        """The process is gone, wherever it was."""
        committer: SimulatedCommitter | None = getattr(self, "committer", None)
        committing = committer.committing if committer is not None else None
        for task in (self._storing, self._looking, committing):
            if task is not None:
                task.forget()
        self.loop.forget()

    # What is watched

    def _note_durable(self, batch: Batch) -> None:
        if batch:
            self.truth.durable_lsn = batch[-1][0]

    def _on_told(self, stream: bytes, durable: int) -> None:
        failed = self.wal.failed_in_commit
        known = self.wal.account.streams.get(stream)
        here = known.durable if known is not None else 0
        told_now = False
        for seq in range(self.truth.told_through.get(stream, 0) + 1, durable + 1):
            if (stream, seq) in self.truth.elsewhere:
                continue
            told_now = True
            self.truth.told.add((stream, seq))
            promise(seq <= here, "ack before durable", f"{stream.hex()} {durable}, here {here}")
        self.truth.told_through[stream] = durable
        if told_now:
            promise(
                not failed, "ack after a failed sync", f"{stream.hex()} {durable} after {failed}"
            )

    def _on_freed(self, board: Board, durable: int) -> None:
        """A greeted board is about to forget what is durable."""
        known = self.wal.account.streams.get(board.stream)
        unreadable = known.unreadable_quarantined.keys() if known is not None else ()
        freed = [seq for a, b in unreadable for seq in range(a, b + 1) if board.holds(seq)]
        promise(
            not any(seq <= durable for seq in freed),
            "freed and unreadable",
            f"{board.name} holds {freed}, unreadable here, and is told to forget them",
        )
