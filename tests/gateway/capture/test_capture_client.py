"""The capture against real brokers: when it receipts, and what it survives."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gapless_gateway.errors import UserError
from gapless_tools.capture_broker import BrokerOptions
from gapless_tools.capture_client import Capture
from gapless_tools.capture_messages import CapturedRecord, parse_line
from gapless_tools.capture_progress import CaptureProgress
from gapless_tools.local_brokers import LocalBroker
from tests.support.mqtt import BROKER_KINDS, client, make_broker, take, until
from tests.support.published import (
    DEVICE,
    GATEWAY,
    STATUS_TOPIC,
    STREAM,
    lost,
    record,
    status,
    topic,
)

RECEIPTS = f"gapless/{GATEWAY}/receipt/+"


class MemoryStore:
    """A store whose disk can be held up, or fail."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.disk_is_free = threading.Event()
        self.disk_is_free.set()
        self.waiting = threading.Event()
        self.fault: UserError | None = None

    def append(self, lines: list[bytes]) -> None:
        self.waiting.set()
        self.disk_is_free.wait()
        if self.fault:
            raise self.fault
        self.lines += lines

    @property
    def seqs(self) -> list[int]:
        items = [parse_line(0, line) for line in self.lines]
        return [item.seq for item in items if isinstance(item, CapturedRecord)]


@pytest.fixture(params=BROKER_KINDS)
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LocalBroker]:
    async with make_broker(request.param, tmp_path / "broker") as started:
        yield started


@asynccontextmanager
async def running(
    broker: LocalBroker, store: MemoryStore, progress: CaptureProgress | None = None
) -> AsyncIterator[Capture]:
    """A capture that is connected; stopped in order at the end."""
    options = BrokerOptions(broker.host, broker.port, ca_file=broker.ca_file)
    capture = Capture(
        GATEWAY, options, store, progress or CaptureProgress(),
        jitter=random.random, tell=lambda sentence: None,
    )  # fmt: skip
    stop = asyncio.Event()
    task = asyncio.create_task(capture.run(stop))
    try:
        await until(lambda: capture.connected or task.done(), "the capture is connected")
        yield capture
    finally:
        store.disk_is_free.set()
        stop.set()
        await task


def through(payload: object) -> int:
    assert isinstance(payload, bytes)
    fields = json.loads(payload)
    assert (fields["device"], fields["stream"]) == (DEVICE, STREAM.hex())
    return fields["through"]


async def test_no_receipt_leaves_before_its_messages_are_synced(broker: LocalBroker) -> None:
    store = MemoryStore()
    async with running(broker, store), client(broker) as peer:
        await peer.subscribe(RECEIPTS, qos=1)
        await peer.publish(STATUS_TOPIC, status(), qos=1, retain=True)
        assert through((await take(peer, 1))[0].payload) == 0
        store.waiting.clear()
        store.disk_is_free.clear()
        for seq in range(1, 6):
            await peer.publish(topic("data"), record(seq), qos=1)
        await until(store.waiting.is_set, "the capture waits for its disk")
        await asyncio.sleep(0.5)  # long enough for a receipt that should not come
        assert len(peer.messages) == 0
        store.disk_is_free.set()
        while through((await take(peer, 1))[0].payload) < 5:
            pass
        assert store.seqs == [1, 2, 3, 4, 5]


async def test_a_gap_is_not_receipted_over_until_it_is_filled(broker: LocalBroker) -> None:
    store = MemoryStore()
    async with running(broker, store) as capture, client(broker) as peer:
        await peer.subscribe(RECEIPTS, qos=1)
        await peer.publish(STATUS_TOPIC, status(), qos=1, retain=True)
        for seq in (1, 2, 4, 5):
            await peer.publish(topic("data"), record(seq), qos=1)
        await until(lambda: len(store.seqs) == 4, "all four are captured")
        await until(lambda: not capture._due, "every receipt is out")
        await peer.publish(topic("lost"), lost(3, 3), qos=1)
        seen = [0]
        while seen[-1] < 5:
            seen.append(through((await take(peer, 1))[0].payload))
        assert set(seen) <= {0, 1, 2, 5}


