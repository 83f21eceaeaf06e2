"""Lines of a capture keep every message, and are read back as what they were."""

from __future__ import annotations

import json

import cbor2
import pytest

from gapless_tools.capture_messages import (
    CapturedLost,
    CapturedOther,
    CapturedRecord,
    CapturedStatus,
    is_receipt,
    parse_line,
    render_line,
)
from tests.support.published import DEVICE, STATUS_TOPIC, STREAM, lost, record, status, topic


def through_a_line(topic_name: str, payload: bytes, *, retain: bool = False):
    line = render_line(17, topic_name, payload, retain=retain)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    json.loads(line)
    return parse_line(3, line)


def test_a_record_comes_back_with_all_its_fields() -> None:
    payload = record(42, tx="12-345", redelivery=True, replay=True, outage=7)
    item = through_a_line(topic("data"), payload)
    assert isinstance(item, CapturedRecord)
    assert (item.line, item.rx_ms, item.device, item.stream) == (3, 17, DEVICE, STREAM)
    assert (item.seq, item.event, item.sent.tx) == (42, False, (12, 345))
    assert (item.sent.redelivery, item.sent.replay, item.sent.outage) == (True, True, 7)
    assert item.message == json.loads(payload)
    assert through_a_line(topic("event"), record(42)).event


def test_a_lost_range_and_a_status_come_back() -> None:
    item = through_a_line(topic("lost"), lost(5, 9, at_most=True, reason="reset"))
    assert isinstance(item, CapturedLost)
    assert (item.first, item.last, item.reason, item.at_most) == (5, 9, "reset", True)
    item = through_a_line(STATUS_TOPIC, status((DEVICE, STREAM, 30)), retain=True)
    assert isinstance(item, CapturedStatus)
    assert item.retain
    assert [(s.device, s.stream, s.base) for s in item.streams] == [(DEVICE, STREAM, 30)]


def test_the_payload_stands_in_the_line_as_it_came() -> None:
    payload = b'{ "b":1.10, "a" : "\\u00e4" }'
    assert payload in render_line(1, topic("data"), payload, retain=False)
    spread = b'{"a":\n1}'
    assert json.loads(render_line(1, "t", spread, retain=False))["message"] == {"a": 1}


def test_cbor_comes_back_as_the_same_values() -> None:
    fields = json.loads(record(7)) | {"record": [1, 0, 5, 0, {"x": 1.5}]}
    item = through_a_line(topic("data"), cbor2.dumps(fields))
    assert isinstance(item, CapturedRecord)
    assert (item.seq, item.message) == (7, fields)
    odd = fields | {"n": float("nan"), "b": b"\xff", 5: None}
    assert through_a_line(topic("data"), cbor2.dumps(odd)).message["b"] == "ff"


def test_a_digest_ignores_how_it_was_sent_and_nothing_else() -> None:
    def digest(**changed: object) -> bytes:
        return through_a_line(topic("data"), record(1, **changed)).digest

    assert digest() == digest(tx="2-9", redelivery=True)
    assert (
        len({digest(), digest(values={"temperature": 21.6}), digest(rx="x"), digest(boot=2)}) == 4
    )


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\xff\xfe", b"null", b"[1]", b"{", b'{"a":NaN}', b"[" * 100_000, b"\x9f" * 100_000,
        b'{"a":' * 50_000, b"\x00" * 10, "{}".encode("utf-16"), b'{"device":"pump-1"}',
        record(0), record(1 << 30), record(1, stream=b"abc"), record(1, device="other"),
        record(1, tx="x"), record(1, tx=None), record(True), record(1, outage="7"),
        b'{"a":"\\ud800"}',
    ],
    ids=range(21),
)  # fmt: skip
def test_what_is_no_message_is_kept_and_named_never_raised(payload: bytes) -> None:
    item = through_a_line(topic("data"), payload)
    assert isinstance(item, CapturedOther)
    assert item.why


@pytest.mark.parametrize("payload", [lost(5, 4), lost(0, 3), lost(1, 2, reason=5)])
def test_a_lost_range_that_is_none_is_not_understood(payload: bytes) -> None:
    assert isinstance(through_a_line(topic("lost"), payload), CapturedOther)


@pytest.mark.parametrize("line", [b"", b"x", b"[]", b"{}", b'{"rx_ms":1}', b"[" * 100_000, b"\xff"])
def test_what_is_no_line_raises_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse_line(1, line)


def test_receipts_are_told_from_messages_even_of_a_device_named_receipt() -> None:
    assert is_receipt("gapless/gw-1/receipt/pump-1")
    assert not is_receipt("gapless/gw-1/receipt/data")
    assert not is_receipt("gapless/gw-1/pump-1/data")
