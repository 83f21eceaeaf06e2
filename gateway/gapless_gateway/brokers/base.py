"""What the publisher needs of a broker: one Protocol, its values, its errors.

Two adapters keep this contract (`mqtt5_adapter`, `aiomqtt_adapter`), and one set of tests checks
both against each broker. MQTT sessions are always clean: what was not acknowledged is known here,
in the log, and nowhere else.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gapless_gateway.errors import UserError

RECEIVE_MAXIMUM_DEFAULT = 65535  # MQTT 5, section 3.2.2.3.3: what holds when the broker is silent


class BrokerError(UserError):
    """A connection could not be made. The message is one sentence: what, and what to do."""


class BrokerUnreachable(BrokerError):
    """Nobody answers there, or what answers speaks neither TLS nor MQTT. May heal by itself."""


class BrokerRefused(BrokerError):
    """The broker answered and does not want us: credentials, client id, quota."""


class CertificateFault(BrokerError):
    """One side does not accept the other's certificate: name, issuer, dates, or none shown."""


class PublishOutcome(enum.Enum):
    """What became of one publish."""

    DELIVERED = "delivered"
    NO_SUBSCRIBERS = "no subscribers"  # the broker has it, and nobody listens: delivered, warned
    REFUSED_FOR_GOOD = "refused for good"  # the same message will never be taken
    REFUSED_FOR_NOW = "refused for now"  # the same message may be taken later


@dataclass(frozen=True, slots=True)
class PublishResult:
    """The outcome, and the broker's reason in words where it refused."""

    outcome: PublishOutcome
    reason: str = ""


DELIVERED = PublishResult(PublishOutcome.DELIVERED)
NO_SUBSCRIBERS = PublishResult(PublishOutcome.NO_SUBSCRIBERS)


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """One message to publish with QoS 1. `properties` are MQTT 5 user properties."""

    topic: str
    payload: bytes
    retain: bool = False
    properties: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """One message that a subscription brought."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """Why a connection is over.

    `intruder` is set when the broker gave our client id to somebody else: coming back at once
    would only throw them out in turn, for ever.
    """

    reason: str
    intruder: bool = False


class BrokerConnection(Protocol):
    """An open connection. Only used on the event loop that opened it."""

    @property
    def receive_maximum(self) -> int:
        """How many publishes the broker lets be unacknowledged at a time, 1..65535."""

    @property
    def maximum_packet_size(self) -> int | None:
        """Bytes of a whole packet that the broker takes; None: no limit was said."""

    def publish(self, message: OutgoingMessage, on_ack: Callable[[PublishResult], None]) -> None:
        """Send with QoS 1, in the order of the calls. Never blocks, never raises for the broker.

        The caller keeps its own window; what goes beyond `receive_maximum` waits here.
        `on_ack` is called once, later, from the event loop; never after the connection is closed
        (then nothing is known about the message). A message beyond `maximum_packet_size` is not
        sent and comes back REFUSED_FOR_GOOD.
        """

    async def subscribe(
        self, topic_filter: str, on_message: Callable[[IncomingMessage], None]
    ) -> None:
        """Subscribe with QoS 1; returns once granted. Raises BrokerRefused, BrokerUnreachable.

        One connection has one handler: that of the latest call gets all messages.
        """

    async def wait_closed(self) -> Closed:
        """Wait until the connection is over, and say why. Any number of callers, any time."""
