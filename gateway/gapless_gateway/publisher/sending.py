"""From the log into the connection: reading ahead, the window, acknowledgements.

Nothing here waits. `wake` asks for a turn; the turn sends as much as the window, the memory limit
and the send mark allow, and ends. Acknowledgements, commits and stored marks each wake it again,
so that a burst of PUBACKs costs one turn and leaves as one write.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from gapless_gateway.account.declaring import declarations, undeclared
from gapless_gateway.brokers.base import (
    BrokerConnection,
    OutgoingMessage,
    PublishOutcome,
    PublishResult,
)
from gapless_gateway.publisher.delivery import Delivery, Flight, Sendable, last_seq
from gapless_gateway.publisher.message import CannotEncode, MessageMaker
from gapless_gateway.publisher.metrics import PublisherMetrics
from gapless_gateway.publisher.parts import LogView
from gapless_gateway.publisher.receipts import Receipts
from gapless_gateway.publisher.settings import PublisherSettings
from gapless_gateway.publisher.standing_in import SetAside, pieces_of
from gapless_gateway.wal.entries import (
    GIVEN_UP_REASONS,
    REASON_GATEWAY_ROLLBACK,
    Delivered,
    Elsewhere,
    Entry,
    Gone,
    Lost,
    Quarantined,
    Record,
    Session,
)

_log = logging.getLogger("gapless.publisher")

# With PUBACK as delivery, so many windows of entries may pile up behind one that is held back.
WINDOWS_HELD_MAX = 4


def _is_forgotten(entry: Sendable) -> bool:
    """Whether the log forgot these numbers once, and with them what it sent of them."""
    return isinstance(entry, Lost) and entry.reason == REASON_GATEWAY_ROLLBACK


class Sending:
    """Sends what the log has, in its order, over the connection of the moment."""

    def __init__(
        self,
        *,
        log: LogView,
        delivery: Delivery,
        maker: MessageMaker,
        receipts: Receipts,
        settings: PublisherSettings,
        metrics: PublisherMetrics,
        append: Callable[[Entry], int],
        clock_ms: Callable[[], int],
        on_new_stream: Callable[[], None],
        on_turn: Callable[[], None],
        want_mark: Callable[[], None],
    ) -> None:
        """`on_new_stream`: a stream is about to appear. `on_turn`: something may have moved.

        `want_mark`: sending waits for a higher send mark.
        """
        self.unacknowledged = 0
        self.stopped = asyncio.Event()  # sending over this connection has come to an end:
        self.refusal = ""  # the broker refuses messages for now, or
        self.failure: Exception | None = None  # something here is broken
        self.mark_lsn = log.cursor.send_mark_lsn  # stored: nothing beyond it may leave
        self._log = log
        self._delivery = delivery
        self._maker = maker
        self._receipts = receipts
        self._settings = settings
        self._metrics = metrics
        self._append = append
        self._clock_ms = clock_ms
        self._on_new_stream = on_new_stream
        self._on_turn = on_turn
        self._want_mark = want_mark
        self._by_receipt = settings.delivered_when == "receipt"
        self._connection: BrokerConnection | None = None
        self._window = 0
        self._ahead: deque[tuple[int, Entry]] = deque()  # read, not looked at yet
        # Refused for good, the Quarantined entry appended and not durable yet: (stream, seq) -> LSN
        self._aside: dict[tuple[bytes, int], int] = {}
        self._quarantining: deque[tuple[int, Flight]] = deque()  # that LSN, and who waits for it
        self._announcing: deque[Flight] = deque()
        # Out of quarantine and with the broker, the Delivered entry appended and not durable yet.
        self._delivering: dict[tuple[bytes, int], int] = {}
        self._confirming: deque[tuple[int, Flight]] = deque()  # that LSN, and who waits for it
        self._declared_lsn = 0  # of the last Gone whose numbers had to be declared
        self._awake = False
        self._warned_no_subscribers = False

    # The connection

    def begin(self, connection: BrokerConnection) -> None:
        """Send over this connection from the next turn on."""
        self._connection = connection
        self._window = min(self._settings.window, connection.receive_maximum)
        self.unacknowledged = 0
        self.stopped.clear()
        self._warned_no_subscribers = False
        self.wake()

    def pause(self) -> None:
        """Send nothing more; what is in flight may still be acknowledged."""
        self._connection = None

    def end(self) -> None:
        """The connection is over: what was not delivered will be read and sent again."""
        self._connection = None
        self.unacknowledged = 0
        self.rewind()

    def rewind(self) -> None:
        """Go back to the first entry that is not delivered."""
        self._ahead.clear()
        self._quarantining.clear()
        self._announcing.clear()
        self._confirming.clear()
        self._delivery.rewind()

    def publish(self, message: OutgoingMessage, connection: BrokerConnection) -> None:
        """Send a message that is no entry of the log; it takes part in the window."""
        self._metrics.published += 1
        self.unacknowledged += 1
        connection.publish(message, self._acknowledged_other)

    # Turns

    def wake(self) -> None:
        """Ask for a turn, once."""
        if not self._awake:
            self._awake = True
            asyncio.get_running_loop().call_soon(self._turn)

    def notify_durable(self, lsn: int) -> None:
        """Entries up to `lsn` are durable: they may leave, and what is quarantined be announced."""
        while self._quarantining and self._quarantining[0][0] <= lsn:
            self._announcing.append(self._quarantining.popleft()[1])
        while self._confirming and self._confirming[0][0] <= lsn:
            self._delivery.deliver(self._confirming.popleft()[1])
        if self._delivering:
            self._delivering = {key: at for key, at in self._delivering.items() if at > lsn}
        if self._aside:
            self._aside = {key: at for key, at in self._aside.items() if at > lsn}
        self.wake()

    def _turn(self) -> None:
        self._awake = False
        try:
            self._send_what_may_leave()
            self._on_turn()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """The log cannot be read or written, or a bug: nobody awaits a turn, so it is kept."""
        self._connection = None
        self.failure = error
        self.stopped.set()

    def _send_what_may_leave(self) -> None:
        connection = self._connection
        if connection is not None:
            while self._has_room():
                if self._announcing:
                    self._announce(self._announcing.popleft(), connection)
                elif not self._take_next(connection):
                    break

    def _has_room(self) -> bool:
        if self._connection is None or self.unacknowledged >= self._window:
            return False
        held_max = (
            self._settings.receipt_window
            if self._by_receipt
            else WINDOWS_HELD_MAX * self._settings.window
        )
        return bool(self._announcing) or self._delivery.flights < held_max

    def _take_next(self, connection: BrokerConnection) -> bool:
        """Deal with the next entry of the log; False when there is none that may be sent now."""
        if not self._ahead:
            self._ahead.extend(
                self._log.read(self._delivery.next_lsn, self._settings.read_ahead_entries)
            )
            if not self._ahead:
                return False
        lsn, entry = self._ahead[0]
        barrier_lsn = self._log.barrier_lsn
        if barrier_lsn is not None and lsn >= barrier_lsn:
            self._ahead.clear()  # read before its segment lost its records
            return False
        if isinstance(entry, Gone) and not self._is_declared(lsn, entry):
            return False
        if lsn + self._settings.send_mark_block_lsns // 2 > self.mark_lsn:
            self._want_mark()  # before it is needed, so that a drain does not wait for the disk
            if lsn > self.mark_lsn:
                return False
        self._ahead.popleft()
        if isinstance(entry, Record | Lost | Elsewhere):
            self._take(lsn, entry, connection)
        elif isinstance(entry, Gone):
            self._tell_gone(lsn, entry, connection)
            self._delivery.next_lsn = entry.last_lsn + 1
            return True
        elif isinstance(entry, Session):
            self._on_new_stream()
        self._delivery.next_lsn = lsn + 1
        return True

    def _is_declared(self, lsn: int, gone: Gone) -> bool:
        """Whether all that is gone is accounted for; if not, what is missing is appended first."""
        account = self._log.account
        if lsn <= self._declared_lsn < self._log.next_lsn and undeclared(gone, account.streams):
            return False  # appended, and not durable yet
        entries = declarations(
            gone,
            lsn,
            account.streams,
            sent_through_lsn=self._delivery.may_have_been_sent,
            at_ms=self._clock_ms(),
        )
        if entries:
            self._declared_lsn = lsn
            for entry in entries:
                self._append(entry)
        return not entries

    def _tell_gone(self, lsn: int, gone: Gone, connection: BrokerConnection) -> None:
        delivery = self._delivery
        redelivery = lsn <= delivery.resend_through
        pieces = pieces_of(
            gone, self._log.account.streams, delivery.delivered_through, self._clock_ms()
        )
        for piece in pieces:
            message = self._message(piece, redelivery)
            self._send(delivery.send(lsn, piece), message, connection, redelivery)

    def _take(self, lsn: int, entry: Sendable, connection: BrokerConnection) -> None:
        delivery = self._delivery
        if self._speaks_again(entry):
            self._send_out_of_turn(lsn, entry, connection)
            return
        if delivery.is_delivered(entry):
            return
        redelivery = lsn <= delivery.resend_through or _is_forgotten(entry)
        if redelivery and last_seq(entry) <= self._receipts.heard.get(entry.stream, 0):
            delivery.pass_over(lsn, entry)
            return
        if isinstance(entry, Record) and (entry.stream, entry.seq) in self._aside:
            self._hold_back(delivery.send_nothing(lsn, entry), entry)
            return
        try:
            message = self._message(entry, redelivery)
        except CannotEncode as error:
            self._quarantine(delivery.send_nothing(lsn, entry), f"cannot be published: {error}")
            return
        self._send(delivery.send(lsn, entry), message, connection, redelivery)

    def _speaks_again(self, entry: Sendable) -> bool:
        """Whether an entry says something new of numbers that were passed in the log."""
        if isinstance(entry, Record):
            requeued = self._log.account.streams[entry.stream].requeued
            return bool(requeued) and self._is_requeued(entry)
        if not isinstance(entry, Lost) or not self._delivery.is_passed(entry):
            return False
        if entry.by_gateway:
            return entry.reason in GIVEN_UP_REASONS
        unreadable = self._log.account.streams[entry.stream].unreadable
        return bool(unreadable and unreadable.within(entry.first, entry.last))

    def _is_requeued(self, entry: Record) -> bool:
        """Whether a record is out of quarantine, and the log does not say yet that it arrived."""
        requeued = self._log.account.streams[entry.stream].requeued
        key = (entry.stream, entry.seq)
        return requeued.contains(entry.seq) and key not in self._delivering

    def _send_out_of_turn(self, lsn: int, entry: Sendable, connection: BrokerConnection) -> None:
        """Flagged as a redelivery: the number was spoken of before."""
        try:
            message = self._message(entry, redelivery=True)
        except CannotEncode as error:
            self._quarantine(
                self._delivery.send_nothing(lsn, entry), f"cannot be published: {error}"
            )
            return
        flight = self._delivery.send(lsn, entry)
        flight.out_of_turn = flight.held_back = True
        self._send(flight, message, connection, redelivery=True)

    def _message(self, entry: Sendable, redelivery: bool) -> OutgoingMessage:
        stream = self._log.account.streams[entry.stream]
        if isinstance(entry, Record):
            if stream.quarantined.contains(entry.seq):
                return self._maker.of_quarantined(stream.device, entry, redelivery=redelivery)
            given_up = stream.lost.get(entry.seq) if stream.lost else None
            if given_up is not None:  # durable as LOST since, so that is what it is
                reason, at_most = given_up
                lost = Lost(
                    entry.stream, entry.seq, entry.seq, reason, at_most, True,
                    entry.rx_ms, entry.outage,
                )  # fmt: skip
                return self._maker.of_lost(stream.device, lost, redelivery=redelivery)
            return self._maker.of_record(stream.device, entry, redelivery=redelivery)
        if isinstance(entry, Lost):
            return self._maker.of_lost(stream.device, entry, redelivery=redelivery)
        if isinstance(entry, SetAside):
            return self._maker.of_set_aside(stream.device, entry, redelivery=redelivery)
        return self._maker.of_elsewhere(stream.device, entry, redelivery=redelivery)

    def _announce(self, flight: Flight, connection: BrokerConnection) -> None:
        if flight.delivered or not isinstance(flight.entry, Record):
            return
        flight.held_back = False
        redelivery = flight.lsn <= self._delivery.resend_through
        device = self._log.account.streams[flight.entry.stream].device
        message = self._maker.of_quarantined(device, flight.entry, redelivery=redelivery)
        self._send(flight, message, connection, redelivery)

    def _send(
        self,
        flight: Flight,
        message: OutgoingMessage,
        connection: BrokerConnection,
        redelivery: bool,
    ) -> None:
        self._metrics.published += 1
        if redelivery:
            self._metrics.redelivered += 1
            self._log.account.streams[flight.entry.stream].live.redelivered += 1
        self.unacknowledged += 1
        connection.publish(message, partial(self._acknowledged, flight))

    # Acknowledgements

    def _acknowledged(self, flight: Flight, result: PublishResult) -> None:
        self.unacknowledged -= 1
        try:
            self._settle(flight, result)
        except Exception as error:
            self._fail(error)
        self.wake()

    def _settle(self, flight: Flight, result: PublishResult) -> None:
        outcome = result.outcome
        if outcome is PublishOutcome.REFUSED_FOR_GOOD:
            self._refused_for_good(flight, result.reason)
        elif outcome is PublishOutcome.REFUSED_FOR_NOW:
            self._refused_for_now(result.reason)
        else:
            self._metrics.acknowledged += 1
            if outcome is PublishOutcome.NO_SUBSCRIBERS:
                self._no_subscribers()
            if flight.out_of_turn:
                self._delivered_out_of_turn(flight)
            elif not self._by_receipt:
                self._delivery.deliver(flight)

    def _delivered_out_of_turn(self, flight: Flight) -> None:
        """Delivered before free: of a record out of quarantine the log has to say so first."""
        entry = flight.entry
        if not isinstance(entry, Record) or not self._is_requeued(entry):
            self._delivery.deliver(flight)
            return
        lsn = self._append(Delivered(entry.stream, entry.seq, entry.seq, self._clock_ms()))
        self._delivering[entry.stream, entry.seq] = lsn
        self._confirming.append((lsn, flight))

    def _acknowledged_other(self, result: PublishResult) -> None:
        self.unacknowledged -= 1
        if result.outcome is PublishOutcome.REFUSED_FOR_GOOD:
            self._metrics.announcements_refused += 1
            _log.error("the broker refuses the gateway's status: %s", result.reason)
        elif result.outcome is PublishOutcome.REFUSED_FOR_NOW:
            self._refused_for_now(result.reason)
        self.wake()

    def _no_subscribers(self) -> None:
        self._metrics.no_subscribers += 1
        if not self._warned_no_subscribers:
            self._warned_no_subscribers = True
            _log.warning("the broker takes the records, and nobody has subscribed to them")

    def _refused_for_now(self, reason: str) -> None:
        """Stop at once: whatever is sent now would overtake what was refused."""
        self._metrics.refused_for_now += 1
        self.refusal = f"the broker refuses messages for now: {reason}"
        self._connection = None
        self.stopped.set()

    def _refused_for_good(self, flight: Flight, reason: str) -> None:
        entry = flight.entry
        if isinstance(entry, Record) and not self._is_quarantined(entry):
            self._metrics.refused_for_good += 1
            self._quarantine(flight, reason)
            return
        # The log has it declared already; refused as well, it can only be said here.
        self._metrics.announcements_refused += 1
        _log.error(
            "the broker refuses the announcement of seq %d of stream %s for good: %s",
            flight.last, entry.stream.hex(), reason,
        )  # fmt: skip
        self._delivery.deliver(flight)

    def _is_quarantined(self, entry: Record) -> bool:
        return self._log.account.streams[entry.stream].quarantined.contains(entry.seq)

    def _quarantine(self, flight: Flight, reason: str) -> None:
        """Keep it aside: the entry first, and once that is durable, the announcement."""
        entry = flight.entry
        if not isinstance(entry, Record):
            raise TypeError(f"only a record can be quarantined, not {entry!r}")
        _log.warning(
            "seq %d of stream %s is quarantined: %s", entry.seq, entry.stream.hex(), reason
        )
        lsn = self._append(Quarantined(entry.stream, entry.seq, self._clock_ms(), reason))
        self._aside[entry.stream, entry.seq] = lsn
        self._hold_back(flight, entry)

    def _hold_back(self, flight: Flight, entry: Record) -> None:
        """The flight waits for its Quarantined entry to be durable."""
        flight.held_back = True
        self._quarantining.append((self._aside[entry.stream, entry.seq], flight))
