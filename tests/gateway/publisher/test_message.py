"""The forms in which records leave."""

from __future__ import annotations

import json
import math
import random
import struct
from typing import Any

import cbor2
import pytest

from gapless_gateway.publisher.message import CannotEncode, MessageMaker, rfc3339, shortest
from gapless_gateway.wal.entries import Elsewhere, Lost, Record

PUMP = b"\x0a\x1b\x2c\x3d"
T_MS = 1_772_366_400_250  # 2026-03-01T12:00:00.250Z


def float32(value: float) -> bytes:
    """The CBOR of a float32."""
    return b"\xfa" + struct.pack(">f", value)


def body(name: str, value: bytes) -> bytes:
    return b"\xa1" + cbor2.dumps(name) + value


def record(data_body: bytes, *, kind: int = 0, **changes: Any) -> Record:
    data = b"\x85\x07\x00\x18\x2a" + bytes([kind]) + data_body
    fields: dict[str, Any] = {
        "stream": PUMP, "seq": 42, "rx_ms": T_MS + 40, "t_lo_ms": T_MS - 3, "t_hi_ms": T_MS + 3,
        "t_source": 1, "outage": 7, "data": data,
    }  # fmt: skip
    return Record(**(fields | changes))


def test_a_record_in_json_is_the_documented_form() -> None:
    maker = MessageMaker("hall-3", 12, "json")
    message = maker.of_record("pump-1", record(body("t", float32(21.1))), redelivery=False)
    assert message.topic == "gapless/hall-3/pump-1/data"
    assert not message.retain
    assert message.properties == (("device", "pump-1"), ("stream", "0a1b2c3d"), ("seq", "42"))
    assert message.payload == (
        b'{"v":1,"device":"pump-1","stream":"0a1b2c3d","boot":7,"seq":42,'
        b'"t":"2026-03-01T12:00:00.250Z","t_ms":1772366400250,"t_err_ms":3,"t_source":"link",'
        b'"rx":"2026-03-01T12:00:00.290Z","replay":true,"outage":7,"redelivery":false,'
        b'"tx":"12-1","values":{"t":21.1}}'
    )


def test_an_event_goes_to_its_own_topic() -> None:
    maker = MessageMaker("hall-3", 12, "json")
    event = record(cbor2.dumps({"event": "boot", "cause": "watchdog"}), kind=1)
    message = maker.of_record("pump-1", event, redelivery=True)
    assert message.topic == "gapless/hall-3/pump-1/event"
    said = json.loads(message.payload)
    assert said["values"] == {"event": "boot", "cause": "watchdog"}
    assert said["redelivery"] is True


@pytest.mark.parametrize(
    ("lo", "hi", "t_min", "t_max"),
    [
        (-1, -1, None, None),
        (-1, T_MS, None, rfc3339(T_MS)),
        (T_MS, T_MS, rfc3339(T_MS), rfc3339(T_MS)),
    ],
)
def test_an_undated_record_has_no_time_and_its_known_bounds(
    lo: int, hi: int, t_min: str | None, t_max: str | None
) -> None:
    undated = record(b"\xa0", t_lo_ms=lo, t_hi_ms=hi, t_source=0)
    message = MessageMaker("g", 1, "json").of_record("d", undated, redelivery=False)
    said = json.loads(message.payload)
    assert (said["t"], said["t_ms"], said["t_err_ms"], said["t_source"]) == (
        None,
        None,
        None,
        "none",
    )
    assert (said["t_min"], said["t_max"]) == (t_min, t_max)


def test_each_transmission_has_its_own_number() -> None:
    maker = MessageMaker("g", 3, "json")
    one = [maker.of_record("d", record(b"\xa0"), redelivery=False) for _ in range(3)]
    assert [json.loads(m.payload)["tx"] for m in one] == ["3-1", "3-2", "3-3"]


