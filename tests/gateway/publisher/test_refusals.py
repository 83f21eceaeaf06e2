"""What becomes of messages that the broker refuses, for good or for now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mqtt5

from gapless_gateway.wal.entries import Quarantined, Record
from gapless_gateway.wal.reader import Entry as Found
from gapless_gateway.wal.reader import read_directory
from tests.support.mqtt import until
from tests.support.publishing import Ingest, unflagged_repeats
from tests.support.scripted_broker import Code, ScriptedBroker

PUMP = b"\x0a\x1b\x2c\x3d"


def messages(broker: ScriptedBroker, kind: str) -> list[dict[str, Any]]:
    return [json.loads(p.payload) for p in broker.published if p.topic.endswith("/" + kind)]


def refuse_seq(seq: int, code: Code) -> Any:
    def answer(packet: mqtt5.PublishPacket) -> Code:
        if packet.topic.endswith("/data") and json.loads(packet.payload)["seq"] == seq:
            return code
        return Code.SUCCESS

    return answer


async def test_what_is_refused_for_good_is_quarantined_announced_and_stalls_nobody(
    tmp_path: Path,
) -> None:
    async with ScriptedBroker() as broker:
        broker.answer = refuse_seq(5, Code.PAYLOAD_FORMAT_INVALID)
        gateway = Ingest(tmp_path / "state", broker.settings())
        gateway.open_stream(PUMP, "pump-1")
        gateway.add(PUMP, 1, 20)
        await gateway.delivered(PUMP, 20)
        stream = gateway.log.account.streams[PUMP]
        assert list(stream.quarantined) == [(5, 5)]
        assert (stream.balance().delivered, stream.balance().quarantined) == (19, 1)
        assert gateway.log.account.order_violations == 0, stream.findings
        assert gateway.metrics.refused_for_good == 1
        await gateway.stop()
    [announced] = messages(broker, "lost")
    assert (announced["first"], announced["last"], announced["reason"]) == (5, 5, "quarantined")
    assert [m["seq"] for m in messages(broker, "data")] == list(range(1, 21))
    [entry] = [
        item.entry
        for item in read_directory(tmp_path / "state")
        if isinstance(item, Found) and isinstance(item.entry, Quarantined)
    ]
    assert entry.seq == 5
    assert "format" in entry.reason


async def test_a_quarantined_record_is_announced_and_not_sent_again_after_a_crash(
    tmp_path: Path,
) -> None:
    async with ScriptedBroker() as broker:
        broker.answer = lambda p: (
            None if p.topic.endswith("/lost") else refuse_seq(2, Code.TOPIC_NAME_INVALID)(p)
        )
        first = Ingest(tmp_path / "state", broker.settings())
        first.open_stream(PUMP, "pump-1")
        first.add(PUMP, 1, 3)
        await until(lambda: messages(broker, "lost"), "the announcement left")
        assert first.account_of(PUMP) == 1
        await first.crash()
        broker.answer = lambda _: Code.SUCCESS
        second = Ingest(tmp_path / "state", broker.settings())
        await second.delivered(PUMP, 3)
        assert second.log.account.order_violations == 0
        await second.stop()
    assert [m["seq"] for m in messages(broker, "data") if m["tx"].startswith("2-")] in ([1, 3], [3])
    announcements = messages(broker, "lost")
    assert [(m["first"], m["redelivery"]) for m in announcements] == [(2, False), (2, True)]


async def test_bytes_that_are_no_record_are_quarantined(tmp_path: Path) -> None:
    async with ScriptedBroker() as broker:
        gateway = Ingest(tmp_path / "state", broker.settings())
        gateway.open_stream(PUMP, "pump-1")
        gateway.add(PUMP, 1, 1)
        gateway.append(Record(PUMP, 2, 5, 5, 5, 1, 0, b"\xff\xff"))
        gateway.add(PUMP, 3, 3)
        await gateway.delivered(PUMP, 3)
        assert list(gateway.log.account.streams[PUMP].quarantined) == [(2, 2)]
        await gateway.stop()
    assert [m["first"] for m in messages(broker, "lost")] == [2]


async def test_what_is_refused_for_now_keeps_the_order_and_is_sent_again_with_the_flag(
    tmp_path: Path,
) -> None:
    async with ScriptedBroker() as broker:
        broker.answer = refuse_seq(6, Code.QUOTA_EXCEEDED)
        gateway = Ingest(tmp_path / "state", broker.settings(), window=4)
        gateway.open_stream(PUMP, "pump-1")
        gateway.add(PUMP, 1, 12)
        await until(lambda: gateway.metrics.refused_for_now >= 2, "refused, and refused again")
        assert gateway.account_of(PUMP) == 5
        assert gateway.publisher.outages.open_id == 1
        assert "quota exceeded" in gateway.metrics.last_error or gateway.metrics.connects > 1
        broker.answer = lambda _: Code.SUCCESS
        await gateway.delivered(PUMP, 12)
        await until(lambda: gateway.publisher.outages.open_id == 0, "the outage is over")
        assert gateway.metrics.refused_for_good == 0
        await gateway.stop()
    data = messages(broker, "data")
    assert sorted({m["seq"] for m in data}) == list(range(1, 13))
    assert unflagged_repeats(data) == []
    assert list(dict.fromkeys(m["seq"] for m in data)) == list(range(1, 13))


async def test_a_puback_out_of_order_moves_delivered_through_only_without_a_hole(
    tmp_path: Path,
) -> None:
    async with ScriptedBroker() as broker:
        broker.answer = lambda p: None if p.topic.endswith("/data") else Code.SUCCESS
        gateway = Ingest(tmp_path / "state", broker.settings())
        gateway.open_stream(PUMP, "pump-1")
        gateway.add(PUMP, 1, 4)
        await until(lambda: len(messages(broker, "data")) == 4, "all sent")
        data = [packet for packet in broker.published if packet.topic.endswith("/data")]
        for index, through in ((1, 0), (3, 0), (0, 2), (2, 4)):
            acknowledged = gateway.metrics.acknowledged
            broker.acknowledge(data[index])
            await until(lambda: gateway.metrics.acknowledged > acknowledged, "heard")  # noqa: B023
            assert gateway.account_of(PUMP) == through
        await gateway.stop()


async def test_the_window_is_the_smaller_of_ours_and_the_brokers(tmp_path: Path) -> None:
    async with ScriptedBroker(receive_max=7) as broker:
        broker.answer = lambda p: None if p.topic.endswith("/data") else Code.SUCCESS
        gateway = Ingest(tmp_path / "state", broker.settings(), window=50, stop_timeout_s=0.1)
        gateway.open_stream(PUMP, "pump-1")
        gateway.add(PUMP, 1, 100)
        await until(lambda: len(messages(broker, "data")) == 7, "a window")
        await until(lambda: gateway.metrics.in_flight == 7, "in flight")
        assert len(messages(broker, "data")) == 7
        await gateway.stop()
