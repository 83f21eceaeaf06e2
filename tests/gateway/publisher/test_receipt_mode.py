"""Delivered when the consumer says so: consumers that vanish, come late, or lie."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gapless_gateway.wal.entries import Lost
from gapless_tools.local_brokers import LocalBroker
from tests.support.mqtt import client, make_broker, until
from tests.support.publishing import GATEWAY, Consumer, Ingest, broker_settings, unflagged_repeats

PUMP = b"\x0a\x1b\x2c\x3d"
RECEIPTS: dict[str, Any] = {"delivered_when": "receipt", "receipt_timeout_s": 0.5}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[LocalBroker]:
    async with make_broker("mosquitto", tmp_path / "broker") as made:
        yield made


async def test_without_a_receipt_nothing_is_delivered_and_nothing_sent_again(
    broker: LocalBroker, tmp_path: Path
) -> None:
    silent = Consumer(broker)
    await silent.subscribed.wait()
    gateway = Ingest(tmp_path / "state", broker_settings(broker), **RECEIPTS)
    gateway.open_stream(PUMP, "pump-1")
    gateway.add(PUMP, 1, 50)
    await until(lambda: silent.through(PUMP) == 50, "all at the consumer")
    await asyncio.sleep(1.5)  # three timeouts
    assert gateway.account_of(PUMP) == 0
    assert gateway.metrics.consumer == "no_consumer"
    assert len(silent.of("data")) == 50
    assert gateway.log.cursor.resume_lsn <= 3
    await gateway.stop()
    await silent.stop()


async def test_a_consumer_that_vanishes_gets_the_rest_with_the_flag_when_it_is_back(
    broker: LocalBroker, tmp_path: Path
) -> None:
    consumer = Consumer(broker, receipts=True)
    await consumer.subscribed.wait()
    gateway = Ingest(tmp_path / "state", broker_settings(broker), **RECEIPTS)
    gateway.open_stream(PUMP, "pump-1")
    gateway.add(PUMP, 1, 100)
    gateway.append(Lost(PUMP, 101, 110, 1, False, False, 1_700_000_000_000, 0))
    await gateway.delivered(PUMP, 110)
    assert gateway.metrics.consumer == "heard"
    await consumer.stop()
    gateway.add(PUMP, 111, 300)
    await until(lambda: gateway.metrics.acknowledged >= 291, "the broker has it")
    assert gateway.account_of(PUMP) == 110
    back = Consumer(broker, receipts=True)
    back.messages = consumer.messages  # its store
    await gateway.delivered(PUMP, 300)
    assert gateway.metrics.resends >= 1
    await gateway.stop()
    await back.stop()
    data = back.of("data", PUMP)
    assert {m["seq"] for m in data} == {*range(1, 101), *range(111, 301)}
    assert unflagged_repeats(data) == []


async def test_the_unreceipted_window_is_bounded(broker: LocalBroker, tmp_path: Path) -> None:
    silent = Consumer(broker)
    await silent.subscribed.wait()
    gateway = Ingest(
        tmp_path / "state", broker_settings(broker), receipt_window=40, window=10, **RECEIPTS
    )
    gateway.open_stream(PUMP, "pump-1")
    gateway.add(PUMP, 1, 500)
    await until(lambda: len(silent.of("data")) == 40, "a window of them")
    await asyncio.sleep(0.3)  # time enough to send what must not be sent
    assert len(silent.of("data")) == 40
    silent.give_receipts = True
    silent.messages.append(("x/nothing", {}))
    await _receipt(broker, "pump-1", PUMP, 40)
    await gateway.delivered(PUMP, 500)
    await gateway.stop()
    await silent.stop()


@pytest.mark.parametrize(
    ("device", "stream", "through", "why"),
    [
        ("pump-1", PUMP, 21, "beyond-sent"),
        ("pump-1", b"none", 5, "stranger"),
        ("pump-2", PUMP, 5, "stranger"),
        ("pump-1", PUMP, -1, "malformed"),
        ("pump-1", PUMP, "5", "malformed"),
        ("pump-1", PUMP, True, "malformed"),
        ("pump-1", PUMP, 9, "backwards"),
    ],
)
async def test_a_receipt_that_cannot_be_true_is_refused_and_counted(
    broker: LocalBroker, tmp_path: Path, device: str, stream: bytes, through: Any, why: str
) -> None:
    silent = Consumer(broker)
    await silent.subscribed.wait()
    gateway = Ingest(tmp_path / "state", broker_settings(broker), **RECEIPTS)
    gateway.open_stream(PUMP, "pump-1")
    gateway.add(PUMP, 1, 20)
    await until(lambda: silent.through(PUMP) == 20, "all at the consumer")
    await _receipt(broker, "pump-1", PUMP, 10)
    await gateway.delivered(PUMP, 10)
    await _receipt(broker, device, stream, through)
    await until(lambda: gateway.metrics.receipts_refused[why] == 1, f"refused as {why}")
    assert gateway.account_of(PUMP) == 10
    await gateway.stop()
    await silent.stop()


async def test_what_was_receipted_while_the_gateway_was_down_is_not_sent_again(
    broker: LocalBroker, tmp_path: Path
) -> None:
    silent = Consumer(broker)
    await silent.subscribed.wait()
    first = Ingest(tmp_path / "state", broker_settings(broker), **RECEIPTS)
    first.open_stream(PUMP, "pump-1")
    first.add(PUMP, 1, 30)
    await until(lambda: silent.through(PUMP) == 30, "all at the consumer")
    await first.stop()
    await _receipt(broker, "pump-1", PUMP, 20)
    second = Ingest(tmp_path / "state", broker_settings(broker), **RECEIPTS)
    await second.delivered(PUMP, 20)
    second.add(PUMP, 31, 31)
    await until(lambda: silent.through(PUMP) == 31, "the new one at the consumer")
    again = [m for m in silent.of("data", PUMP) if m["tx"].startswith("2-")]
    # The receipt is retained and comes at once, but not before all of them may have left.
    assert {m["seq"] for m in again} >= set(range(21, 32))
    assert [m["seq"] for m in again if not m["redelivery"]] == [31]
    await second.stop()
    await silent.stop()


async def _receipt(broker: LocalBroker, device: str, stream: bytes, through: Any) -> None:
    receipt = {"device": device, "stream": stream.hex(), "through": through}
    async with client(broker) as peer:
        topic = f"gapless/{GATEWAY}/receipt/{device}"
        await peer.publish(topic, json.dumps(receipt), qos=1, retain=True)