async def test_receipts_are_published_anew_at_each_connection(broker: LocalBroker) -> None:
    progress = CaptureProgress()
    first = MemoryStore()
    async with running(broker, first, progress), client(broker) as peer:
        await peer.publish(STATUS_TOPIC, status(), qos=1, retain=True)
        await peer.publish(topic("data"), record(1), qos=1)
        await until(lambda: progress.receipt(STREAM) == (DEVICE, 1) if first.seqs else False, "one")
    async with client(broker) as peer:
        await peer.publish(f"gapless/{GATEWAY}/receipt/{DEVICE}", b"", qos=1, retain=True)
        await peer.publish(STATUS_TOPIC, b"", qos=1, retain=True)
        await peer.subscribe(RECEIPTS, qos=1)
        async with running(broker, MemoryStore(), progress):
            message = (await take(peer, 1))[0]
    assert through(message.payload) == 1


async def test_a_retained_receipt_is_there_for_a_gateway_that_comes_later(
    broker: LocalBroker,
) -> None:
    store = MemoryStore()
    async with running(broker, store), client(broker) as peer:
        await peer.publish(STATUS_TOPIC, status(), qos=1, retain=True)
        await peer.publish(topic("data"), record(1), qos=1)
        await until(lambda: store.seqs == [1], "it is captured")
    async with client(broker) as later:
        await later.subscribe(RECEIPTS, qos=1)
        message = (await take(later, 1))[0]
        assert (through(message.payload), message.retain) == (1, True)


async def test_a_broker_that_is_killed_and_comes_back_is_healed(broker: LocalBroker) -> None:
    store = MemoryStore()
    async with running(broker, store) as capture:
        seq = 0
        for outage in range(3):
            async with client(broker) as peer:
                await peer.subscribe(RECEIPTS, qos=1)
                await peer.publish(STATUS_TOPIC, status(), qos=1, retain=True)
                for _ in range(20):
                    seq += 1
                    await peer.publish(topic("data"), record(seq), qos=1)
                while through((await take(peer, 1))[0].payload) < seq:
                    pass
                broker.kill()
            await until(lambda: not capture.connected, "the loss is noticed")
            await broker.start()
            await until(
                lambda count=outage + 2: capture.connected and capture.connections == count,
                "the capture is back",
            )
    assert sorted(set(store.seqs)) == list(range(1, 61))


async def test_stopped_it_keeps_and_receipts_what_it_was_sent(broker: LocalBroker) -> None:
    store = MemoryStore()
    async with client(broker) as peer:
        await peer.publish(STATUS_TOPIC, status(), qos=1, retain=True)
        async with running(broker, store):
            for seq in range(1, 301):
                await peer.publish(topic("data"), record(seq), qos=1)
            await until(lambda: store.seqs, "some are captured")
            sent_to_it = len(store.seqs)
        assert store.seqs == list(range(1, len(store.seqs) + 1))
        assert len(store.seqs) >= sent_to_it
        await peer.subscribe(RECEIPTS, qos=1)
        assert through((await take(peer, 1))[0].payload) == len(store.seqs)


async def test_a_failing_disk_ends_it_without_a_receipt(broker: LocalBroker) -> None:
    store = MemoryStore()
    async with client(broker) as peer:
        await peer.subscribe(RECEIPTS, qos=1)
        with pytest.raises(UserError, match="the disk is gone"):
            async with running(broker, store) as capture:
                await peer.publish(STATUS_TOPIC, status(), qos=1, retain=True)
                assert through((await take(peer, 1))[0].payload) == 0
                store.fault = UserError("the disk is gone")
                await peer.publish(topic("data"), record(1), qos=1)
                await until(lambda: not capture.connected, "the capture has ended")
        assert len(peer.messages) == 0
