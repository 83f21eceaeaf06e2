"""A history: boards, a gateway, a broker and a disk, and what happens to them, all from one seed.

Every step has a random number generator of its own. So a history can be told again with fewer
steps, or without a kind of fault, and what is left happens as it did (see shrinking.py).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gapless_gateway.wal.entries import Delivered, Entry, Lost, Quarantined, Record
from gapless_gateway.wal.errors import WalDamaged, WalError, WalFull, WalNotWritable, WalTooNew
from tests.sim import faults
from tests.sim.boards import Board
from tests.sim.broker import Broker, Consumer
from tests.sim.gateway import Settings, SimulatedClock, SimulatedGateway
from tests.sim.inline_loop import InlineLoop
from tests.sim.invariants import (
    Recovered,
    check_declaration,
    check_end,
    check_entries,
    check_numbers,
    check_sound,
)
from tests.sim.rotting import rot_somewhere
from tests.sim.truth import BrokenPromise, Truth, promise
from tests.support.simulated_disk import PowerCutError, SimulatedDisk

OTHER_LOG_ID = b"otherlog"
ROUNDS_TO_DRAIN_MAX = 400
EIO = 5

Doing = Callable[[random.Random], None]


@dataclass(frozen=True)
class Plan:
    """What a history is made from."""

    seed: int
    steps: tuple[int, ...]  # the numbers of the steps that happen
    kinds: frozenset[str]  # the kinds of fault that are on


@dataclass
class Tally:
    """How often what happened."""

    faults: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)


class World:
    """See the module. `play` raises BrokenPromise."""

    def __init__(self, plan: Plan, tally: Tally | None = None) -> None:
        self.plan = plan
        self.tally = tally or Tally()
        self.truth = Truth()
        self.clock = SimulatedClock()
        self.loop = InlineLoop()
        self.consumer = Consumer(self.truth)
        self.broker = Broker(self.truth, self.consumer)
        self.gateway: SimulatedGateway | None = None
        self.died = ""  # how the run before ended
        self.rng = random.Random(plan.seed)
        rng = self.rng
        drops = faults.QUOTA in plan.kinds
        self.settings = Settings(
            segment_bytes_max=rng.choice((2500, 4000, 8000)),
            quota_bytes=rng.choice((140_000, 145_000, 150_000)) if drops else None,
            on_full="drop-oldest" if drops else "hold",
            boards=rng.randrange(1, 4),
        )
        self.streams = 0
        self.boards = [
            Board(f"pump-{i}", self._mint(), self.truth, rng.choice((12, 40, 200)))
            for i in range(self.settings.boards)
        ]
        self.disk = SimulatedDisk()
        self.disk.rng = random.Random(plan.seed + 1)
        if faults.FULL_DISK in plan.kinds:
            self.disk.capacity_bytes = rng.choice((220_000, 340_000, 420_000))
        self.rots = 0
        self.held_back: set[str] = set()  # boards whose acks are lost for now
        self.keep: str | None = None  # of the un-synced, at a power cut; None: drawn each time

    # The whole

    def play(self) -> World:
        """All steps, then the end in which everything drains."""
        with self.loop.running():
            for number in self.plan.steps:
                self.step(number)
            self.drain()
        return self

    def step(self, number: int) -> None:
        rng = random.Random(self.plan.seed * 100_003 + number)
        self.clock.now_ms += rng.randrange(1, 60)
        for board in self.boards:
            board.uptime_ms += rng.randrange(1, 60)
        [(_, kind, doing)] = rng.choices(DOINGS, WEIGHTS)
        if kind and kind not in self.plan.kinds:
            return
        self.note(f"{number}: {doing.__name__}")
        self._guarded(lambda: doing(self, rng))
        if self.gateway is None and rng.random() < 0.5:
            self._guarded(lambda: self.start_gateway(rng))

    def note(self, words: str) -> None:
        self.truth.note(words)

    def _mint(self) -> bytes:
        self.streams += 1
        return b"st%02d" % self.streams

    def _guarded(self, doing: Callable[[], None]) -> None:
        """Do it, and see what becomes of the gateway meanwhile."""
        try:
            doing()
            gateway = self.gateway
            if gateway is not None:
                self.loop.run_ready()
                gateway.settle_publisher(self.broker, self.rng)
                check_sound(gateway.account)
        except PowerCutError as cut:
            self.note(f"  {self.died or 'power cut'} at {cut}")
            self.crash()
        except OSError as error:
            # What no one of the gateway's code handles ends the process.
            self.note(f"  the process ends: {error}")
            self.tally.facts["processes ended by an OSError"] += 1
            self.died = faults.KILL
            self.crash()

    # The gateway's life

    def start_gateway(self, rng: random.Random) -> None:
        """Open the log, check what was recovered, and begin a run."""
        if self.gateway is not None:
            return
        try:
            gateway = SimulatedGateway(
                self.settings, self.disk, self.clock, self.loop, self.truth, self._watch
            )
        except WalError as error:
            self._refused(error)
            return
        self.gateway = gateway
        self.died = ""
        self.truth.log_id = gateway.wal.log_id
        self.tally.facts["recoveries"] += 1
        recovered = Recovered(self.disk, gateway.wal, self.settings, twice=rng.random() < 0.3)
        check_entries(self.truth, recovered)
        for note in gateway.wal.recovered.notes:
            self.note(f"  recovered: {note}")
            self.tally.facts["repairs and cuts at recovery"] += 1
        try:
            gateway.start(self.boards)
        except WalFull:
            self.note("  no room for the first entries")
            self.died = faults.KILL
            self.crash()
            return
        except WalError as error:
            self.note(f"  {error}")
            self.died = faults.KILL
            self.crash()
            return
        check_sound(gateway.account)
        check_numbers(self, gateway.account, recovered)

    def _refused(self, error: WalError) -> None:
        """The gateway does not start. Legal only for a reason."""
        name = type(error).__name__
        self.note(f"  refused: {error}")
        self.disk.locked.clear()
        if isinstance(error, WalFull):
            promise(self.disk.capacity_bytes is not None, "refusal", str(error))
        elif isinstance(error, WalTooNew):
            promise(bool(self.truth.damaged_formats), "refusal", str(error))
        elif isinstance(error, WalDamaged):
            # A header, and what else tells of it: its copy, or the segment before it.
            twice = bool(self.truth.damaged_headers) and len(self.disk.rotted) > 1
            promise(twice, "refusal", f"{error}; damaged: {self.truth.damaged_headers}")
        else:
            promise(isinstance(error, WalNotWritable), "refusal", str(error))
            promise("simulated fault" in str(error), "refusal", str(error))
        self.tally.refusals[name] += 1
        if isinstance(error, WalTooNew | WalDamaged):
            self._restore_from_a_copy()

    def _restore_from_a_copy(self) -> None:
        """What the sentence of the refusal says: the owner puts the damaged bytes right."""
        for path, offset, bit, became in self.disk.rotted:
            inode = self.disk.names.get(path)
            headers = path in self.truth.damaged_headers | self.truth.damaged_formats
            still = inode is not None and inode.durable[offset : offset + 1] == bytes([became])
            if inode is not None and headers and still:
                inode.durable[offset] ^= 1 << bit
                inode.cached[offset] ^= 1 << bit
        self.disk.rotted.clear()
        self.truth.damaged_headers.clear()
        self.truth.damaged_formats.clear()

    def crash(self) -> None:
        """The gateway is gone, and perhaps the power."""
        if self.gateway is not None:
            self.gateway.forget()
        self.gateway = None
        self.broker.cut(self.rng)
        for board in self.boards:
            board.unlink()
        if self.died == faults.KILL:
            self.disk = self.disk.after_kill()
            if self.rng.random() < 0.5:
                self.disk.drop_clean_pages()
        else:
            keep = self.keep or self.rng.choice(("none", "all", "random", "random"))
            self.disk = self.disk.after_power_cut(self.rng.getrandbits(30), keep)
        self.died = ""

    def _watch(self, lsn: int, entry: Entry) -> None:
        self.truth.appended.setdefault(lsn, []).append(entry)
        self.tally.facts["quarantined"] += isinstance(entry, Quarantined)
        self.tally.facts["delivered out of turn"] += isinstance(entry, Delivered)
        if isinstance(entry, Record) and self.gateway is not None:
            known = self.gateway.account.streams.get(entry.stream)
            again = known is not None and known.quarantined.contains(entry.seq)
            self.tally.facts["records asked for again"] += again
        if isinstance(entry, Lost):
            check_declaration(self, entry)

    # What boards do

    def board_produces(self, rng: random.Random) -> None:
        refuse = faults.REFUSED in self.plan.kinds
        rng.choice(self.boards).produce(rng.randrange(1, 8), rng, refuse)

    def board_greets(self, rng: random.Random) -> None:
        self._greet(rng.choice(self.boards))

    def board_sends(self, rng: random.Random) -> None:
        board = rng.choice(self.boards)
        if self.gateway is not None and not board.linked:
            self._greet(board)
        self._send(board, rng, rng.randrange(1, 12))

    def board_is_unplugged(self, rng: random.Random) -> None:
        board = rng.choice(self.boards)
        if self.gateway is not None:
            self.gateway.sessions[self.boards.index(board)].port_closed("unplugged")
            self.gateway.sessions[self.boards.index(board)].port_opened(lambda _data: None)
        board.unlink()

    def board_resets(self, rng: random.Random) -> None:
        self.tally.faults[faults.RESET] += 1
        board = rng.choice(self.boards)
        spilled = rng.random() < 0.4
        if rng.random() < 0.5:
            board.reset(rng, spilled=spilled)
        else:
            board.lose_power(rng, spilled=spilled)

    def board_is_wiped(self, rng: random.Random) -> None:
        board = rng.choice(self.boards)
        if self.gateway is not None and board.stream in self.gateway.account.streams:
            self.tally.faults[faults.WIPE] += 1
            board.wipe(self._mint())

    def board_visits_another_gateway(self, rng: random.Random) -> None:
        self.tally.faults[faults.ELSEWHERE] += 1
        rng.choice(self.boards).visit(rng, OTHER_LOG_ID)

    def acks_are_lost(self, rng: random.Random) -> None:
        """Of one board, from now on, or no longer."""
        self.tally.faults[faults.LOST_ACKS] += 1
        name = rng.choice(self.boards).name
        self.held_back ^= {name}

    def late_ack_arrives(self, rng: random.Random) -> None:
        if self.gateway is not None:
            self.gateway.sessions[rng.randrange(len(self.boards))].receiver.deliver_ack()

    def _greet(self, board: Board) -> None:
        if self.gateway is None:
            return
        session = self.gateway.sessions[self.boards.index(board)]
        session.receiver.lose_acks = board.name in self.held_back
        session.receiver.greet()
        session.pump()

    def _send(self, board: Board, rng: random.Random, count: int) -> None:
        if self.gateway is None or not board.linked:
            return
        session = self.gateway.sessions[self.boards.index(board)]
        receiver = session.receiver
        receiver.lose_acks = board.name in self.held_back
        if receiver.session_state != "linked":
            return
        if rng.random() < 0.3:
            receiver.tick(self.clock.monotonic_ms())
        if rng.random() < 0.1:
            board.send_again()
        messages = []
        while len(messages) < count and (message := board.next_message()) is not None:
            messages.append(message)
        if rng.random() < 0.2:
            rng.shuffle(messages)
        for message in messages:
            if rng.random() < 0.03:
                board.unsent = min(board.unsent, message[0])  # lost on the line
                continue
            receiver.take(*message)
        session.pump()

    # What the gateway does

    def gateway_commits(self, rng: random.Random) -> None:
        if self.gateway is not None:
            self.gateway.commit(whole=rng.random() < 0.6)

    def gateway_keeps_books(self, rng: random.Random) -> None:
        if self.gateway is not None:
            self.gateway.keep_books(whole=rng.random() < 0.6)

    def gateway_looks_for_room(self, rng: random.Random) -> None:
        if self.gateway is not None:
            dropped = self.gateway.intake.segments_dropped
            self.gateway.look(whole=rng.random() < 0.7)
            self.tally.facts["segments dropped"] += self.gateway.intake.segments_dropped - dropped

    def second_passes(self, rng: random.Random) -> None:
        self.clock.now_ms += rng.randrange(1000)
        if self.gateway is not None:
            self.gateway.period()

    def gateway_restarts(self, rng: random.Random) -> None:
        if self.gateway is not None:
            self.tally.faults[faults.RESTART] += 1
            self.gateway.stop(self.broker, rng)
            self.died = faults.KILL
            self.crash()

    # What the broker does

    def broker_comes(self, rng: random.Random) -> None:
        rarely = faults.QUOTA in self.plan.kinds and rng.random() < 0.8  # so that it is needed
        if self.gateway is not None and not rarely:
            self.gateway.connect(self.broker)

    def broker_goes(self, rng: random.Random) -> None:
        self.tally.faults[faults.BROKER_AWAY] += 1
        if self.gateway is not None:
            self.gateway.lose_broker(self.broker, rng, "closed")

    def broker_takes(self, rng: random.Random) -> None:
        self.broker.take(rng.randrange(1, 8))

    def broker_acknowledges(self, rng: random.Random) -> None:
        self.broker.acknowledge(rng.randrange(1, 8), rng)

    def broker_refuses_for_now(self, _rng: random.Random) -> None:
        self.broker.refuse_for_now()

    # What the disk does

    def power_cut_is_due(self, rng: random.Random) -> None:
        self._arm(faults.POWER_CUT, rng)

    def kill_is_due(self, rng: random.Random) -> None:
        self._arm(faults.KILL, rng)

    def _arm(self, kind: str, rng: random.Random) -> None:
        if self.gateway is None and rng.random() < 0.5:
            return  # mostly while it runs, and sometimes in the middle of its recovery
        self.tally.faults[kind] += 1
        if rng.random() < 0.3:
            self.died = kind
            raise PowerCutError("no call at all")
        self.died = kind
        self.disk.power_cut_at = self.disk.calls + rng.randrange(1, 16)

    def write_fails(self, rng: random.Random) -> None:
        self.tally.faults[faults.WRITE_ERROR] += 1
        self.disk.fail_next["write"] = EIO

    def sync_fails(self, rng: random.Random) -> None:
        self.tally.faults[faults.SYNC_ERROR] += 1
        self.disk.fail_next["sync"] = EIO

    def disk_fills(self, rng: random.Random) -> None:
        """Somebody else takes up most of what is free, or all of it."""
        self.tally.faults[faults.FULL_DISK] += 1
        free_bytes = self.disk.free_bytes
        self.disk.others_bytes += max(0, free_bytes - rng.choice((0, 300, 2000, 20_000)))

    def disk_empties(self, _rng: random.Random) -> None:
        self.disk.others_bytes = 0

    def bit_rots(self, rng: random.Random) -> None:
        if self.rots < faults.ROTS_MAX:
            held = {(one.stream, seq) for one in self.boards for seq in one.outbox}
            where = rot_somewhere(self.disk, self.truth, rng, held)
            if where is not None:
                self.rots += 1
                self.tally.faults[faults.BIT_ROT] += 1
                self.note(f"  {where}")

    def failed_gateway_is_restarted(self, rng: random.Random) -> None:
        """A person sees that it has failed."""
        gateway = self.gateway
        if gateway is None or not (gateway.committer.failed or gateway._publisher_failed):
            return
        self.died = faults.KILL if rng.random() < 0.6 else faults.POWER_CUT
        raise PowerCutError("restarted, since it had failed")

    # The end

    def drain(self) -> None:
        """Faults stop: everything has to come to its end."""
        self.note("the end: faults stop")
        disk = self.disk
        disk.fail_next.clear()
        disk.fail_at.clear()
        disk.power_cut_at = None
        disk.capacity_bytes, disk.others_bytes = None, 0
        self.held_back.clear()
        self.settings = replace(self.settings, quota_bytes=None)
        gateway = self.gateway
        too_new = bool(self.truth.damaged_formats)
        if too_new:  # of a segment that was not read again yet
            self._restore_from_a_copy()
        if gateway is not None:
            failed = gateway.committer.failed or gateway._publisher_failed or too_new
            if failed or gateway.settings.quota_bytes or self.rng.random() < 0.5:
                self.died = faults.KILL
                self.crash()
        rng = random.Random(self.plan.seed)
        for attempt in range(ROUNDS_TO_DRAIN_MAX):
            self._drain_once(rng)
            if attempt % 4 == 3 and self._drained():
                break
        gateway = self.gateway
        promise(gateway is not None, "progress", "the gateway does not start")
        assert gateway is not None
        failed = gateway.committer.failed or gateway._publisher_failed
        if failed and self.truth.damaged_formats and "install a newer" in failed:
            return  # one bit in a format number: what a newer Gapless writes is nothing to touch
        promise(not failed, "progress", f"failed without a fault: {failed}")
        check_sound(gateway.account)
        check_end(self, gateway.account)
        self.tally.facts["segments retired"] += gateway.wal._ledger.head[0]
        self.tally.facts["calls of the disk"] += self.disk.calls
        self.tally.facts["records made"] += len(self.truth.made)
        self.tally.facts["writes that found no room"] += self.disk.refused_for_room

    def _drain_once(self, rng: random.Random) -> None:
        if self.gateway is None:
            self.start_gateway(rng)
            return
        gateway = self.gateway
        self.clock.now_ms += 500
        for session, board in zip(gateway.sessions, self.boards, strict=True):
            board.uptime_ms += 500
            if not board.linked or session.receiver.session_state == "idle":
                self._greet(board)
            gateway.commit(whole=True)
            board.send_again()
            self._send(board, rng, 100)
        gateway.commit(whole=True)
        gateway.connect(self.broker)
        self.broker.take(100)
        self.broker.acknowledge(100, rng)
        self.loop.run_ready()
        gateway.settle_publisher(self.broker, rng)
        gateway.period()
        gateway.commit(whole=True)
        gateway.keep_books(whole=True)
        gateway.look(whole=True)
        check_sound(gateway.account)

    def _drained(self) -> bool:
        gateway = self.gateway
        if gateway is None or self.broker.wire or self.broker.unacknowledged:
            return False
        if any(board.outbox or not board.linked for board in self.boards):
            return False
        try:
            check_end(self, gateway.account)
        except BrokenPromise:
            return False
        return True


DOINGS: list[tuple[float, str, Callable[[World, random.Random], None]]] = [
    (9, "", World.board_produces),
    (3, "", World.board_greets),
    (10, "", World.board_sends),
    (1, "", World.board_is_unplugged),
    (1, "", World.late_ack_arrives),
    (0.7, faults.RESET, World.board_resets),
    (0.4, faults.WIPE, World.board_is_wiped),
    (0.7, faults.ELSEWHERE, World.board_visits_another_gateway),
    (1, faults.LOST_ACKS, World.acks_are_lost),
    (14, "", World.gateway_commits),
    (6, "", World.gateway_keeps_books),
    (4, "", World.gateway_looks_for_room),
    (2, "", World.second_passes),
    (0.5, faults.RESTART, World.gateway_restarts),
    (4, "", World.broker_comes),
    (1, faults.BROKER_AWAY, World.broker_goes),
    (8, "", World.broker_takes),
    (8, "", World.broker_acknowledges),
    (0.3, faults.BROKER_AWAY, World.broker_refuses_for_now),
    (1.2, faults.POWER_CUT, World.power_cut_is_due),
    (0.8, faults.KILL, World.kill_is_due),
    (0.4, faults.WRITE_ERROR, World.write_fails),
    (0.5, faults.SYNC_ERROR, World.sync_fails),
    (1.5, faults.FULL_DISK, World.disk_fills),
    (1, faults.FULL_DISK, World.disk_empties),
    (0.8, faults.BIT_ROT, World.bit_rots),
    (2, "", World.failed_gateway_is_restarted),
]
WEIGHTS = [weight for weight, _, _ in DOINGS]


def plan_of(seed: int, steps: int = 90) -> Plan:
    """The plan of a seed."""
    return Plan(seed, tuple(range(steps)), faults.draw(random.Random(seed ^ 0x5EED)))
