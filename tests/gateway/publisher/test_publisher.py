"""The publisher between a real log and real brokers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gapless_gateway.wal.entries import Elsewhere, Lost, Outage, Progress
from gapless_gateway.wal.errors import WalDamaged, WalFailed
from gapless_gateway.wal.reader import Entry as Found
from gapless_gateway.wal.reader import read_directory
from gapless_tools.local_brokers import LocalBroker
from tests.support.mqtt import BROKER_KINDS, make_broker, until
from tests.support.publishing import Consumer, Ingest, broker_settings, unflagged_repeats

PUMP = b"\x0a\x1b\x2c\x3d"
OVEN = b"\x00\x00\x00\x02"


@pytest.fixture(params=BROKER_KINDS)
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LocalBroker]:
    async with make_broker(str(request.param), tmp_path / "broker") as made:
        yield made


@pytest.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[LocalBroker]:
    async with make_broker("mosquitto", tmp_path / "broker") as made:
        yield made


def outage_entries(state_dir: Path) -> list[Outage]:
    return [
        item.entry
        for item in read_directory(state_dir)
        if isinstance(item, Found) and isinstance(item.entry, Outage)
    ]


async def test_everything_arrives_once_and_in_order(broker: LocalBroker, tmp_path: Path) -> None:
    consumer = Consumer(broker)
    await consumer.subscribed.wait()
    gateway = Ingest(tmp_path / "state", broker_settings(broker))
    gateway.open_stream(PUMP, "pump-1")
    gateway.open_stream(OVEN, "oven")
    for first in range(1, 1001, 50):
        gateway.add(PUMP, first, first + 49)
        gateway.add(OVEN, first, first + 49)
        await asyncio.sleep(0)
    await gateway.delivered(PUMP, 1000)
    await gateway.delivered(OVEN, 1000)
    await until(lambda: len(consumer.of("data")) >= 2000, "all at the consumer")
    await gateway.stop()
    await consumer.stop()
    for stream in (PUMP, OVEN):
        messages = consumer.of("data", stream)
        assert [message["seq"] for message in messages] == list(range(1, 1001))
        assert not any(m["redelivery"] or m["replay"] or m["outage"] for m in messages)
    numbers = [int(message["tx"].split("-")[1]) for message in consumer.of("data")]
    assert numbers == sorted(set(numbers))


async def test_a_killed_broker_loses_nothing_and_repeats_only_with_the_flag(
    broker: LocalBroker, tmp_path: Path
) -> None:
    consumer = Consumer(broker, receipts=True)
    await consumer.subscribed.wait()
    # By receipt: what a killed broker had acknowledged and not passed on is not ours to lose.
    gateway = Ingest(
        tmp_path / "state", broker_settings(broker), delivered_when="receipt", receipt_timeout_s=1.0
    )
    gateway.open_stream(PUMP, "pump-1")
    gateway.add(PUMP, 1, 500)
    await gateway.delivered(PUMP, 100)
    gateway.add(PUMP, 501, 1500)
    broker.kill()
    await until(lambda: gateway.publisher.outages.current_id == 1, "the outage began")
    gateway.add(PUMP, 1501, 2500)
    assert gateway.metrics.state == "offline"
    await broker.start()
    await gateway.delivered(PUMP, 2500)
    await until(lambda: gateway.metrics.state == "live", "live again")
    gateway.add(PUMP, 2501, 2510)
    await gateway.delivered(PUMP, 2510)
    await gateway.stop()
    await consumer.stop()
    messages = consumer.of("data", PUMP)
    assert sorted({message["seq"] for message in messages}) == list(range(1, 2511))
    assert unflagged_repeats(messages) == []
    by_seq = {message["seq"]: message for message in messages}
    assert {by_seq[seq]["outage"] for seq in range(1501, 2501)} == {1}
    assert all(by_seq[seq]["replay"] for seq in range(1501, 2501))
    assert not any(by_seq[seq]["replay"] for seq in (1, 500, 2501, 2510))
    began, ended = outage_entries(tmp_path / "state")
    assert (began.id, began.began, ended.id, ended.began) == (1, True, 1, False)
    assert began.cause
    assert began.pending > 0
    assert ended.pending == 0


async def test_a_loss_during_the_drain_extends_the_outage(
    mosquitto: LocalBroker, tmp_path: Path
) -> None:
    gateway = Ingest(tmp_path / "state", broker_settings(mosquitto), window=1)
    gateway.open_stream(PUMP, "pump-1")
    await until(lambda: gateway.metrics.state == "live", "live")
    mosquitto.kill()
    await until(lambda: gateway.publisher.outages.current_id == 1, "away")
    gateway.add(PUMP, 1, 5000)
    await mosquitto.start()
    await until(lambda: gateway.metrics.state == "draining", "draining")
    assert gateway.publisher.outages.current_id == 0
    assert gateway.publisher.outages.open_id == 1
    mosquitto.kill()
    await until(lambda: gateway.publisher.outages.current_id == 1, "away again, the same outage")
    assert gateway.account_of(PUMP) < 5000, "killed too late to prove anything"
    await mosquitto.start()
    await gateway.delivered(PUMP, 5000)
    await until(lambda: gateway.metrics.state == "live", "live")
    await gateway.stop()
    assert [(o.id, o.began) for o in outage_entries(tmp_path / "state")] == [(1, True), (1, False)]


async def test_no_broker_at_the_start_is_an_outage_and_a_crash_keeps_it_open(
    mosquitto: LocalBroker, tmp_path: Path
) -> None:
    await mosquitto.stop()
    gateway = Ingest(tmp_path / "state", broker_settings(mosquitto))
    gateway.open_stream(PUMP, "pump-1")
    await until(lambda: gateway.publisher.outages.current_id == 1, "the outage began")
    gateway.add(PUMP, 1, 10)
    await until(lambda: gateway.log.durable_lsn == gateway.log.next_lsn - 1, "durable")
    await gateway.crash()
    again = Ingest(tmp_path / "state", broker_settings(mosquitto))
    assert again.publisher.outages.current_id == 1
    consumer = Consumer(mosquitto)
    await mosquitto.start()
    await consumer.subscribed.wait()
    await again.delivered(PUMP, 10)
    await until(lambda: again.publisher.outages.open_id == 0, "the outage is over")
    await again.stop()
    await consumer.stop()
    assert [(o.id, o.began) for o in outage_entries(tmp_path / "state")] == [(1, True), (1, False)]


async def test_a_crash_flags_exactly_what_may_have_been_sent(
    mosquitto: LocalBroker, tmp_path: Path
) -> None:
    consumer = Consumer(mosquitto)
    await consumer.subscribed.wait()
    # No bookkeeping within the run: the cursor on disk knows of the mark, of no delivery.
    first = Ingest(
        tmp_path / "state", broker_settings(mosquitto), bookkeeping_period_s=3600.0,
        send_mark_block_lsns=64,
    )  # fmt: skip
    first.open_stream(PUMP, "pump-1")
    first.add(PUMP, 1, 100)
    await first.delivered(PUMP, 100)
    await first.crash()
    mark_lsn, end_lsn = first.log.cursor.send_mark_lsn, first.log.durable_lsn
    stored_through = first.log.cursor.delivered_through.get(PUMP, 0)
    second = Ingest(tmp_path / "state", broker_settings(mosquitto))
    second.add(PUMP, 101, 120)
    await second.delivered(PUMP, 120)
    await until(lambda: consumer.through(PUMP) == 120, "all at the consumer")
    await second.stop()
    await consumer.stop()
    again = [m for m in consumer.of("data", PUMP) if m["tx"].startswith("2-")]
    assert [m["seq"] for m in again] == list(range(stored_through + 1, 121))
    # Entry 1 is the Run, entry 2 the Session: seq n stands at LSN n + 2 in the first run.
    flagged = min(mark_lsn, end_lsn) - 2
    assert flagged >= 100
    assert [m["seq"] for m in again if m["redelivery"]] == list(range(stored_through + 1, 101))
    assert unflagged_repeats(consumer.of("data", PUMP)) == []


async def test_a_clean_stop_leaves_nothing_to_flag(mosquitto: LocalBroker, tmp_path: Path) -> None:
    consumer = Consumer(mosquitto)
    await consumer.subscribed.wait()
    # No bookkeeping within the run: what the stop itself stores is all there is.
    first = Ingest(tmp_path / "state", broker_settings(mosquitto), bookkeeping_period_s=3600.0)
    first.open_stream(PUMP, "pump-1")
    first.add(PUMP, 1, 50)
    await first.delivered(PUMP, 50)
    await first.stop()
    second = Ingest(tmp_path / "state", broker_settings(mosquitto))
    second.add(PUMP, 51, 60)
    await second.delivered(PUMP, 60)
    await until(lambda: consumer.through(PUMP) == 60, "all at the consumer")
    await second.stop()
    await consumer.stop()
    messages = consumer.of("data", PUMP)
    assert [m["seq"] for m in messages] == list(range(1, 61))
    assert not any(m["redelivery"] for m in messages)


async def test_nothing_beyond_the_stored_send_mark_leaves(
    mosquitto: LocalBroker, tmp_path: Path
) -> None:
    consumer = Consumer(mosquitto)
    await consumer.subscribed.wait()
    gateway = Ingest(
        tmp_path / "state", broker_settings(mosquitto), send_mark_block_lsns=16, window=1000
    )
    stored: list[int] = []
    store = gateway.log.cursor.store
    gate = asyncio.Event()

    def slow_store() -> None:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
        store()
        stored.append(gateway.log.cursor.send_mark_lsn)

    loop = asyncio.get_running_loop()
    gateway.log.cursor.store = slow_store  # type: ignore[method-assign]
    mark_before = gateway.log.cursor.send_mark_lsn
    gateway.open_stream(PUMP, "pump-1")
    gateway.add(PUMP, 1, 200)
    await until(lambda: gateway.log.durable_lsn >= 200, "durable")
    await asyncio.sleep(0.3)  # time enough to send what must not be sent
    assert gateway.publisher._delivery.sent_lsn <= mark_before
    gate.set()
    await gateway.delivered(PUMP, 200)
    assert gateway.publisher._delivery.sent_lsn <= max(stored)
    await gateway.stop()
    await consumer.stop()


async def test_lost_and_elsewhere_are_announced_in_their_place(
    mosquitto: LocalBroker, tmp_path: Path
) -> None:
    consumer = Consumer(mosquitto)
    await consumer.subscribed.wait()
    gateway = Ingest(tmp_path / "state", broker_settings(mosquitto))
    gateway.open_stream(PUMP, "pump-1")
    gateway.add(PUMP, 1, 3)
    gateway.append(Lost(PUMP, 4, 6, 1, False, False, 1_700_000_000_000, 0))
    gateway.add(PUMP, 7, 9)
    gateway.append(Elsewhere(PUMP, 11, 12, b"12345678"))
    gateway.add(PUMP, 10, 10)
    gateway.add(PUMP, 13, 14)
    await gateway.delivered(PUMP, 14)
    await until(lambda: consumer.through(PUMP) == 14, "all at the consumer")
    await gateway.stop()
    await consumer.stop()
    assert [m["seq"] for m in consumer.of("data", PUMP)] == [1, 2, 3, 7, 8, 9, 10, 13, 14]
    lost, elsewhere = consumer.of("lost", PUMP)
    assert (lost["first"], lost["last"], lost["reason"], lost["at_most"]) == (
        4,
        6,
        "overflow",
        False,
    )
    assert (elsewhere["reason"], elsewhere["log_id"]) == ("elsewhere", b"12345678".hex())
    order = [m.get("seq", m.get("first")) for t, m in consumer.messages if not t.endswith("status")]
    assert order == [1, 2, 3, 4, 7, 8, 9, 11, 10, 13, 14]


async def test_the_status_is_retained_names_each_stream_before_its_data_and_has_a_will(
    broker: LocalBroker, tmp_path: Path
) -> None:
    consumer = Consumer(broker)
    await consumer.subscribed.wait()
    gateway = Ingest(tmp_path / "state", broker_settings(broker))
    await until(lambda: len(consumer.of("status")) == 1, "online")
    gateway.open_stream(PUMP, "pump-1", base=7)
    gateway.add(PUMP, 8, 8)
    await until(lambda: len(consumer.of("data")) == 1, "data")
    kinds = [topic.rsplit("/", 1)[-1] for topic, _ in consumer.messages]
    assert kinds == ["status", "status", "data"]
    empty, online = consumer.of("status")
    assert empty["streams"] == []
    assert online["streams"] == [{"device": "pump-1", "stream": PUMP.hex(), "base": 7}]
    assert (online["state"], online["run"], online["delivered_when"]) == ("online", 1, "puback")
    assert online["log_id"] == gateway.log.log_id.hex()
    await gateway.crash()
    await until(lambda: len(consumer.of("status")) == 3, "the will")
    assert consumer.of("status")[-1]["state"] == "offline"
    late = Consumer(broker)
    await until(lambda: late.of("status"), "the retained status")
    assert late.of("status")[0]["state"] == "offline"
    again = Ingest(tmp_path / "state", broker_settings(broker))
    await until(lambda: consumer.of("status")[-1]["state"] == "online", "online again")
    await again.stop()
    await until(lambda: consumer.of("status")[-1]["state"] == "offline", "offline in order")
    assert consumer.of("status")[-1]["since"] is not None
    await late.stop()
    await consumer.stop()


async def test_a_backlog_of_segments_is_freed_and_memory_stays_bounded(
    mosquitto: LocalBroker, tmp_path: Path
) -> None:
    await mosquitto.stop()
    gateway = Ingest(
        tmp_path / "state", broker_settings(mosquitto), window=20, segment_bytes_max=65536
    )
    gateway.open_stream(PUMP, "pump-1")
    for first in range(1, 8001, 400):
        gateway.add(PUMP, first, first + 399)
        await until(lambda: gateway.log.durable_lsn == gateway.log.next_lsn - 1, "durable")
    segments = len(list((tmp_path / "state" / "wal").glob("*.wal")))
    assert segments > 3
    await mosquitto.start()
    held_max = 0
    while gateway.account_of(PUMP) < 8000:
        held_max = max(held_max, gateway.metrics.undelivered, gateway.metrics.in_flight)
        await asyncio.sleep(0.01)
    await until(
        lambda: len(list((tmp_path / "state" / "wal").glob("*.wal"))) < segments, "segments freed"
    )
    assert held_max <= 4 * 20
    await gateway.stop()


async def test_progress_is_written_while_something_changes_and_not_after(
    mosquitto: LocalBroker, tmp_path: Path
) -> None:
    gateway = Ingest(tmp_path / "state", broker_settings(mosquitto), bookkeeping_period_s=0.05)
    gateway.open_stream(PUMP, "pump-1")
    gateway.add(PUMP, 1, 20)
    await gateway.delivered(PUMP, 20)
    await until(lambda: gateway.log.account.streams[PUMP].logged.delivered_through == 20, "logged")
    await asyncio.sleep(0.3)
    lsn = gateway.log.next_lsn
    await asyncio.sleep(0.5)
    assert gateway.log.next_lsn == lsn
    await gateway.stop()
    entries = [i.entry for i in read_directory(tmp_path / "state") if isinstance(i, Found)]
    progress = [entry for entry in entries if isinstance(entry, Progress)]
    assert sum(count for one in progress for _, count in one.delivered_histogram) == 20
    assert gateway.log.account.order_violations == 0, gateway.log.account.findings


async def test_a_stop_while_the_broker_is_away_keeps_the_backlog_for_the_next_run(
    mosquitto: LocalBroker, tmp_path: Path
) -> None:
    await mosquitto.stop()
    first = Ingest(tmp_path / "state", broker_settings(mosquitto))
    first.open_stream(PUMP, "pump-1")
    await until(lambda: first.publisher.outages.current_id == 1, "the outage began")
    first.add(PUMP, 1, 30)
    await until(lambda: first.log.durable_lsn == first.log.next_lsn - 1, "durable")
    await first.stop()
    second = Ingest(tmp_path / "state", broker_settings(mosquitto))
    consumer = Consumer(mosquitto)
    await mosquitto.start()
    await second.delivered(PUMP, 30)
    await until(lambda: second.metrics.state == "live", "live")
    await second.stop()
    await consumer.stop()
    assert [(o.id, o.began) for o in outage_entries(tmp_path / "state")] == [(1, True), (1, False)]


async def test_a_log_that_fails_ends_the_publisher_with_its_own_error(
    mosquitto: LocalBroker, tmp_path: Path
) -> None:
    gateway = Ingest(tmp_path / "state", broker_settings(mosquitto))
    await until(lambda: gateway.metrics.state == "live", "live")

    def fail(*_: object) -> None:
        raise WalDamaged("the log cannot be read")

    gateway.log.read = fail  # type: ignore[method-assign, assignment]
    gateway.open_stream(PUMP, "pump-1")
    with pytest.raises(WalDamaged, match="cannot be read"):
        async with asyncio.timeout(30):
            await gateway._running
    await gateway.crash()


async def test_a_cursor_that_cannot_be_stored_ends_the_publisher_with_its_own_error(
    mosquitto: LocalBroker, tmp_path: Path
) -> None:
    gateway = Ingest(tmp_path / "state", broker_settings(mosquitto))
    await until(lambda: gateway.metrics.state == "live", "live")

    def fail() -> None:
        raise WalFailed("the cursor cannot be stored")

    gateway.log.cursor.store = fail  # type: ignore[method-assign]
    gateway.open_stream(PUMP, "pump-1")
    with pytest.raises(WalFailed, match="cannot be stored"):
        async with asyncio.timeout(30):
            await gateway._running
    await gateway.crash()


async def test_the_aiomqtt_adapter_drains_the_same(broker: LocalBroker, tmp_path: Path) -> None:
    consumer = Consumer(broker)
    await consumer.subscribed.wait()
    gateway = Ingest(tmp_path / "state", broker_settings(broker, adapter="aiomqtt"))
    gateway.open_stream(PUMP, "pump-1")
    gateway.add(PUMP, 1, 300)
    await gateway.delivered(PUMP, 300)
    await until(lambda: consumer.through(PUMP) == 300, "all at the consumer")
    broker.kill()
    await until(lambda: gateway.publisher.outages.current_id == 1, "the outage began")
    gateway.add(PUMP, 301, 600)
    await broker.start()
    await gateway.delivered(PUMP, 600)
    await gateway.stop()
    await consumer.stop()
    assert unflagged_repeats(consumer.of("data", PUMP)) == []
