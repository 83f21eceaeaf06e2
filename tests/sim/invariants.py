"""What must hold of the log, the account, the boards and the consumer, whatever happened.

The names are what a broken promise is reported as:

    recovery            a second recovery, after another power cut, finds the same log and account
    hole                the LSNs of the log follow each other
    appeared            nothing is in the log, or at the consumer, that was not written
    acked and gone      what a board was told is durable is in the log, delivered, or accounted for
                        by a listed fault; delivered means that the consumer really has it
    lost for nothing    no LOST for what was delivered, is held by its board, or was never in danger
    freed and unreadable  a board that greets keeps what cannot be read here, and is asked for it
    balance             produced = delivered + pending + quarantined + lost + at most, at every step
    sound               no order violation, no conflict, nothing unexplained
    progress            once faults stop, all is delivered or declared, and no board holds anything
    consumer            once drained, the consumer was told what the account says
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gapless_gateway.account.account import Account
from gapless_gateway.account.stream_account import StreamAccount
from gapless_gateway.wal.entries import (
    GONE_CORRUPTION,
    GONE_QUOTA,
    REASON_CORRUPTION,
    REASON_GATEWAY_ROLLBACK,
    REASON_OVERFLOW,
    REASON_QUOTA,
    REASON_REPLACED,
    REASON_RESET,
    Elsewhere,
    Entry,
    Gone,
    Lost,
    Quarantined,
    Record,
    Session,
    reason_word,
)
from gapless_gateway.wal.kept_records import read_kept
from gapless_gateway.wal.log import Log
from gapless_gateway.wal.paths import StatePaths
from tests.sim.gateway import STATE_DIR, Settings
from tests.sim.truth import Number, Truth, promise
from tests.support.simulated_disk import SimulatedDisk

if TYPE_CHECKING:
    from tests.sim.world import World

PATHS = StatePaths(STATE_DIR)
READ_AT_A_TIME = 64


class Recovered:
    """A recovered log as a second recovery of it reads it, whole."""

    def __init__(self, disk: SimulatedDisk, log: Log, settings: Settings, *, twice: bool) -> None:
        """`disk`: of `log`, which was just opened. It is left as it is."""
        copy = disk.after_power_cut(0, "none")
        self.entries = self._read(copy, settings)
        promise(
            self.account.snapshot() == log.account.snapshot(),
            "recovery",
            "the account of a second recovery differs from that of the first",
        )
        promise(
            (self.first_lsn, self.next_lsn) == (log.first_lsn, log.next_lsn),
            "recovery",
            f"{log.first_lsn}..{log.next_lsn} became {self.first_lsn}..{self.next_lsn}",
        )
        if twice:
            before = self.entries
            again = self._read(copy.after_power_cut(0, "none"), settings)
            promise(again == before, "recovery", "a third recovery reads other entries")
        self.kept = dict(read_kept(copy, PATHS.kept_records, log.log_id))
        self.records: dict[Number, bytes] = {}
        self.gone: set[Number] = set()
        self.dropped: set[Number] = set()  # for want of room; their Gone is the declaration
        for _, entry in self.entries:
            if type(entry) is Record:
                self.records[entry.stream, entry.seq] = entry.data
            elif type(entry) is Gone:
                numbers = {(s, seq) for s, a, b in entry.ranges for seq in range(a, b + 1)}
                self.gone |= numbers
                if entry.cause == GONE_QUOTA:
                    self.dropped |= numbers
        self.kept_numbers = {(one.stream, one.seq): one.data for one in self.kept.values()}

    def _read(self, copy: SimulatedDisk, settings: Settings) -> list[tuple[int, Entry]]:
        copy.capacity_bytes = None
        log = Log.open(
            STATE_DIR,
            disk=copy,
            segment_bytes_max=settings.segment_bytes_max,
            now_ms=lambda: 0,
        )
        entries: list[tuple[int, Entry]] = []
        lsn = log.first_lsn
        while some := log.read(lsn, READ_AT_A_TIME):
            entries += some
            last_lsn, last = some[-1]
            lsn = last.last_lsn + 1 if type(last) is Gone else last_lsn + 1
        self.account, self.first_lsn, self.next_lsn = log.account, log.first_lsn, log.next_lsn
        promise(lsn == log.next_lsn, "hole", f"reading ends at {lsn}, the log at {log.next_lsn}")
        log.close()
        return entries


def numbers_of(entry: Entry) -> list[Number]:
    """The numbers that an entry is about."""
    if isinstance(entry, Record):
        return [(entry.stream, entry.seq)]
    if isinstance(entry, Lost | Elsewhere):
        return [(entry.stream, seq) for seq in range(entry.first, entry.last + 1)]
    if isinstance(entry, Session):  # without it, who says that they are another log's?
        return [(entry.stream, seq) for seq in range(1, entry.base + 1)]
    return []


def check_entries(truth: Truth, recovered: Recovered) -> None:
    """Of a log that was just recovered."""
    due = recovered.first_lsn
    for lsn, entry in recovered.entries:
        promise(lsn == due, "hole", f"{lsn} stands where {due} was due")
        due = lsn + 1
        if type(entry) is not Gone:
            known = entry in truth.appended.get(lsn, ())
            promise(known, "appeared", f"{entry} at {lsn} was never written")
            continue
        due = entry.last_lsn + 1
        if entry.cause == GONE_CORRUPTION and entry not in truth.appended.get(lsn, ()):
            span = range(lsn, min(due, truth.durable_lsn + 1))
            safe = [one for one in span if one not in truth.may_be_gone | truth.may_be_cut]
            promise(not safe, "acked and gone", f"{safe} were in no danger and are {entry}")
            hit = any(one in truth.may_be_gone | truth.may_be_cut for one in range(lsn, due))
            promise(hit, "appeared", f"{entry} at {lsn}, where nothing was ever damaged")
            truth.may_be_gone.update(range(lsn, due))
            for torn_lsn in range(truth.durable_lsn + 1, due):  # it was begun, and never synced
                for torn in truth.appended.get(torn_lsn, ()):
                    truth.hit_numbers.update(numbers_of(torn))
    end_lsn = recovered.next_lsn
    missing = [one for one in range(end_lsn, truth.durable_lsn + 1) if one not in truth.may_be_cut]
    promise(not missing, "acked and gone", f"the log ends at {end_lsn}, {missing} were durable")
    found = dict(recovered.entries)
    for lsn in truth.may_be_cut:
        for entry in truth.appended[lsn]:
            if found.get(lsn) != entry:
                truth.cut.update(numbers_of(entry))
                if isinstance(entry, Quarantined):
                    truth.unquarantined.add((entry.stream, entry.seq))
    truth.may_be_cut.clear()
    truth.durable_lsn = end_lsn - 1  # what was cut is given again


def check_sound(account: Account) -> None:
    """At every moment."""
    if account.order_violations or account.conflicts:
        findings = [account.findings] + [one.findings for one in account.streams.values()]
        promise(account.conflicts == 0, "sound", f"{account.conflicts} conflicts, {findings}")
        promise(account.order_violations == 0, "sound", f"order: {findings}")
    for stream, one in account.streams.items():
        balance = one.balance()
        promise(balance.unexplained == 0, "sound", f"{stream.hex()}: {one.unexplained}")
        promise(balance.holds, "balance", f"{stream.hex()}: {balance}")


def check_numbers(world: World, account: Account, recovered: Recovered) -> None:
    """All that boards were told is durable, against the account and the log."""
    for number in world.truth.told:
        stream, seq = number
        known = account.streams.get(stream)
        truth = world.truth
        if known is None or seq > known.durable:
            excused = any(number in one for one in (truth.cut, truth.hit_numbers, truth.elsewhere))
            promise(excused, "acked and gone", f"{number} is not in the account")
        elif seq > known.base and known.elsewhere.get(seq) is None:
            _check_number(world, known, number, recovered)


def _check_number(world: World, known: StreamAccount, number: Number, recovered: Recovered) -> None:
    truth, seq = world.truth, number[1]
    lost = known.lost.get(seq)
    if lost is not None:
        check_lost(world, number, lost[0])
    elif known.quarantined.contains(seq):
        if known.unreadable.get(seq) is not None:
            promise(number in truth.hit_numbers, "acked and gone", f"{number} became unreadable")
        else:
            promise(number in truth.refused, "acked and gone", f"{number} was never refused")
            data = recovered.records.get(number, recovered.kept_numbers.get(number))
            same = data == truth.made[number] or number in truth.hit_numbers
            promise(same, "acked and gone", f"{number} is in quarantine and nowhere to be read")
    elif seq <= known.delivered_through and not known.requeued.contains(seq):
        has = seq in world.consumer.of(number[0]).records or number in truth.unquarantined
        promise(has, "acked and gone", f"{number} counts as delivered, the consumer has it not")
    else:
        promise(known.stored.contains(seq), "acked and gone", f"{number} is in no state at all")
        data = recovered.records.get(number)
        if data is None:
            legal = number in recovered.gone and number in truth.hit_numbers
            # Between the drop and its LOST; whoever reads on from there declares it.
            legal |= number in recovered.dropped and number not in truth.published
            promise(legal, "acked and gone", f"{number} is pending and not in the log")
        else:
            promise(data == truth.made[number], "altered", f"{number} has other bytes in the log")


def check_lost(world: World, number: Number, reason: int) -> None:
    """That this number may be LOST for this reason."""
    truth = world.truth
    why = truth.forgotten.get(number)
    if number in truth.cut:
        return
    legal = {
        REASON_OVERFLOW: why == "overflow",
        REASON_RESET: why in ("reset", "reserved", "overflow") or number in truth.hit_numbers,
        # Of a stream that is over, nobody asks any more where else a number may be.
        REASON_REPLACED: why is not None or number in truth.elsewhere | truth.hit_numbers,
        REASON_QUOTA: number not in truth.published,
        REASON_CORRUPTION: number in truth.hit_numbers,
        # Hit at the very end of the log, so that nothing there tells of it any more.
        REASON_GATEWAY_ROLLBACK: number in truth.hit_numbers,
    }
    promise(
        legal.get(reason, False),
        "lost for nothing",
        f"{number} is LOST {reason_word(reason)}; its board: {why}",
    )
    had = number[1] in world.consumer.of(number[0]).records
    had = had and not (number in truth.hit_numbers and reason != REASON_CORRUPTION)
    promise(not had, "lost for nothing", f"{number} is LOST and the consumer has it")


def check_declaration(world: World, entry: Lost) -> None:
    """Of a LOST that the gateway is about to write."""
    if not entry.by_gateway or entry.reason == REASON_QUOTA:
        return
    for number in numbers_of(entry):
        board = next((one for one in world.boards if one.stream == entry.stream), None)
        held = board is not None and board.holds(number[1])
        promise(
            not held,
            "lost for nothing",
            f"{number} is declared LOST {reason_word(entry.reason)} and its board holds it",
        )


def check_end(world: World, account: Account) -> None:
    """Faults have stopped, and all had the time it takes."""
    truth = world.truth
    for board in world.boards:
        promise(not board.outbox, "progress", f"{board.name} still holds {board.ranges()}")
    for stream, known in account.streams.items():
        balance = known.balance()
        pending = balance.pending_device + balance.pending_gateway
        promise(pending == 0, "progress", f"{stream.hex()}: {balance}")
        heard = world.consumer.of(stream)
        lost = {seq for a, b, _ in known.lost for seq in range(a, b + 1)}
        # What stood at the very end of the log and is gone, nothing there remembers.
        forgotten = {seq for one, seq in truth.cut | truth.hit_numbers if one == stream}
        # A LOST that went bad before it was sent: the account derives it, and nobody tells of it.
        untold = lost - set(heard.lost) - {seq for one, seq in truth.hit_losts if one == stream}
        if untold or set(heard.lost) - forgotten != lost - forgotten:
            words = f"{stream.hex()} LOST here {sorted(lost)}, there {sorted(heard.lost)}"
            promise(False, "consumer", words)
        for a, b, (reason, _) in known.lost:
            for seq in range(a, b + 1):
                check_lost(world, (stream, seq), reason)
                told = heard.lost.get(seq, reason_word(reason))
                same = told == reason_word(reason)
                promise(same, "consumer", f"{(stream, seq)}: told {told}, it is {reason}")
        for a, b in known.delivered:
            for seq in range(a, b + 1):
                has = seq in heard.records or (stream, seq) in truth.unquarantined
                promise(has, "consumer", f"{(stream, seq)} never got there")
        for a, b in known.quarantined:
            for seq in range(a, b + 1):
                promise(
                    seq in heard.aside or (stream, seq) in truth.cut,
                    "consumer",
                    f"{(stream, seq)} is in quarantine and was never announced",
                )
    for board in world.boards:
        known = account.streams.get(board.stream)
        durable = known.durable if known is not None else 0
        promise(durable >= board.next - 1, "progress", f"{board.name}: {durable}, {board.next}")
