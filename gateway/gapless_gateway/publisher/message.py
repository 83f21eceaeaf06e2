"""What leaves the gateway: one message per record, LOST range or quarantined seq.

Topics: `gapless/{gateway}/{device}/data`, `.../event`, `.../lost`; `gapless/{gateway}/status` is
in `status`. The JSON form of a record (`v` 1):

    {"v":1,"device":"pump-1","stream":"0a1b2c3d","boot":7,"seq":42,
     "t":"2026-03-01T12:00:00.250Z","t_ms":1772366400250,"t_err_ms":3,"t_source":"link",
     "rx":"2026-03-01T12:00:00.290Z","replay":true,"outage":7,"redelivery":false,"tx":"12-345",
     "values":{"temperature":21.5}}

`t` is the middle of what is known of the record's moment, `t_err_ms` half its width. A record that
could not be dated has `t`, `t_ms` and `t_err_ms` null and says what is known in `t_min` and
`t_max` (RFC 3339, or null). A float that JSON cannot say (NaN, infinity) is null. A LOST range:

    {"v":1,"device":"pump-1","stream":"0a1b2c3d","first":43,"last":50,"reason":"overflow",
     "at_most":false,"rx":"...","replay":false,"outage":0,"redelivery":false,"tx":"12-346"}

with the reasons of the log, and two more: "quarantined" (the broker refuses this record for good;
first = last = its seq) and "elsewhere" (another gateway's log, named in "log_id", answers for
these). In CBOR a record is a map with the keys `v`, `device`, `stream`, `seq`, `t_ms`, `t_err_ms`,
`t_source`, `rx_ms`, `replay`, `outage`, `redelivery`, `tx` and `record`, whose value is the
board's own array [boot, wraps, ticks_ms, kind, body], spliced in as it was stored; undated, it has
`t_min_ms` and `t_max_ms` too. A LOST range is the same map as in JSON, with `rx_ms` for `rx`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from functools import lru_cache
from time import gmtime, strftime
from typing import Any, Literal

import cbor2

from gapless_gateway.brokers.base import OutgoingMessage
from gapless_gateway.publisher.standing_in import SetAside
from gapless_gateway.wal import entries
from gapless_gateway.wal.entries import Elsewhere, Lost, Record
from gapless_link.messages import KIND_EVENT, KIND_SAMPLE

VERSION = 1
RECORD_FIELDS = 5  # boot, wraps, ticks_ms, kind, body

T_SOURCE_WORDS = {
    entries.T_SOURCE_NONE: "none",
    entries.T_SOURCE_LINK: "link",
    entries.T_SOURCE_UNSYNCED: "unsynced",
}
REASON_QUARANTINED = "quarantined"
REASON_ELSEWHERE = "elsewhere"

_FLOAT32 = struct.Struct("<f")
_FLOAT32_NORMAL_MIN = 2.0**-126
_FLOAT32_DIGITS_MIN, _FLOAT32_DIGITS_MAX = 6, 9

_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


class CannotEncode(ValueError):
    """The stored bytes are no record that this form can carry; the message says why."""


class MessageMaker:
    """Makes the messages of one run of the gateway, and numbers them (`tx`)."""

    def __init__(self, gateway: str, run: int, encoding: Literal["json", "cbor"]) -> None:
        """`gateway`: its name in topics. `run`: the number of this run of the gateway."""
        self._gateway = gateway
        self._run = run
        self._cbor = encoding == "cbor"
        self._transmissions = 0

    def of_record(self, device: str, entry: Record, *, redelivery: bool) -> OutgoingMessage:
        """A record, to the device's data or event topic. Raises CannotEncode."""
        boot, kind, body = _parse(entry.data)
        if self._cbor:
            payload = self._record_cbor(device, entry, redelivery)
        else:
            payload = self._record_json(device, entry, boot, body, redelivery)
        return OutgoingMessage(
            f"gapless/{self._gateway}/{device}/{'event' if kind == KIND_EVENT else 'data'}",
            payload,
            properties=_identity(device, entry.stream, entry.seq),
        )

    def of_lost(self, device: str, entry: Lost, *, redelivery: bool) -> OutgoingMessage:
        """A LOST range, to the device's lost topic."""
        reason = entries.reason_word(entry.reason)
        return self._declared(
            device, entry.stream, (entry.first, entry.last), reason, redelivery=redelivery,
            at_most=entry.at_most, rx_ms=entry.rx_ms, outage=entry.outage,
        )  # fmt: skip

    def of_quarantined(self, device: str, entry: Record, *, redelivery: bool) -> OutgoingMessage:
        """The announcement, in the record's place, that it is kept aside."""
        return self._declared(
            device, entry.stream, (entry.seq, entry.seq), REASON_QUARANTINED, redelivery=redelivery,
            rx_ms=entry.rx_ms, outage=entry.outage,
        )  # fmt: skip

    def of_set_aside(self, device: str, entry: SetAside, *, redelivery: bool) -> OutgoingMessage:
        """The announcement, in their place, that records are kept aside which cannot be read."""
        return self._declared(
            device, entry.stream, (entry.first, entry.last), REASON_QUARANTINED,
            redelivery=redelivery, rx_ms=entry.rx_ms,
        )  # fmt: skip

    def of_elsewhere(self, device: str, entry: Elsewhere, *, redelivery: bool) -> OutgoingMessage:
        """The announcement that another gateway's log answers for a range."""
        return self._declared(
            device, entry.stream, (entry.first, entry.last), REASON_ELSEWHERE,
            redelivery=redelivery, more={"log_id": entry.log_id.hex()},
        )  # fmt: skip

    def _record_json(
        self, device: str, entry: Record, boot: int, body: Mapping[str, Any], redelivery: bool
    ) -> bytes:
        try:
            values = _to_json({name: _plain(value) for name, value in body.items()})
        except (TypeError, ValueError) as error:
            raise CannotEncode(f"its body cannot be written as JSON: {error}") from None
        t_ms, t_err_ms = moment(entry)
        if t_ms is None:
            t_min, t_max = _rfc3339_or_null(entry.t_lo_ms), _rfc3339_or_null(entry.t_hi_ms)
            when = f'"t":null,"t_ms":null,"t_err_ms":null,"t_min":{t_min},"t_max":{t_max}'
        else:
            when = f'"t":"{rfc3339(t_ms)}","t_ms":{t_ms},"t_err_ms":{t_err_ms}'
        return (
            f'{{"v":1,"device":"{device}","stream":"{entry.stream.hex()}","boot":{boot},'
            f'"seq":{entry.seq},{when},"t_source":"{T_SOURCE_WORDS[entry.t_source]}",'
            f'"rx":"{rfc3339(entry.rx_ms)}","replay":{"true" if entry.outage else "false"},'
            f'"outage":{entry.outage},"redelivery":{"true" if redelivery else "false"},'
            f'"tx":"{self._tx()}","values":{values}}}'
        ).encode()

    def _record_cbor(self, device: str, entry: Record, redelivery: bool) -> bytes:
        t_ms, t_err_ms = moment(entry)
        head: dict[str, Any] = {
            "v": VERSION,
            "device": device,
            "stream": entry.stream.hex(),
            "seq": entry.seq,
            "t_ms": t_ms,
            "t_err_ms": t_err_ms,
            "t_source": T_SOURCE_WORDS[entry.t_source],
            "rx_ms": entry.rx_ms,
            "replay": entry.outage != 0,
            "outage": entry.outage,
            "redelivery": redelivery,
            "tx": self._tx(),
        }
        if t_ms is None:
            head["t_min_ms"] = _or_none(entry.t_lo_ms)
            head["t_max_ms"] = _or_none(entry.t_hi_ms)
        encoded = bytearray(cbor2.dumps(head))
        # A map of fewer than 23 pairs has its size in the low bits of its first byte.
        encoded[0] += 1
        return bytes(encoded) + _CBOR_KEY_RECORD + entry.data

    def _declared(
        self,
        device: str,
        stream: bytes,
        seqs: tuple[int, int],
        reason: str,
        *,
        redelivery: bool,
        at_most: bool = False,
        rx_ms: int | None = None,
        outage: int = 0,
        more: Mapping[str, Any] | None = None,
    ) -> OutgoingMessage:
        fields: dict[str, Any] = {
            "v": VERSION,
            "device": device,
            "stream": stream.hex(),
            "first": seqs[0],
            "last": seqs[1],
            "reason": reason,
            "at_most": at_most,
        }
        if self._cbor:
            fields["rx_ms"] = rx_ms
        else:
            fields["rx"] = None if rx_ms is None else rfc3339(rx_ms)
        fields |= {
            "replay": outage != 0,
            "outage": outage,
            "redelivery": redelivery,
            "tx": self._tx(),
            **(more or {}),
        }
        return OutgoingMessage(
            f"gapless/{self._gateway}/{device}/lost",
            cbor2.dumps(fields) if self._cbor else _to_json(fields).encode(),
            properties=_identity(device, stream, seqs[0]),
        )

    def _tx(self) -> str:
        self._transmissions += 1
        return f"{self._run}-{self._transmissions}"


