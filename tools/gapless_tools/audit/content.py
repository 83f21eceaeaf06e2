"""Whether two forms of one record say the same: a digest that both of them lead to.

The log holds the board's CBOR and the time fields; a capture holds the published message, as JSON
or as CBOR read back. Compared are boot, kind, the values, and all that the gateway said of time.
A float is compared as the float32 that the board sent, since JSON carries its shortest digits; one
that JSON cannot say (NaN, infinity) is null there and therefore null here.
"""

from __future__ import annotations

import struct
from calendar import timegm
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from time import strptime
from typing import Any

import cbor2

from gapless_gateway.wal.entries import T_SOURCE_LINK, T_SOURCE_NONE, T_SOURCE_UNSYNCED, Record

KIND_SAMPLE = 0
KIND_EVENT = 1

UNREADABLE = 1  # stands for a record that has no digest, and is nobody's digest

_T_SOURCE_WORDS = {T_SOURCE_NONE: "none", T_SOURCE_LINK: "link", T_SOURCE_UNSYNCED: "unsynced"}
_FLOAT32 = struct.Struct("<f")


class ContentUnreadableError(ValueError):
    """A record or message is not of the form that its place promises; the message says how."""


def digest_of_record(entry: Record) -> int:
    """The digest of a record in the log. Raises ContentUnreadableError."""
    boot, kind, body = board_record(entry.data)
    lo_ms, hi_ms = entry.t_lo_ms, entry.t_hi_ms
    t_ms = t_err_ms = None
    if entry.t_source != T_SOURCE_NONE and lo_ms >= 0 and hi_ms >= 0:
        t_ms = (lo_ms + hi_ms) // 2
        t_err_ms = hi_ms - t_ms
    source = _T_SOURCE_WORDS.get(entry.t_source, "none")
    return _digest(boot, kind, body, (entry.rx_ms, t_ms, t_err_ms, source))


def digest_of_message(message: Mapping[str, Any], kind: int) -> int:
    """The digest of a published record; `kind` by its topic. Raises ContentUnreadableError."""
    try:
        when = (rx_ms_of(message), message["t_ms"], message["t_err_ms"], message["t_source"])
        if "record" in message:  # the CBOR form carries the board's own array
            boot, _, _, kind, body = message["record"]
        else:
            boot, body = message["boot"], message["values"]
            if message["t"] is not None and moment_ms(message["t"]) != message["t_ms"]:
                raise ContentUnreadableError("its t and its t_ms are two moments")
        return _digest(boot, kind, body, when)
    except KeyError as error:
        raise ContentUnreadableError(f"it has no {error.args[0]}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ContentUnreadableError(str(error)) from None


def board_record(data: bytes) -> tuple[int, int, Mapping[str, Any]]:
    """(boot, kind, body) of a board's record bytes. Raises ContentUnreadableError."""
    try:
        fields = cbor2.loads(data)
        boot, _, _, kind, body = fields
    except (cbor2.CBORDecodeError, TypeError, ValueError) as error:
        raise ContentUnreadableError(f"its bytes are no record: {error}") from None
    if not isinstance(body, Mapping):
        raise ContentUnreadableError("its bytes are no record: the body is no map")
    return boot, kind, body


def rx_ms_of(message: Mapping[str, Any]) -> int:
    """When the gateway took this in, of either form of a message. Raises KeyError, ValueError."""
    return message["rx_ms"] if "rx_ms" in message else moment_ms(message["rx"])


def moment_ms(text: str) -> int:
    """RFC 3339 in UTC with milliseconds, as the gateway writes it. Raises ValueError."""
    if len(text) != 24 or text[19] != "." or text[23] != "Z":
        raise ValueError(f"{text!r} is no moment as the gateway writes one")
    return _second_ms(text[:19]) + int(text[20:23])


@lru_cache(maxsize=256)
def _second_ms(text: str) -> int:
    return timegm(strptime(text, "%Y-%m-%dT%H:%M:%S")) * 1000


def _digest(boot: int, kind: int, body: Mapping[str, Any], when: tuple[Any, ...]) -> int:
    said = sorted((name, _plain(value)) for name, value in body.items())
    text = repr((boot, kind, said, when))
    digest = blake2b(text.encode(), digest_size=8).digest()
    return max(int.from_bytes(digest, "big"), UNREADABLE + 1)  # 0 means: none


def _plain(value: Any) -> str:
    """A value as text; two values are the same if and only if their texts are."""
    if type(value) is not float:
        return repr(value)
    if value - value != 0:
        return repr(None)
    try:
        return _FLOAT32.pack(value).hex()
    except OverflowError:
        return repr(value)
