"""Why a TCP connection to the broker did not come about, in one sentence."""

from __future__ import annotations

import errno
import socket

from gapless_gateway.brokers import tls
from gapless_gateway.brokers.base import BrokerUnreachable
from gapless_gateway.brokers.settings import BrokerSettings


def no_answer(settings: BrokerSettings) -> BrokerUnreachable:
    """Nothing came back in time."""
    return BrokerUnreachable(
        f"The broker {settings.address} did not answer within {settings.connect_timeout_s:g} s; "
        "check the network, a firewall, and that the broker is not stuck."
    )


def explain(error: OSError, settings: BrokerSettings) -> BrokerUnreachable:
    """The typed error for what the operating system said."""
    if isinstance(error, socket.gaierror):
        return BrokerUnreachable(
            f'The broker\'s name "{settings.host}" is not known to the name service; '
            "check [broker] host and this machine's DNS."
        )
    # Where a name has several addresses, asyncio tells of all of them in one error without errno.
    refused = error.errno is None and f"[Errno {errno.ECONNREFUSED}]" in str(error)
    if refused or isinstance(error, ConnectionRefusedError):
        return BrokerUnreachable(
            f"Nothing listens on {settings.address}; "
            "check [broker] host and port, and that the broker runs."
        )
    if isinstance(error, ConnectionError) and settings.tls is not None:
        return tls.not_tls(settings)
    return BrokerUnreachable(
        f"The broker {settings.address} cannot be reached: {error.strerror or error}; "
        "check [broker] host and the network."
    )
