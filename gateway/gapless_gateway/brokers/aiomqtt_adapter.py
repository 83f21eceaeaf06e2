"""The same contract on `aiomqtt` (over paho): for MQTT 3.1.1 brokers, and as a second opinion.

aiomqtt keeps to itself what the contract needs: the CONNACK's properties, the reason code of a
PUBACK, the end of a connection before its CONNACK. `_Client` is aiomqtt's client with these
callbacks heard, and with a publish that calls back instead of one task per message. (That also
keeps aiomqtt from writing a line to the log for each publish beyond ten that are pending; the
threshold is raised all the same, for its own calls.) MQTT 3.1.1 has no reason codes: a broker that
refuses a message there acknowledges it like any other, or cuts the connection.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gapless_gateway.brokers import tls, unreachable
from gapless_gateway.brokers.base import (
    RECEIVE_MAXIMUM_DEFAULT,
    BrokerConnection,
    BrokerError,
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
    SUCCESS,
    connect_refusal,
    publish_result,
    words,
)
from gapless_gateway.brokers.settings import BrokerSettings
from gapless_gateway.brokers.topics import topic_fault

_log = logging.getLogger("gapless.broker.paho")

CLOSE_TIMEOUT_S = 1.0
SUBSCRIBE_TIMEOUT_S = 10.0
PENDING_CALLS_MAX = 65535
# Header, packet id and lengths of a PUBLISH, at most: what is not topic, payload or properties.
PUBLISH_OVERHEAD_BYTES = 16
PROPERTY_OVERHEAD_BYTES = 5

OnAck = Callable[[PublishResult], None]


class _Client(aiomqtt.Client):
    """aiomqtt's client, which also passes on what the broker says."""

    def __init__(self, hostname: str, port: int, **options: Any) -> None:
        super().__init__(hostname, port, **options)
        self.pending_calls_threshold = PENDING_CALLS_MAX
        self.receive_maximum = RECEIVE_MAXIMUM_DEFAULT
        self.maximum_packet_size: int | None = None
        self.disconnect_code = SUCCESS  # of the broker's DISCONNECT
        self.on_incoming: Callable[[IncomingMessage], None] | None = None
        self._abandoned = False
        self._acks: dict[int, OnAck] = {}
        self._waiting: deque[tuple[OutgoingMessage, Properties | None, OnAck]] = deque()

    def publish_with_callback(
        self, message: OutgoingMessage, properties: Properties | None, on_ack: OnAck
    ) -> None:
        """Send with QoS 1; beyond the broker's Receive Maximum it waits here."""
        # paho has such a queue too, but wants its length before it knows the Receive Maximum.
        if self._waiting or len(self._acks) >= self.receive_maximum:
            self._waiting.append((message, properties, on_ack))
        else:
            self._send(message, properties, on_ack)

    def _send(self, message: OutgoingMessage, properties: Properties | None, on_ack: OnAck) -> None:
        info = self._client.publish(message.topic, message.payload, 1, message.retain, properties)
        if info.rc in (paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_QUEUE_SIZE):
            self._acks[info.mid] = on_ack  # no PUBACK is read before this turn of the loop ends

    def over(self) -> asyncio.Future[None]:
        """Done when the connection is."""
        return self._disconnected

    def abandon(self) -> None:
        """Nobody waits for this connection any more: should it come about yet, cut it."""
        self._abandoned = True

    # aiomqtt's callbacks

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        # paho connects in a thread, which a timeout cannot stop. A connection that comes about
        # after all would throw out the next one, which has the same client id.
        if self._abandoned:
            sock.close()
            raise ConnectionAbortedError("the connection was given up")
        super()._on_socket_open(client, userdata, sock)

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        # Only what the broker sent is an attribute of paho's properties.
        self.receive_maximum = getattr(properties, "ReceiveMaximum", RECEIVE_MAXIMUM_DEFAULT)
        self.maximum_packet_size = getattr(properties, "MaximumPacketSize", None)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        self._acks.clear()
        self._waiting.clear()
        if flags.is_disconnect_packet_from_server:
            self.disconnect_code = reason_code.value
        if not self._connected.done():
            self._connected.set_exception(_ClosedEarlyError())
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_publish(
        self,
        client: paho.Client,
        userdata: Any,
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,
    ) -> None:
        on_ack = self._acks.pop(mid, None)
        if on_ack is not None:
            if self._waiting:
                self._send(*self._waiting.popleft())
            on_ack(publish_result(reason_code.value))

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        if self.on_incoming is not None:
            self.on_incoming(IncomingMessage(message.topic, bytes(message.payload), message.retain))


class _ClosedEarlyError(aiomqtt.MqttError):
    """The connection ended before a CONNACK."""