@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_what_is_no_record_cannot_be_encoded(encoding: Any) -> None:
    maker = MessageMaker("g", 1, encoding)
    for data in (
        b"",
        b"\xff",
        b"\x80",
        cbor2.dumps([1, 2, 3, 9, {}]),
        cbor2.dumps([1, 2, 3, 0, 5]),
    ):
        with pytest.raises(CannotEncode):
            maker.of_record("d", record(b"", data=data), redelivery=False)


def test_a_lost_range_names_its_reason() -> None:
    maker = MessageMaker("g", 1, "json")
    message = maker.of_lost("d", Lost(PUMP, 43, 50, 2, True, False, T_MS, 0), redelivery=False)
    assert message.topic == "gapless/g/d/lost"
    assert json.loads(message.payload) == {
        "v": 1, "device": "d", "stream": "0a1b2c3d", "first": 43, "last": 50, "reason": "reset",
        "at_most": True, "rx": "2026-03-01T12:00:00.250Z", "replay": False, "outage": 0,
        "redelivery": False, "tx": "1-1",
    }  # fmt: skip
    quarantined = json.loads(maker.of_quarantined("d", record(b""), redelivery=True).payload)
    assert (quarantined["first"], quarantined["last"]) == (42, 42)
    assert quarantined["reason"] == "quarantined"
    elsewhere = Elsewhere(PUMP, 1, 2, b"\x01" * 8)
    said = json.loads(maker.of_elsewhere("d", elsewhere, redelivery=False).payload)
    assert (said["reason"], said["log_id"]) == ("elsewhere", "01" * 8)


def test_cbor_carries_the_boards_own_bytes() -> None:
    maker = MessageMaker("g", 1, "cbor")
    for one in (record(body("t", float32(21.1))), record(body("t", float32(1)), t_source=0)):
        message = maker.of_record("d", one, redelivery=True)
        assert message.payload.endswith(b"\x66record" + one.data)
        said = cbor2.loads(message.payload)
        assert said["record"] == cbor2.loads(one.data)
        assert (said["seq"], said["redelivery"], said["outage"]) == (42, True, 7)
    assert (said["t_ms"], said["t_min_ms"]) == (None, T_MS - 3)
    lost = maker.of_lost("d", Lost(PUMP, 1, 2, 1, False, False, T_MS, 0), redelivery=False)
    assert cbor2.loads(lost.payload)["rx_ms"] == T_MS


@pytest.mark.parametrize(
    "text",
    ["21.1", "0.1", "1e-07", "3.4028235e+38", "1e+20", "16777216.0", "-40.05", "0.0", "1e-45"],
)
def test_a_float32_is_shown_with_the_digits_it_was_written_with(text: str) -> None:
    wide = struct.unpack("<f", struct.pack("<f", float(text)))[0]
    assert shortest(wide) == float(text)


def test_every_float32_survives_and_no_shorter_number_would_do() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(20_000):
        narrow = struct.pack("<I", rng.getrandbits(32))
        wide = struct.unpack("<f", narrow)[0]
        shown = shortest(wide)
        if not math.isfinite(wide):
            assert shown is None
            continue
        assert shown is not None
        assert struct.pack("<f", shown) == narrow
        digits = len(f"{shown:.17g}".replace("-", "").split("e")[0].replace(".", ""))
        for fewer in range(1, 9):
            candidate = float(f"{wide:.{fewer}g}")
            if abs(candidate) <= 3.4028235e38 and struct.pack("<f", candidate) == narrow:
                assert shown == candidate or digits <= fewer
                break


def test_what_json_cannot_say_is_null() -> None:
    for value in (math.nan, math.inf, -math.inf):
        one = record(body("t", float32(value)))
        payload = MessageMaker("g", 1, "json").of_record("d", one, redelivery=False).payload
        assert json.loads(payload)["values"] == {"t": None}


def test_a_float64_is_left_as_it_is() -> None:
    assert shortest(0.1) == 0.1
    assert shortest(1e300) == 1e300
