"""The one way to a broker: the adapter that the settings name."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from gapless_gateway.brokers.base import BrokerConnection, OutgoingMessage
from gapless_gateway.brokers.settings import BrokerSettings
from gapless_gateway.brokers.tls import client_context


def connect(
    settings: BrokerSettings, will: OutgoingMessage | None = None
) -> AbstractAsyncContextManager[BrokerConnection]:
    """Open a connection on entering; send DISCONNECT and close it on leaving.

    `will` is the last will: the broker publishes it when the connection is lost without a
    DISCONNECT. Entering raises BrokerUnreachable, BrokerRefused, CertificateFault, and
    ConfigurationError where a file of the TLS settings cannot be used. The files are read anew
    each time, so that a changed certificate is taken with the next connection.
    """
    context = client_context(settings.tls) if settings.tls is not None else None
    # The adapters are imported here so that a gateway loads only the one it uses.
    if settings.adapter == "aiomqtt":
        from gapless_gateway.brokers.aiomqtt_adapter import connect_aiomqtt  # noqa: PLC0415

        return connect_aiomqtt(settings, context, will)
    from gapless_gateway.brokers.mqtt5_adapter import connect_mqtt5  # noqa: PLC0415

    return connect_mqtt5(settings, context, will)
