"""One port's session: what a board says becomes log entries; what is durable becomes an ACK.

    port -> Receiver (gapless_link) -> events -> LinkedStream -> Committer -> disk
                 ^                                                   |
                 +---------- acknowledge(durable, credit) <----------+

A HELLO is answered, and a START is settled, only when everything appended before is in the
account, since both are answered from the account. Nothing is registered before the START.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from gapless_gateway.account import identity
from gapless_gateway.account.settling import settle
from gapless_gateway.ingest import Ingest
from gapless_gateway.linked import LinkedStream
from gapless_gateway.rates import SparseLog
from gapless_gateway.wal.entries import Fault
from gapless_link import gateway_messages
from gapless_link.receiver import (
    GREETED,
    IDLE,
    ClockSample,
    Ended,
    FrameFault,
    HelloReceived,
    LostReceived,
    Receiver,
    RecordRepeated,
    RecordsReceived,
    Started,
)

STREAM_ID_BYTES = 4
REJECT_NAMES = {
    gateway_messages.REJECT_VERSION: "version",
    gateway_messages.REJECT_IDENTITY: "identity",
    gateway_messages.REJECT_DEVICE_ID: "device_id",
    gateway_messages.REJECT_STREAM_CLOSED: "stream_closed",
    gateway_messages.REJECT_NOT_REGISTERED: "not_registered",
    gateway_messages.REJECT_KEY_UNKNOWN: "key_unknown",
    gateway_messages.REJECT_INGEST_STOPPED: "ingest_stopped",
    gateway_messages.REJECT_MALFORMED: "malformed",
}

log = logging.getLogger("gapless.session")


def _width_ms(sample: ClockSample) -> int:
    width_ms: int = sample.received_ms - sample.sent_ms
    return width_ms


class _Starting:
    """A START that waits until the account is current."""

    __slots__ = ("early_sample", "hello", "stream")

    def __init__(self, hello: Any, stream: bytes) -> None:
        self.hello = hello
        self.stream = stream  # what the WELCOME said
        self.early_sample: ClockSample | None = None  # came with the START


class PortSession:
    """The owner of one port's Receiver. All methods are for the event loop's thread."""

    def __init__(self, port: str, ingest: Ingest) -> None:
        self.port = port
        self.linked: LinkedStream | None = None  # while a session runs
        self._ingest = ingest
        self._write: Callable[[bytes], None] | None = None  # None: the port is closed
        self._receiver = Receiver(ingest.random_bytes)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0  # when it is due
        self._greeting: Any = None  # the hello that waits for our WELCOME
        self._starting: _Starting | None = None  # the START that waits for us to begin
        self._offered_stream = b""  # what the last WELCOME said
        self._rx_ms = 0  # UTC, of the bytes that are being handled
        self._sparse = SparseLog(log)
        self._handlers: dict[type, Callable[[Any], None]] = {
            HelloReceived: self._on_hello,
            Started: self._on_started,
            LostReceived: self._on_lost,
            RecordRepeated: self._on_repeat,
            FrameFault: self._on_fault,
            Ended: self._on_ended,
        }

    @property
    def counters(self) -> dict[str, int]:
        """The totals of the link on this port, since the gateway runs."""
        counters: dict[str, int] = self._receiver.counters
        return counters

    @property
    def is_open(self) -> bool:
        """Whether the port is open."""
        return self._write is not None

    # -- the port's side (ports.PortUser)

    def port_opened(self, write: Callable[[bytes], None]) -> None:
        """Wait for a HELLO; what was said before the port was closed is void."""
        self._write = write
        self._pump()

    def port_received(self, data: bytes) -> None:
        """Take bytes in."""
        self._rx_ms = self._ingest.clock.utc_ms()
        self._receiver.receive(data, self._ingest.clock.monotonic_ms())
        self._pump()

    def port_closed(self, reason: str) -> None:
        """End the session; the board will greet again."""
        self._greeting = None
        self._receiver.close()
        self._pump()
        self._write = None
        self._cancel_timer()
        log.info("port closed", extra={"port": self.port, "reason": reason})

    # -- the committer's side

    def on_durable(self) -> None:
        """Acknowledge what is durable now.

        Durable before ack: the committer calls this after fdatasync and after the account took the
        batch in; `durable` of a stream's account moves there and nowhere else.
        """
        durable = self.linked.durable_to_ack() if self.linked is not None else None
        if durable is not None:
            self._receiver.acknowledge(durable, durable + self._ingest.credit_window())
            self._pump()

    def on_credit_changed(self) -> None:
        """Tell the board how much it may send now, though nothing more is durable."""
        if self.linked is not None:
            durable = self.linked.acked
            self._receiver.acknowledge(durable, durable + self._ingest.credit_window())
            self._pump()

    def on_ingest_stopped(self, words: str) -> None:
        """The log has failed: tell the board, so that it keeps what it has."""
        if self._receiver.offer_state == GREETED:
            self._greeting = None
            self._reject(gateway_messages.REJECT_INGEST_STOPPED, words)
        if self._receiver.session_state != IDLE:
            self._reject(gateway_messages.REJECT_INGEST_STOPPED, words)
        self._pump()

    def moved_to(self, port: str) -> None:
        """End the running session: its board has started one on another port."""
        log.warning(
            "the board has moved to another port", extra={"port": self.port, "new_port": port}
        )
        self._ingest.metrics.sessions_moved.labels(self.port).inc()
        self._receiver.close()
        self._pump()

    # -- the machine

    def _pump(self) -> None:
        """Handle what the receiver has to say, send what it has to send, set its timer."""
        self._handle_events()
        now_ms = self._ingest.clock.monotonic_ms()
        data = self._receiver.data_to_send(now_ms)
        if data and self._write is not None:
            self._write(data)
        self._handle_events()  # its timers have run meanwhile
        self._set_timer(self._receiver.next_deadline_ms(now_ms), now_ms)

    def _handle_events(self) -> None:
        """Handle what the receiver has to say; what the frames of one read say alike, at once.

        Records follow one another, so they are taken together. Of the samples of the board's
        clock, which every frame brings, the narrowest is learnt from: the others say the same of
        the same moment, less exactly. Anything else has to find all that before it handled.
        """
        records: RecordsReceived | None = None
        sample: ClockSample | None = None
        while True:
            event = self._receiver.next_event()
            kind = type(event)
            if kind is RecordsReceived:
                if records is None:
                    records = event
                else:
                    records.records += event.records
            elif kind is ClockSample:
                if sample is None or _width_ms(event) < _width_ms(sample):
                    sample = event
            else:
                if sample is not None:
                    self._on_clock(sample)
                if records is not None:
                    self._on_records(records)
                if event is None:
                    return
                records = sample = None
                self._handlers[kind](event)

    def _set_timer(self, deadline_ms: int | None, now_ms: int) -> None:
        """See to it that the machine is pumped at the deadline, or before.

        Each read puts the deadline off; a timer that is too early by then sets the next one.
        """
        if deadline_ms is None or self._write is None:
            self._cancel_timer()
        elif self._timer is None or deadline_ms < self._timer_ms:
            self._cancel_timer()
            self._timer_ms = deadline_ms
            delay_s = max(0, deadline_ms - now_ms) / 1000
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- greeting

    def _on_hello(self, event: HelloReceived) -> None:
        self._ingest.metrics.hellos.labels(self.port).inc()
        hello = self._greeting = event.hello
        self._ingest.when_account_is_current(lambda: self._answer_hello(hello))

    def _on_started(self, event: Started) -> None:
        # Whatever session this board had, here or on another port, takes in nothing from here on.
        self._forget_session()
        starting = self._starting = _Starting(event.hello, self._offered_stream)
        self._ingest.links.take_over(event.hello.device_id, self)
        self._ingest.when_account_is_current(lambda: self._begin(starting))

    def _answer_hello(self, hello: Any) -> None:
        if self._greeting is not hello:
            return  # superseded, or the port is closed
        self._greeting = None
        if not self._refused(hello):
            self._offered_stream = self._stream_of(hello)
            account = self._ingest.account
            known = account.streams.get(self._offered_stream)
            settlement = settle(hello, known, account.log_id)
            self._receiver.welcome(
                account.log_id,
                self._offered_stream,
                settlement.stored,
                settlement.durable + self._ingest.credit_window(),
            )
        self._pump()

    def _stream_of(self, hello: Any) -> bytes:
        """Return the board's stream, or mint one for a board that has none."""
        if hello.stream is not None:
            return bytes(hello.stream)
        while True:
            stream = self._ingest.random_bytes(STREAM_ID_BYTES)
            if any(stream) and stream not in self._ingest.account.streams:
                return stream

    def _refused(self, hello: Any) -> bool:
        """Answer a HELLO or START that cannot be accepted; returns whether it was one."""
        if self._ingest.committer.failed is not None:
            self._reject(gateway_messages.REJECT_INGEST_STOPPED, self._ingest.committer.failed)
            return True
        fault = identity.check(hello, self._ingest.account)
        if fault is None:
            return False
        self._ingest.metrics.identity_faults.labels(self.port, fault.what).inc()
        # A board that is refused greets again and again: neither log is to grow with it.
        if self._sparse.warning(
            "board refused", port=self.port, device=hello.device_id, why=fault.words
        ):
            self._append_fault(hello, fault)
        self._reject(fault.code, fault.words)
        return True

    def _append_fault(self, hello: Any, fault: identity.IdentityFault) -> None:
        self._ingest.committer.append(
            Fault(
                at_ms=self._ingest.clock.utc_ms(),
                port=self.port,
                what=fault.what,
                device=hello.device_id,
                uid=bytes(hello.uid),
                words=fault.words,
            )
        )

    def _reject(self, code: int, words: str) -> None:
        self._ingest.metrics.rejects.labels(self.port, REJECT_NAMES[code]).inc()
        self._receiver.reject(code, words)

    def _begin(self, starting: _Starting) -> None:
        """Settle and register: the START has come, and the account is current."""
        if self._starting is not starting:
            return  # ended meanwhile
        if not self._refused(starting.hello):
            self._start_session(starting)
        self._pump()

    def _start_session(self, starting: _Starting) -> None:
        hello = starting.hello
        linked = self.linked = LinkedStream(self.port, hello, starting.stream, self._ingest)
        settlement = linked.open()
        credit = settlement.durable + self._ingest.credit_window()
        self._receiver.begin(settlement.expected, list(settlement.skipped))
        self._receiver.acknowledge(settlement.stored, credit)
        if starting.early_sample is not None:
            linked.take_clock(starting.early_sample)
        self._starting = None
        self._ingest.metrics.sessions_started.labels(self.port).inc()
        log.info(
            "session started",
            extra={
                "port": self.port,
                "device": linked.device,
                "stream": linked.stream.hex(),
                "boot": hello.boot,
                "next_seq": hello.next,
                "durable": settlement.durable,
                "gaps": len(settlement.gaps),
            },
        )

    # -- the session

    def _on_records(self, event: RecordsReceived) -> None:
        self._running().take_records(event, self._rx_ms)

    def _on_lost(self, event: LostReceived) -> None:
        self._running().take_lost(event, self._rx_ms)

    def _on_repeat(self, event: RecordRepeated) -> None:
        self._running().take_repeat(event.seq, event.data, self._rx_ms)

    def _on_clock(self, event: ClockSample) -> None:
        if self.linked is not None:
            self.linked.take_clock(event)
        elif self._starting is not None:
            self._starting.early_sample = event

    def _on_fault(self, event: FrameFault) -> None:
        self._ingest.metrics.frame_faults.labels(self.port, event.code).inc()
        self._sparse.info(f"frame refused: {event.code}", port=self.port, detail=event.detail)

    def _on_ended(self, event: Ended) -> None:
        self._ingest.metrics.sessions_ended.labels(self.port, event.why).inc()
        self._forget_session()

    def _running(self) -> LinkedStream:
        assert self.linked is not None, "records come between begin() and Ended only"
        return self.linked

    def _forget_session(self) -> None:
        for device in (
            self.linked.device if self.linked is not None else None,
            self._starting.hello.device_id if self._starting is not None else None,
        ):
            if device is not None:
                self._ingest.links.leave(device, self)
        self.linked = self._starting = None