_CBOR_KEY_RECORD = cbor2.dumps("record")


def _identity(device: str, stream: bytes, seq: int) -> tuple[tuple[str, str], ...]:
    return (("device", device), ("stream", stream.hex()), ("seq", str(seq)))


def _parse(data: bytes) -> tuple[int, int, Mapping[str, Any]]:
    """(boot, kind, body) of a board's record bytes."""
    try:
        fields = cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise CannotEncode(f"its bytes are not CBOR: {error}") from None
    if not isinstance(fields, list) or len(fields) != RECORD_FIELDS:
        raise CannotEncode("its bytes are no record [boot, wraps, ticks_ms, kind, body]")
    boot, _, _, kind, body = fields
    if not (type(boot) is int and kind in (KIND_SAMPLE, KIND_EVENT) and isinstance(body, Mapping)):
        raise CannotEncode("its bytes are no record [boot, wraps, ticks_ms, kind, body]")
    return boot, kind, body


def moment(entry: Record) -> tuple[int | None, int | None]:
    """(middle, half the width rounded up) of when the record was taken, or (None, None)."""
    if entry.t_source == entries.T_SOURCE_NONE or entry.t_lo_ms < 0 or entry.t_hi_ms < 0:
        return None, None
    t_ms = (entry.t_lo_ms + entry.t_hi_ms) // 2
    return t_ms, entry.t_hi_ms - t_ms


