"""MQTT 5 reason codes (OASIS MQTT 5.0, section 2.4) in words, and what each means for us."""

from __future__ import annotations

from gapless_gateway.brokers.base import (
    DELIVERED,
    NO_SUBSCRIBERS,
    BrokerRefused,
    PublishOutcome,
    PublishResult,
)
from gapless_gateway.brokers.settings import BrokerSettings

SUCCESS = 0
NO_MATCHING_SUBSCRIBERS = 16
FAILURE_MIN = 128
SESSION_TAKEN_OVER = 142
PACKET_TOO_LARGE = 149

_WORDS = {
    0: "success",
    4: "disconnected with its last will",
    16: "no matching subscribers",
    128: "an error that the broker does not specify",
    129: "a packet that the broker calls malformed",
    130: "a protocol error",
    131: "an error of the broker's own kind",
    132: "this MQTT version is not supported",
    133: "the client id is not valid",
    134: "bad user name or password",
    135: "not authorised",
    136: "the broker is not available",
    137: "the broker is busy",
    138: "banned",
    139: "the broker is shutting down",
    140: "bad authentication method",
    141: "keep-alive timeout",
    142: "another client connected with the same client id",
    143: "the topic filter is not valid",
    144: "the topic name is not accepted",
    145: "the packet identifier is in use",
    146: "the packet identifier is not known",
    147: "more unacknowledged messages than the broker allows",
    148: "the topic alias is not valid",
    149: "the packet is too large",
    150: "too many messages a second",
    151: "quota exceeded",
    152: "administrative action",
    153: "the payload does not have the announced format",
    154: "retained messages are not supported",
    155: "this quality of service is not supported",
    156: "use another server",
    157: "the server has moved",
    158: "shared subscriptions are not supported",
    159: "too many connections a second",
    160: "the connection has lasted as long as the broker allows",
    161: "subscription identifiers are not supported",
    162: "wildcard subscriptions are not supported",
}

# The same message will be refused again whatever we wait. "Not authorised" is among them: a device
# whose topic the broker denies must not stall the others, and the owner can requeue.
_REFUSED_FOR_GOOD = frozenset({135, 144, 149, 153})

# MQTT 3.1.1, section 3.2.2.3: CONNACK return codes, as their MQTT 5 counterparts.
_CODE_OF_V311 = {1: 132, 2: 133, 3: 136, 4: 134, 5: 135}

_REMEDY = {
    132: 'use adapter = "aiomqtt" and protocol = "3.1.1" if the broker speaks MQTT 3.1.1 only',
    133: "set another [broker] client_id",
    134: "check [broker] username and password_file",
    135: "check [broker] username and password_file, and what the broker allows this user",
    138: "ask the broker's administrator",
}
_REMEDY_DEFAULT = "the gateway keeps its records and tries again"


def words(code: int, detail: str | None = None) -> str:
    """A reason code in words, with the broker's own text behind it where there is one."""
    text = _WORDS.get(code, f"reason code {code}")
    return f"{text} ({detail})" if detail else text


def publish_result(code: int, detail: str | None = None) -> PublishResult:
    """What a PUBACK's reason code means for the message."""
    if code == SUCCESS:
        return DELIVERED
    if code == NO_MATCHING_SUBSCRIBERS:
        return NO_SUBSCRIBERS
    if code < FAILURE_MIN:
        return DELIVERED
    outcome = (
        PublishOutcome.REFUSED_FOR_GOOD
        if code in _REFUSED_FOR_GOOD
        else PublishOutcome.REFUSED_FOR_NOW
    )
    return PublishResult(outcome, words(code, detail))


def connect_refusal(
    code: int, settings: BrokerSettings, detail: str | None = None
) -> BrokerRefused:
    """The error for a CONNACK that refuses, MQTT 5 codes and MQTT 3.1.1 return codes alike."""
    code = _CODE_OF_V311.get(code, code)
    return BrokerRefused(
        f"The broker {settings.address} refused the connection: {words(code, detail)}; "
        f"{_REMEDY.get(code, _REMEDY_DEFAULT)}."
    )