class _Connection:
    """base.BrokerConnection around `_Client`."""

    def __init__(self, client: _Client, *, with_properties: bool) -> None:
        self.receive_maximum = client.receive_maximum
        self.maximum_packet_size = client.maximum_packet_size
        self._client = client
        self._with_properties = with_properties
        self._closed: asyncio.Future[Closed] = asyncio.get_running_loop().create_future()
        client.over().add_done_callback(self._over)

    def publish(self, message: OutgoingMessage, on_ack: OnAck) -> None:
        if self._closed.done():
            return
        fault = topic_fault(message.topic)
        if fault is not None:
            self._refuse(on_ack, fault)
            return
        if self.maximum_packet_size is not None and _size(message) > self.maximum_packet_size:
            self._refuse(
                on_ack,
                f"{words(PACKET_TOO_LARGE)}: about {_size(message)} bytes, "
                f"the broker takes {self.maximum_packet_size}",
            )
            return
        properties = None
        if self._with_properties:
            properties = _properties(PacketTypes.PUBLISH, message)
        try:
            self._client.publish_with_callback(message, properties, on_ack)
        except ValueError as error:  # a payload, say, that MQTT cannot carry
            self._refuse(on_ack, f"it cannot be sent: {error}")

    async def subscribe(
        self, topic_filter: str, on_message: Callable[[IncomingMessage], None]
    ) -> None:
        self._client.on_incoming = on_message
        try:
            codes = await self._client.subscribe(topic_filter, qos=1, timeout=SUBSCRIBE_TIMEOUT_S)
        except aiomqtt.MqttError:
            raise BrokerUnreachable(
                f"The broker did not answer the subscription to {topic_filter}; "
                "the connection is made anew."
            ) from None
        code = codes[0].value if isinstance(codes[0], ReasonCode) else int(codes[0])
        if code >= FAILURE_MIN:
            raise BrokerRefused(
                f"The broker refused the subscription to {topic_filter}: {words(code)}; "
                "allow this user to subscribe to it."
            )

    async def wait_closed(self) -> Closed:
        return await asyncio.shield(self._closed)

    def _refuse(self, on_ack: OnAck, reason: str) -> None:
        def call_back() -> None:
            if not self._closed.done():
                on_ack(PublishResult(PublishOutcome.REFUSED_FOR_GOOD, reason))

        asyncio.get_running_loop().call_soon(call_back)

    def _over(self, over: asyncio.Future[None]) -> None:
        error = None if over.cancelled() else over.exception()
        code = self._client.disconnect_code
        if code != SUCCESS:
            reason = f"the broker ended the connection: {words(code)}"
        else:
            reason = f"the connection broke ({error})" if error else "closed by us"
        if not self._closed.done():
            self._closed.set_result(Closed(reason, intruder=code == SESSION_TAKEN_OVER))


@asynccontextmanager
async def connect_aiomqtt(
    settings: BrokerSettings, context: ssl.SSLContext | None, will: OutgoingMessage | None
) -> AsyncIterator[BrokerConnection]:
    """See `connect.connect`."""
    client = _client(settings, context, will)
    await _enter(client, settings)
    try:
        yield _Connection(client, with_properties=settings.protocol == "5")
    finally:
        client.timeout = CLOSE_TIMEOUT_S
        with suppress(aiomqtt.MqttError):  # it does not answer: then it is over without words
            await client.__aexit__(None, None, None)


async def _enter(client: _Client, settings: BrokerSettings) -> None:
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            await client.__aenter__()
    except TimeoutError:
        client.abandon()
        raise unreachable.no_answer(settings) from None
    except MqttConnectError as error:
        code = error.rc.value if isinstance(error.rc, ReasonCode) else int(error.rc or 0)
        raise connect_refusal(code, settings) from None
    except aiomqtt.MqttError as error:
        raise _why_not(error, settings) from None
    except BaseException:
        client.abandon()
        raise


def _why_not(error: aiomqtt.MqttError, settings: BrokerSettings) -> BrokerError:
    # aiomqtt turns what the system said into text; the exception itself is still behind it.
    cause = error.__context__
    if isinstance(cause, TimeoutError):
        return unreachable.no_answer(settings)
    if isinstance(cause, ssl.SSLError):
        return tls.explain(cause, settings)
    if isinstance(cause, OSError):
        return unreachable.explain(cause, settings)
    return BrokerUnreachable(
        f"What listens on {settings.address} did not accept an MQTT {settings.protocol} "
        "connection: it closed it without an answer; check [broker] port, username and "
        "password_file, whether it wants a client certificate, and the broker's log."
    )


def _client(
    settings: BrokerSettings, context: ssl.SSLContext | None, will: OutgoingMessage | None
) -> _Client:
    version5 = settings.protocol == "5"
    last_will = None
    if will is not None:
        properties = _properties(PacketTypes.WILLMESSAGE, will) if version5 else None
        last_will = aiomqtt.Will(will.topic, will.payload, 1, will.retain, properties)
    return _Client(
        settings.host,
        settings.port,
        username=settings.username,
        # paho wants text and encodes it again, as UTF-8.
        password=settings.password.decode() if settings.password is not None else None,
        identifier=settings.client_id or None,
        protocol=aiomqtt.ProtocolVersion.V5 if version5 else aiomqtt.ProtocolVersion.V311,
        clean_session=None if version5 else True,
        clean_start=True if version5 else paho.MQTT_CLEAN_START_FIRST_ONLY,
        keepalive=settings.keep_alive_s,
        timeout=settings.connect_timeout_s,
        will=last_will,
        tls_context=context,
        max_inflight_messages=RECEIVE_MAXIMUM_DEFAULT,
        logger=_log,
    )


def _properties(packet_type: int, message: OutgoingMessage) -> Properties:
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    if message.properties:
        properties.UserProperty = list(message.properties)
    return properties


def _size(message: OutgoingMessage) -> int:
    """Bytes of the PUBLISH, never fewer than it will have."""
    return (
        PUBLISH_OVERHEAD_BYTES
        + len(message.topic.encode())
        + len(message.payload)
        + sum(
            PROPERTY_OVERHEAD_BYTES + len(name.encode()) + len(value.encode())
            for name, value in message.properties
        )
    )
