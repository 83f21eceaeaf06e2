"""The judge of the kill tests, on messages of which it is known what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.arrivals import Arrivals, DeviceArrivals


def message(seq: int, tx: str, *, redelivery: bool = False, **more: Any) -> dict[str, Any]:
    fields = {"device": "pump-1", "stream": "0a1b2c3d", "seq": seq, "tx": tx}
    return {**fields, "redelivery": redelivery, "values": {"value": seq}, **more}


def lost(first: int, last: int, tx: str) -> dict[str, Any]:
    fields = {"device": "pump-1", "stream": "0a1b2c3d", "first": first, "last": last, "tx": tx}
    return {**fields, "redelivery": False, "reason": "quota"}


def judged(*messages: dict[str, Any]) -> DeviceArrivals:
    device = DeviceArrivals()
    for one in messages:
        device.take(one)
    return device


def test_records_and_a_declared_range_in_order_are_in_order() -> None:
    device = judged(message(1, "1-1"), lost(2, 4, "1-2"), message(5, "1-3"))
    assert device.order_faults() == device.unflagged_repeats() == []
    assert device.first_arrivals == [1, 2, 3, 4, 5]
    assert device.through == 5
    assert device.lost == {2: "quota", 3: "quota", 4: "quota"}


def test_a_repeat_is_legal_with_its_flag_and_as_the_brokers_own() -> None:
    device = judged(message(1, "1-1"), message(1, "1-1"), message(1, "2-1", redelivery=True))
    assert device.order_faults() == device.unflagged_repeats() == []
    assert device.flagged() == 1
    assert device.brokers_own_duplicates() == 1


def test_a_repeat_without_its_flag_is_found() -> None:
    assert judged(message(1, "1-1"), message(1, "2-1")).unflagged_repeats() != []


def test_a_transmission_that_claims_to_be_the_first_after_a_flagged_one_is_found() -> None:
    device = judged(message(1, "1-1", redelivery=True), message(1, "1-2"))
    assert device.unflagged_repeats() != []


def test_what_is_overtaken_is_found() -> None:
    assert judged(message(2, "1-1"), message(1, "1-2")).order_faults() != []
    assert judged(message(2, "1-2"), message(1, "1-1")).order_faults() != []


def test_a_gap_stops_the_count_until_it_is_filled(tmp_path: Path) -> None:
    file = tmp_path / "capture.jsonl"
    lines = [json.dumps({"message": message(seq, f"1-{seq}")}) + "\n" for seq in (1, 3, 2)]
    arrivals = Arrivals(file)
    assert not arrivals.have_through({"pump-1": 1})
    file.write_text(lines[0] + lines[1] + lines[2][:20])  # the consumer is writing it
    assert arrivals.have_through({"pump-1": 1})
    assert not arrivals.have_through({"pump-1": 2})
    file.write_text("".join(lines))
    assert arrivals.have_through({"pump-1": 3})
