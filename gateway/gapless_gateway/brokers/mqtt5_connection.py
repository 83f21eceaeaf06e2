"""One MQTT 5 connection: an asyncio Protocol around the codec `mqtt5`.

Theory of operation. The codec turns packets into bytes and back; all else is here. Writes made in
one turn of the event loop leave in one piece (`_flush`), so that a window's worth of messages is
one TLS record or few. What arrives is parsed where it was received; a packet that is not whole yet
stays in `_received` until the rest has come. A PUBACK calls back at once: no Future, no task per
message. Packet ids are given in rising order and are free again after their acknowledgement. The
codec's reason codes are no ints, whatever its stubs say: they equal ints and know no order, hence
the int() around them.

Dead peers: `_watch` runs four times per keep-alive interval. When nothing was sent or nothing was
received for half of it, a PINGREQ leaves; when then nothing at all was received for half of it,
the connection is given up. A broker that is gone without a word is noticed within about one and a
quarter intervals, whether we were sending or not.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import mqtt5

from gapless_gateway.brokers.base import (
    RECEIVE_MAXIMUM_DEFAULT,
    BrokerRefused,
    BrokerUnreachable,
    Closed,
    IncomingMessage,
    OutgoingMessage,
    PublishOutcome,
    PublishResult,
)
from gapless_gateway.brokers.reasons import (
    FAILURE_MIN,
    PACKET_TOO_LARGE,
    SESSION_TAKEN_OVER,
    publish_result,
    words,
)
from gapless_gateway.brokers.topics import topic_fault

_log = logging.getLogger("gapless.broker")

PACKET_ID_MAX = 65535
RECEIVED_BYTES_MAX = 1 << 20  # a packet that is longer is not for us
SUBSCRIBE_TIMEOUT_S = 10.0

_QOS_1 = mqtt5.QoS.AT_LEAST_ONCE
_PINGREQ = mqtt5.PingReqPacket().write()

OnAck = Callable[[PublishResult], None]


class Mqtt5Connection(asyncio.Protocol):
    """See the module. Made by `mqtt5_adapter.connect_mqtt5`; keeps base.BrokerConnection."""

    def __init__(self, keep_alive_s: int) -> None:
        """`keep_alive_s`: what we offer; the broker's own value replaces it. 0: no pings."""
        self.receive_maximum = RECEIVE_MAXIMUM_DEFAULT
        self.maximum_packet_size: int | None = None
        self.lost_with: Exception | None = None  # what the transport ended with
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._keep_alive_s = float(keep_alive_s)
        self._received = b""
        self._to_write: list[bytes] = []
        self._acks: dict[int, OnAck] = {}
        self._waiting: deque[tuple[OutgoingMessage, OnAck]] = deque()
        self._last_packet_id = 0
        self._subscribing: dict[int, asyncio.Future[mqtt5.SubAckPacket]] = {}
        self._on_message: Callable[[IncomingMessage], None] | None = None
        self._connack: asyncio.Future[mqtt5.ConnAckPacket | None] = self._loop.create_future()
        self._closed: asyncio.Future[Closed] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()  # the transport's end
        self._watch_timer: asyncio.TimerHandle | None = None
        self._received_at = self._sent_at = self._loop.time()
        self._ping_at: float | None = None  # the unanswered PINGREQ

    # The contract of base.BrokerConnection

    def publish(self, message: OutgoingMessage, on_ack: OnAck) -> None:
        """See base.BrokerConnection."""
        fault = topic_fault(message.topic)
        if fault is not None:
            self._refuse(on_ack, fault)
        elif self._waiting or len(self._acks) >= self.receive_maximum:
            self._waiting.append((message, on_ack))
        else:
            self._send(message, on_ack)

    async def subscribe(
        self, topic_filter: str, on_message: Callable[[IncomingMessage], None]
    ) -> None:
        """See base.BrokerConnection."""
        self._on_message = on_message
        packet_id = self._next_packet_id()
        granted: asyncio.Future[mqtt5.SubAckPacket] = self._loop.create_future()
        self._subscribing[packet_id] = granted
        wish = mqtt5.TopicFilter(topic_filter, max_qos=_QOS_1)
        self._write(mqtt5.SubscribePacket(packet_id, [wish]).write())
        try:
            ends: set[asyncio.Future[Any]] = {granted, self._closed}
            await asyncio.wait(
                ends, timeout=SUBSCRIBE_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            self._subscribing.pop(packet_id, None)
        if not granted.done():
            raise BrokerUnreachable(
                f"The broker did not answer the subscription to {topic_filter}; "
                "the connection is made anew."
            )
        answer = granted.result()
        code = int(answer.reason_codes[0])
        if code >= FAILURE_MIN:
            raise BrokerRefused(
                f"The broker refused the subscription to {topic_filter}: "
                f"{words(code, answer.reason_str)}; allow this user to subscribe to it."
            )

    async def wait_closed(self) -> Closed:
        """See base.BrokerConnection."""
        return await asyncio.shield(self._closed)

    # For mqtt5_adapter

    @property
    def closed_reason(self) -> str:
        """Why it is over; empty while it is open."""
        return self._closed.result().reason if self._closed.done() else ""

    async def handshake(self, packet: mqtt5.ConnectPacket) -> mqtt5.ConnAckPacket | None:
        """Send CONNECT; the CONNACK, or None when the connection ended before one came."""
        self._write(packet.write())
        answer = await self._connack
        if answer is not None and int(answer.reason_code) < FAILURE_MIN:
            self.receive_maximum = answer.receive_max
            self.maximum_packet_size = answer.max_packet_size
            if answer.server_keep_alive:
                self._keep_alive_s = float(answer.server_keep_alive)
            self._watch()
        return answer

    async def close(self, timeout_s: float) -> None:
        """Send DISCONNECT and close; cut the connection when that takes too long."""
        if not self._closed.done() and self._transport is not None:
            self._write(mqtt5.DisconnectPacket().write())
            self._flush()
            self._over(Closed("closed by us"))
            self._transport.close()
        await asyncio.wait({self._gone}, timeout=timeout_s)
        self.abort("closed by us")

    def abort(self, reason: str) -> None:
        """Cut the connection without a DISCONNECT: the broker publishes the last will."""
        self._over(Closed(reason))
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake of TLS is done."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone, by whatever cause."""
        self.lost_with = exc
        self._over(Closed(f"the connection broke ({exc})" if exc else "the broker closed it"))
        if not self._gone.done():
            self._gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Parse every whole packet, keep the rest."""
        self._received_at = self._loop.time()
        self._ping_at = None
        buffer = self._received + data if self._received else data
        view = memoryview(buffer)
        position = 0
        try:
            while position < len(buffer) and not self._closed.done():
                try:
                    packet, length = mqtt5.read(view[position:])
                except IndexError:  # the codec's way to say that the packet is not whole yet
                    break
                position += length
                self._handle(packet)
        except ValueError as error:
            self.abort(f"the broker sent what is not MQTT 5 ({error})")
            return
        self._received = buffer[position:]
        if len(self._received) > RECEIVED_BYTES_MAX:
            self.abort(f"the broker sent a packet longer than {RECEIVED_BYTES_MAX} bytes")

    # What arrives

    def _handle(self, packet: mqtt5.Packet) -> None:
        if isinstance(packet, mqtt5.PubAckPacket):
            self._handle_puback(packet)
        elif isinstance(packet, mqtt5.PublishPacket):
            self._handle_publish(packet)
        elif isinstance(packet, mqtt5.SubAckPacket):
            granted = self._subscribing.get(packet.packet_id)
            if granted is not None and not granted.done():
                granted.set_result(packet)
        elif isinstance(packet, mqtt5.DisconnectPacket):
            self._handle_disconnect(packet)
        elif isinstance(packet, mqtt5.ConnAckPacket) and not self._connack.done():
            self._connack.set_result(packet)
        elif not isinstance(packet, mqtt5.PingRespPacket):
            self.abort(f"the broker sent a {type(packet).__name__} that nobody asked for")

    def _handle_puback(self, packet: mqtt5.PubAckPacket) -> None:
        on_ack = self._acks.pop(packet.packet_id, None)
        if on_ack is None:
            self.abort(f"the broker acknowledged packet {packet.packet_id}, which is not in flight")
            return
        if self._waiting:
            self._send(*self._waiting.popleft())
        on_ack(publish_result(int(packet.reason_code), packet.reason_str))

    def _handle_publish(self, packet: mqtt5.PublishPacket) -> None:
        if packet.packet_id is not None:
            self._write(mqtt5.PubAckPacket(packet.packet_id).write())
        if self._on_message is not None:
            self._on_message(IncomingMessage(packet.topic, packet.payload, packet.retain))

    def _handle_disconnect(self, packet: mqtt5.DisconnectPacket) -> None:
        code = int(packet.reason_code)
        reason = f"the broker ended the connection: {words(code, packet.reason_str)}"
        self._over(Closed(reason, intruder=code == SESSION_TAKEN_OVER))
        if self._transport is not None:
            self._transport.close()

    # What leaves

    def _send(self, message: OutgoingMessage, on_ack: OnAck) -> None:
        packet_id = self._next_packet_id()
        try:
            data = mqtt5.PublishPacket(
                message.topic,
                message.payload,
                qos=_QOS_1,
                retain=message.retain,
                packet_id=packet_id,
                user_properties=list(message.properties),
            ).write()
        except ValueError as error:  # a property, say, that MQTT cannot carry
            self._refuse(on_ack, f"it cannot be sent: {error}")
            return
        if self.maximum_packet_size is not None and len(data) > self.maximum_packet_size:
            self._refuse(
                on_ack,
                f"{words(PACKET_TOO_LARGE)}: {len(data)} bytes, "
                f"the broker takes {self.maximum_packet_size}",
            )
            return
        self._acks[packet_id] = on_ack
        self._write(data)

    def _refuse(self, on_ack: OnAck, reason: str) -> None:
        result = PublishResult(PublishOutcome.REFUSED_FOR_GOOD, reason)
        self._loop.call_soon(self._call_back_if_open, on_ack, result)

    def _call_back_if_open(self, on_ack: OnAck, result: PublishResult) -> None:
        if not self._closed.done():
            on_ack(result)

    def _next_packet_id(self) -> int:
        packet_id = self._last_packet_id
        while True:
            packet_id = packet_id % PACKET_ID_MAX + 1
            if packet_id not in self._acks and packet_id not in self._subscribing:
                self._last_packet_id = packet_id
                return packet_id

    def _write(self, data: bytes) -> None:
        if not self._to_write:
            self._loop.call_soon(self._flush)
        self._to_write.append(data)

    def _flush(self) -> None:
        if self._to_write and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._to_write))
            self._sent_at = self._loop.time()
        self._to_write.clear()

    # Its end

    def _watch(self) -> None:
        if self._closed.done() or self._keep_alive_s <= 0:
            return
        now, half_s = self._loop.time(), self._keep_alive_s / 2
        if self._ping_at is not None and now - self._ping_at >= half_s:
            self.abort(f"the broker did not answer a ping for {half_s:g} s")
            return
        if self._ping_at is None and now - min(self._sent_at, self._received_at) >= half_s:
            self._ping_at = now
            self._write(_PINGREQ)
        self._watch_timer = self._loop.call_later(half_s / 2, self._watch)

    def _over(self, closed: Closed) -> None:
        """The connection is over for its users; the first reason stands."""
        if self._closed.done():
            return
        self._closed.set_result(closed)
        if not self._connack.done():
            self._connack.set_result(None)
        if self._watch_timer is not None:
            self._watch_timer.cancel()
        self._acks.clear()
        self._waiting.clear()