def _plain(value: Any) -> Any:
    return shortest(value) if type(value) is float else value


@lru_cache(maxsize=4096)
def shortest(value: float) -> float | None:
    """The float whose digits are the fewest that mean the same float32; None for NaN, infinity.

    A board sends float32, which CBOR decoding widens: 21.1 comes as 21.100000381469727. Six digits
    or fewer survive the way through float32 and back, nine always tell two float32 apart. A value
    that is no float32 is left as it is.
    """
    if value - value != 0:
        return None
    try:
        narrow = _FLOAT32.pack(value)
    except OverflowError:
        return value
    if _FLOAT32.unpack(narrow)[0] != value:
        return value
    subnormal = abs(value) < _FLOAT32_NORMAL_MIN  # these have fewer than six digits to lose
    first = 1 if subnormal else _FLOAT32_DIGITS_MIN
    for digits in range(first, _FLOAT32_DIGITS_MAX + 1):
        short = float(f"{value:.{digits}g}")
        if _means(short, narrow):
            return short
    return value


def _means(value: float, narrow: bytes) -> bool:
    try:
        return _FLOAT32.pack(value) == narrow
    except OverflowError:  # rounded up beyond the largest float32
        return False


def rfc3339(at_ms: int) -> str:
    """UTC with milliseconds, as RFC 3339 writes it."""
    return f"{_second(at_ms // 1000)}.{at_ms % 1000:03d}Z"


@lru_cache(maxsize=256)
def _second(at_s: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(at_s))


def _or_none(at_ms: int) -> int | None:
    return at_ms if at_ms >= 0 else None


def _rfc3339_or_null(at_ms: int) -> str:
    return f'"{rfc3339(at_ms)}"' if at_ms >= 0 else "null"
