"""What a gateway publishes, as typed values; and the line that a capture keeps of each message.

A line of `capture.jsonl` is a JSON object and a newline:

    {"rx_ms":1772366400290,"topic":"gapless/gw-1/pump-1/data","message":{...}}

`rx_ms` is this machine's UTC clock when the message came in. `message` is the payload as it came;
of a CBOR payload its JSON rendering (bytes as hex), with `"encoding":"cbor"` beside it. `"retain":
true` marks what the broker had kept. A payload that is neither stands as `payload_base64`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import cbor2

SEQ_MAX = (1 << 30) - 1
STREAM_BYTES = 4
DIGEST_BYTES = 8
# What two transmissions of one entry may differ in.
TRANSMISSION_FIELDS = frozenset({"tx", "redelivery"})


@dataclass(frozen=True, slots=True)
class Transmission:
    """How a message was sent: `tx` is (run of the gateway, number within it)."""

    tx: tuple[int, int]
    redelivery: bool
    replay: bool
    outage: int


@dataclass(frozen=True, slots=True)
class CapturedRecord:
    """A record (sample or event) of one seq. `digest` covers all but the transmission's fields."""

    line: int
    rx_ms: int
    device: str
    stream: bytes
    seq: int
    event: bool
    sent: Transmission
    digest: bytes
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CapturedLost:
    """A declared range; reason "quarantined" or "elsewhere" says who holds the records instead."""

    line: int
    rx_ms: int
    device: str
    stream: bytes
    first: int
    last: int
    reason: str
    at_most: bool
    sent: Transmission
    digest: bytes
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StreamBase:
    """A stream that the gateway accounts for, from `base` + 1 on."""

    device: str
    stream: bytes
    base: int


@dataclass(frozen=True, slots=True)
class CapturedStatus:
    """The gateway's status: `state` "online" or "offline", and its streams."""

    line: int
    rx_ms: int
    retain: bool
    state: str
    streams: tuple[StreamBase, ...]
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CapturedOther:
    """A message on the gateway's topics that is none of the documented forms, and why."""

    line: int
    rx_ms: int
    topic: str
    why: str


Captured: TypeAlias = CapturedRecord | CapturedLost | CapturedStatus | CapturedOther


def is_receipt(topic: str) -> bool:
    """Whether a topic is that of a consumer's receipt, which is no message of the gateway's."""
    parts = topic.split("/")
    return len(parts) == 4 and parts[2] == "receipt" and parts[3] not in ("data", "lost", "event")


def render_line(rx_ms: int, topic: str, payload: bytes, *, retain: bool) -> bytes:
    """Return the line, newline included, that keeps a message."""
    head = f'{{"rx_ms":{rx_ms},"topic":{json.dumps(topic)}' + (',"retain":true' if retain else "")
    message = _load_json(payload)
    if message is not None:
        text = payload.decode()
        if "\n" in text or "\r" in text:  # a line is one line
            text = json.dumps(message, separators=(",", ":"))
        return f'{head},"message":{text}}}\n'.encode()
    message = _load_cbor(payload)
    if message is not None:
        text = json.dumps(message, separators=(",", ":"))
        return f'{head},"encoding":"cbor","message":{text}}}\n'.encode()
    return f'{head},"payload_base64":"{base64.b64encode(payload).decode()}"}}\n'.encode()


def parse_line(number: int, line: bytes) -> Captured:
    """Return the typed message of a line. Raises ValueError for what is no line of a capture."""
    try:
        fields = json.loads(line, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    rx_ms, topic = fields.get("rx_ms"), fields.get("topic")
    if type(rx_ms) is not int or type(topic) is not str:
        raise ValueError("it has no rx_ms and topic")
    message = fields.get("message")
    if not isinstance(message, dict):
        return CapturedOther(number, rx_ms, topic, "the payload is neither JSON nor CBOR")
    try:
        return _parse(number, rx_ms, topic, message, fields.get("retain") is True)
    except (KeyError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        return CapturedOther(number, rx_ms, topic, what)


def _parse(line: int, rx_ms: int, topic: str, message: dict[str, Any], retain: bool) -> Captured:
    prefix, _, *rest = topic.split("/")
    if prefix != "gapless":
        raise ValueError("not a topic of a gateway")
    if rest == ["status"]:
        streams = tuple(
            StreamBase(_text(one["device"]), _stream(one["stream"]), _seq(one["base"], 0))
            for one in message["streams"]
        )
        return CapturedStatus(line, rx_ms, retain, _text(message["state"]), streams, message)
    if len(rest) != 2 or rest[1] not in ("data", "event", "lost"):
        raise ValueError("not a topic of a gateway")
    device = _text(message["device"])
    if device != rest[0]:
        raise ValueError(f"its device {device!r} is not that of its topic")
    stream, sent, digest = _stream(message["stream"]), _transmission(message), _digest(message)
    if rest[1] != "lost":
        seq, event = _seq(message["seq"]), rest[1] == "event"
        return CapturedRecord(line, rx_ms, device, stream, seq, event, sent, digest, message)
    first, last = _seq(message["first"]), _seq(message["last"])
    if last < first:
        raise ValueError("its range ends before it begins")
    reason, at_most = _text(message["reason"]), message["at_most"] is True
    return CapturedLost(
        line, rx_ms, device, stream, first, last, reason, at_most, sent, digest, message
    )


def _transmission(message: Mapping[str, Any]) -> Transmission:
    run, _, number = _text(message["tx"]).partition("-")
    outage = message["outage"]
    if type(outage) is not int:
        raise ValueError("its outage is no number")
    return Transmission(
        (int(run), int(number)), message["redelivery"] is True, message["replay"] is True, outage
    )


def _digest(message: Mapping[str, Any]) -> bytes:
    stable = {name: value for name, value in message.items() if name not in TRANSMISSION_FIELDS}
    text = json.dumps(stable, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is no text")
    return value


def _stream(value: object) -> bytes:
    stream = bytes.fromhex(_text(value))
    if len(stream) != STREAM_BYTES:
        raise ValueError(f"{value!r} is no stream id")
    return stream


def _seq(value: object, lowest: int = 1) -> int:
    if type(value) is not int or not lowest <= value <= SEQ_MAX:
        raise ValueError(f"{value!r} is no seq")
    return value


def _load_json(payload: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(payload.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _load_cbor(payload: bytes) -> dict[str, Any] | None:
    try:
        message = cbor2.loads(payload)
        return _renderable(message) if isinstance(message, dict) else None
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError, OverflowError):
        return None


def _renderable(value: Any) -> Any:
    """Return a decoded CBOR value in JSON's types."""
    if isinstance(value, Mapping):
        return {str(key): _renderable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_renderable(one) for one in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
