"""The publisher: offline, draining, live.

Each mode is a coroutine that returns the next one; `run` runs them until there is none. Offline
asks for the broker with back-off. Draining delivers the backlog of an outage; live is all else.
Both end when the connection does, or when the broker refuses messages for now: what was not
delivered is then sent again from the first of it on, so a stream's order never depends on luck.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from gapless_gateway.back_off import BackOff
from gapless_gateway.brokers.base import (
    BrokerConnection,
    BrokerError,
    BrokerUnreachable,
)
from gapless_gateway.brokers.connect import connect
from gapless_gateway.brokers.settings import BrokerSettings, TlsSettings
from gapless_gateway.config import Config
from gapless_gateway.errors import ConfigurationError
from gapless_gateway.publisher.bookkeeping import Bookkeeping
from gapless_gateway.publisher.delivery import Delivery, Flight
from gapless_gateway.publisher.message import MessageMaker, moment
from gapless_gateway.publisher.metrics import PublisherMetrics
from gapless_gateway.publisher.outages import Outages
from gapless_gateway.publisher.parts import LogView
from gapless_gateway.publisher.receipt_mode import ReceiptMode
from gapless_gateway.publisher.receipts import Receipts, topic_filter
from gapless_gateway.publisher.sending import Sending
from gapless_gateway.publisher.settings import PublisherSettings
from gapless_gateway.publisher.status import StatusMaker
from gapless_gateway.wal.entries import Entry, Record

_log = logging.getLogger("gapless.publisher")

Mode = Callable[[], Awaitable["Mode | None"]]


def utc_ms() -> int:
    """The clock of the entries."""
    return time.time_ns() // 1_000_000


class Publisher:
    """Delivers the log to the broker; `build` makes one from a configuration."""

    def __init__(
        self,
        log: LogView,
        append: Callable[[Entry], int],
        broker: BrokerSettings,
        settings: PublisherSettings,
        metrics: PublisherMetrics,
        *,
        run: int,
        clock_ms: Callable[[], int] = utc_ms,
        rng: random.Random | None = None,
    ) -> None:
        """Take over where the cursor is. `append` appends to the log and wakes the committer.

        `run`: the number of this run of the gateway. Build it once the log is open and before
        anything is appended that is not of the gateway itself.
        """
        self.outages = Outages(append, last_id=log.account.outages_total, open_id=_open_outage(log))
        self._log = log
        self._broker = broker
        self._settings = settings
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._by_receipt = settings.delivered_when == "receipt"
        self._back_off = BackOff(settings.retry_first_s, settings.retry_cap_s, rng)
        receipts = Receipts()
        self._status = StatusMaker(settings.gateway, run, log.log_id, settings.delivered_when)
        self._online_since_ms = 0
        self._connected_at = 0.0
        self._announced_streams = 0
        self._connection: BrokerConnection | None = None
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()
        self._drained = asyncio.Event()
        self._idle = asyncio.Event()  # set whenever nothing is in flight
        cursor = log.cursor
        self._delivery = Delivery(
            resume_lsn=cursor.resume_lsn,
            send_mark_lsn=cursor.send_mark_lsn,
            durable_lsn=log.durable_lsn,
            delivered_through=cursor.delivered_through,
            on_delivered=self._delivered,
            on_moved=log.account.delivered,
        )
        for stream, through in cursor.delivered_through.items():
            if stream in log.account.streams:
                log.account.delivered(stream, through)
        self._sending = Sending(
            log=log,
            delivery=self._delivery,
            maker=MessageMaker(settings.gateway, run, settings.encoding),
            receipts=receipts,
            settings=settings,
            metrics=metrics,
            append=append,
            clock_ms=clock_ms,
            on_new_stream=self._announce_streams,
            on_turn=self._turned,
            want_mark=self._want_mark,
        )
        self._receipt_mode = ReceiptMode(
            log=log,
            delivery=self._delivery,
            sending=self._sending,
            receipts=receipts,
            settings=settings,
            metrics=metrics,
        )
        self._books = Bookkeeping(
            log=log,
            delivery=self._delivery,
            settings=settings,
            metrics=metrics,
            run=run,
            append=append,
            clock_ms=clock_ms,
            on_mark=self._mark_stored,
            on_period=self._period_is_over,
        )
        metrics.pending = self._books.pending()
        metrics.outage_id = self.outages.open_id
        metrics.consumer = "no_consumer" if self._by_receipt else "not_used"

    async def run(self) -> None:
        """Deliver until `stop`. Raises what the log raises (WalFailed, WalDamaged), and bugs."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._books.run(), name="publisher-bookkeeping")
                await self._run_modes()
                self._books.end()
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None  # the first is the cause of the others
        await self._books.finish()
        self._enter("stopped")

    async def _run_modes(self) -> None:
        try:
            mode: Mode | None = self._offline
            while mode is not None:
                mode = await mode()
            await self._leave_in_order()
        finally:
            await self._stack.aclose()

    def stop(self) -> None:
        """Ask `run` to end: last acknowledgements, status, cursor."""
        self._stopping.set()

    def notify_durable(self, lsn: int) -> None:
        """Entries up to `lsn` are durable, and folded into the account."""
        self._sending.notify_durable(lsn)

    # The modes

    async def _offline(self) -> Mode | None:
        self._enter("offline")
        while not self._stopping.is_set():
            try:
                await self._or_stopping(self._connect())
            except (BrokerError, ConfigurationError) as error:
                self._not_there(error)
                cap_s = (
                    self._settings.retry_cap_s
                    if isinstance(error, BrokerUnreachable)
                    else self._settings.refused_retry_cap_s
                )
                await self._or_stopping(asyncio.sleep(self._back_off.next_delay_s(cap_s)))
            if self._connection is not None:
                return self._draining if self.outages.open_id else self._live
        return None

    async def _draining(self) -> Mode | None:
        self._enter("draining")
        return await self._while_connected(self._drained, self._live)

    async def _live(self) -> Mode | None:
        self._enter("live")
        return await self._while_connected(asyncio.Event(), self._live)

    async def _while_connected(self, until: asyncio.Event, then: Mode) -> Mode | None:
        """Stay in a mode: the next one is `then`, offline, or none when the gateway stops."""
        connection = self._connection
        if connection is None:
            raise RuntimeError("this mode needs a connection")
        closed = asyncio.create_task(connection.wait_closed(), name="publisher-wait-closed")
        waits = [
            closed,
            *(
                asyncio.create_task(event.wait(), name=f"publisher-wait-{name}")
                for name, event in (
                    ("sending", self._sending.stopped),
                    ("stop", self._stopping),
                    ("drained", until),
                )
            ),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._sending.failure is not None:
            raise self._sending.failure
        if closed.done() and not closed.cancelled():
            over = closed.result()
            return await self._lost(over.reason, slowly=over.intruder)
        if self._sending.stopped.is_set():
            return await self._lost(self._sending.refusal, slowly=True)
        return None if self._stopping.is_set() else then

    async def _lost(self, cause: str, *, slowly: bool) -> Mode:
        """The connection is over or of no use: the outage begins, and all goes back."""
        _log.warning("the broker %s is lost: %s", self._broker.address, cause)
        self._metrics.last_error = cause
        self._enter("offline")
        self._connection = None
        self._sending.pause()
        self.outages.lost(cause, self._clock_ms(), self._books.pending())
        self._metrics.outage_id = self.outages.open_id
        await self._stack.aclose()  # until then acknowledgements may still come
        self._sending.end()
        # One that is cut right away (by another client with our id, say) does not count as back.
        if time.monotonic() - self._connected_at >= self._settings.connection_of_use_s:
            self._back_off.reset()
        cap_s = self._settings.refused_retry_cap_s if slowly else self._settings.retry_cap_s
        await self._or_stopping(asyncio.sleep(self._back_off.next_delay_s(cap_s)))
        return self._offline

    # Connecting

    async def _connect(self) -> None:
        will = self._status.will(self._log.account.streams.values())
        connection = await self._stack.enter_async_context(connect(self._broker, will))
        try:
            if self._by_receipt:
                self._receipt_mode.begin_session()
                await connection.subscribe(
                    topic_filter(self._settings.gateway), self._receipt_mode.heard
                )
        except BaseException:
            await self._stack.aclose()
            raise
        self._begin(connection)

    def _begin(self, connection: BrokerConnection) -> None:
        self._connection = connection
        self._metrics.connects += 1
        self._metrics.last_error = ""
        _log.info("connected to the broker %s", self._broker.address)
        self._drained.clear()
        self._online_since_ms = self._clock_ms()
        self._connected_at = time.monotonic()
        # What was appended until now is the backlog, durable or about to be.
        self.outages.reconnected(self._log.next_lsn - 1)
        self._sending.begin(connection)
        self._announced_streams = 0
        self._announce_streams()

    def _not_there(self, error: Exception) -> None:
        self._metrics.connect_failures += 1
        sentence = str(error)
        level = logging.DEBUG if sentence == self._metrics.last_error else logging.WARNING
        _log.log(level, "%s The gateway keeps its records and tries again.", sentence)
        self._metrics.last_error = sentence
        self.outages.lost(sentence, self._clock_ms(), self._books.pending())
        self._metrics.outage_id = self.outages.open_id

    def _announce_streams(self) -> None:
        """The retained status, again whenever there is a stream that it does not name."""
        streams = self._log.account.streams
        if self._connection is None or self._announced_streams == len(streams) != 0:
            return
        self._announced_streams = len(streams)
        status = self._status.online(self._online_since_ms, streams.values())
        self._sending.publish(status, self._connection)

    # What happens meanwhile

    def _turned(self) -> None:
        """After every turn of sending: counters, and whether the outage is over."""
        metrics, sending = self._metrics, self._sending
        metrics.in_flight, metrics.undelivered = sending.unacknowledged, self._delivery.flights
        if sending.unacknowledged == 0:
            self._idle.set()
        else:
            self._idle.clear()
        if self._connection is not None and self.outages.is_drained(self._delivery.resume_lsn):
            self.outages.ended(self._clock_ms(), self._books.pending())
            metrics.outage_id = 0
            self._drained.set()
            _log.info("the backlog is delivered")

    def _delivered(self, flight: Flight) -> None:
        if isinstance(flight.entry, Record):
            taken_ms = moment(flight.entry)[0]
            if taken_ms is not None:
                self._metrics.observe_delivered(self._clock_ms() - taken_ms)

    def _want_mark(self) -> None:
        self._books.want_mark()

    def _mark_stored(self, lsn: int) -> None:
        self._sending.mark_lsn = lsn
        self._sending.wake()

    def _period_is_over(self) -> None:
        if self._by_receipt and self._connection is not None:
            self._receipt_mode.resend_if_stuck()
        self._sending.wake()  # what could not be read a while ago may be readable now

    # The end

    async def _leave_in_order(self) -> None:
        """Take the last acknowledgements, say that we are offline, disconnect."""
        connection = self._connection
        self._sending.pause()
        if connection is None:
            return
        try:
            async with asyncio.timeout(self._settings.stop_timeout_s):
                await self._until_idle(connection)
                status = self._status.offline(self._clock_ms(), self._log.account.streams.values())
                self._sending.publish(status, connection)
                await self._until_idle(connection)
        except TimeoutError:
            _log.warning(
                "the broker did not acknowledge all within %g s; what it did not is sent again "
                "with the next start",
                self._settings.stop_timeout_s,
            )
        self._connection = None

    async def _until_idle(self, connection: BrokerConnection) -> None:
        if self._sending.unacknowledged == 0:
            return
        self._idle.clear()
        waits = [
            asyncio.create_task(self._idle.wait(), name="publisher-wait-idle"),
            asyncio.create_task(connection.wait_closed(), name="publisher-wait-closed"),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _or_stopping(self, what: Awaitable[None]) -> None:
        """Await it, or give it up when the gateway stops."""
        task = asyncio.ensure_future(what)
        stopping = asyncio.create_task(self._stopping.wait(), name="publisher-wait-stop")
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    def _enter(self, state: str) -> None:
        if state == self._metrics.state:
            return
        self._metrics.state = state
        self._metrics.state_since_ms = self._clock_ms()
        _log.info("publisher is %s", state)


def _open_outage(log: LogView) -> int:
    outage = log.account.outage
    return outage.id if outage is not None else 0


def build(
    config: Config, log: LogView, append: Callable[[Entry], int], metrics: PublisherMetrics
) -> Publisher:
    """The publisher of a configuration; see `Publisher` for when. Raises ConfigurationError."""
    tls, password = config.broker.tls, config.broker.read_password()
    broker = BrokerSettings(
        host=config.broker.host,
        port=config.broker.port,
        adapter=config.broker.adapter,
        protocol=config.broker.protocol,
        client_id=config.client_id,
        username=config.broker.username,
        password=password.encode() if password is not None else None,
        keep_alive_s=config.broker.keep_alive_s,
        tls=TlsSettings(tls.ca_file, tls.cert_file, tls.key_file) if tls.enabled else None,
    )
    settings = PublisherSettings(
        gateway=config.gateway.name,
        delivered_when=config.delivery.delivered_when,
        encoding=config.delivery.encoding,
        window=config.broker.window,
        receipt_window=config.delivery.receipt_window,
        receipt_timeout_s=config.delivery.receipt_timeout_s,
    )
    return Publisher(log, append, broker, settings, metrics, run=log.account.run)
