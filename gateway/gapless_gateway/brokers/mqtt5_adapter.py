"""MQTT 5 on the sans-IO codec `mqtt5`: connecting, and the context manager around it.

The connection itself is `mqtt5_connection`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import mqtt5

from gapless_gateway.brokers import tls, unreachable
from gapless_gateway.brokers.base import BrokerConnection, BrokerUnreachable, OutgoingMessage
from gapless_gateway.brokers.mqtt5_connection import Mqtt5Connection
from gapless_gateway.brokers.reasons import SUCCESS, connect_refusal
from gapless_gateway.brokers.settings import BrokerSettings

CLOSE_TIMEOUT_S = 1.0
RECEIVE_MAXIMUM_OURS = 100  # of messages that our subscriptions bring


@asynccontextmanager
async def connect_mqtt5(
    settings: BrokerSettings, context: ssl.SSLContext | None, will: OutgoingMessage | None
) -> AsyncIterator[BrokerConnection]:
    """See `connect.connect`."""
    connection = await _open(settings, context, will)
    try:
        yield connection
    finally:
        await connection.close(CLOSE_TIMEOUT_S)


async def _open(
    settings: BrokerSettings, context: ssl.SSLContext | None, will: OutgoingMessage | None
) -> Mqtt5Connection:
    connection: Mqtt5Connection | None = None
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Mqtt5Connection(settings.keep_alive_s),
                settings.host,
                settings.port,
                ssl=context,
                server_hostname=settings.host if context is not None else None,
                ssl_handshake_timeout=settings.connect_timeout_s if context is not None else None,
            )
            answer = await connection.handshake(_connect_packet(settings, will))
    except BaseException as error:
        if connection is not None:
            connection.abort("the connection was given up")
        if isinstance(error, TimeoutError):
            raise unreachable.no_answer(settings) from None
        if isinstance(error, ssl.SSLError):
            raise tls.explain(error, settings) from None
        if isinstance(error, OSError):
            raise unreachable.explain(error, settings) from None
        raise
    if answer is None:
        raise _no_connack(connection, settings)
    if answer.reason_code != SUCCESS:
        connection.abort("the broker refused us")
        raise connect_refusal(int(answer.reason_code), settings, answer.reason_str)
    return connection


def _no_connack(connection: Mqtt5Connection, settings: BrokerSettings) -> Exception:
    """Why the connection was over before the broker's CONNACK."""
    # With TLS 1.3 a broker looks at our certificate after our side of the handshake is done.
    if isinstance(connection.lost_with, ssl.SSLError):
        return tls.explain(connection.lost_with, settings)
    closed = connection.closed_reason
    return BrokerUnreachable(
        f"What listens on {settings.address} did not accept an MQTT 5 connection: {closed}; "
        "check [broker] port, username and password_file, and the broker's log."
    )


def _connect_packet(settings: BrokerSettings, will: OutgoingMessage | None) -> mqtt5.ConnectPacket:
    return mqtt5.ConnectPacket(
        settings.client_id,
        username=settings.username,
        password=settings.password,
        clean_start=True,
        keep_alive=settings.keep_alive_s,
        receive_max=RECEIVE_MAXIMUM_OURS,
        will=None
        if will is None
        else mqtt5.Will(
            will.topic,
            payload=will.payload,
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            retain=will.retain,
            user_properties=list(will.properties),
        ),
    )
