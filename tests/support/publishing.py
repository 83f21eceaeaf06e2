"""A gateway without ports: a real log, a committer, a publisher, and boards that write themselves.

`Ingest` stands in for sessions and daemon: it appends entries as they would, commits in a worker
thread, and tells the publisher. `Consumer` is an independent peer (aiomqtt) that keeps every
message it was sent, through every outage, and can give receipts.
"""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiomqtt
import cbor2

from gapless_gateway.brokers.settings import BrokerSettings, TlsSettings
from gapless_gateway.publisher.metrics import PublisherMetrics
from gapless_gateway.publisher.publisher import Publisher, utc_ms
from gapless_gateway.publisher.settings import PublisherSettings
from gapless_gateway.wal.entries import Entry, Record, Run, Session, Stopped
from gapless_gateway.wal.log import Log
from gapless_tools.local_brokers import LocalBroker
from tests.support.mqtt import client, until

GATEWAY = "hall-3"
RECONNECT_S = 0.1
# aiomqtt waits so long for the PUBACK of a connection that died meanwhile, before it says so; it
# has to be well below the tests' deadline.
NOTICED_S = 3.0
RECEIPT_EVERY = 200  # messages, and whenever nothing waits
NO_DELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Ingest:
    """One run of a gateway on a state directory."""

    def __init__(
        self,
        state_dir: Path,
        broker: BrokerSettings,
        *,
        segment_bytes_max: int = 16 << 20,
        **changes: Any,
    ) -> None:
        self.log = Log.open(state_dir, segment_bytes_max=segment_bytes_max)
        self.metrics = PublisherMetrics()
        self._wanted = asyncio.Event()
        self._append(
            Run(
                utc_ms(), self.log.account.run + 1, GATEWAY, "0", "test", self.log.log_id,
                self.log.recovered.previous_clean, 0, "",
            )
        )  # fmt: skip
        self.log.commit()
        self.log.apply_committed()
        settings: dict[str, Any] = {"bookkeeping_period_s": 0.1, "refused_retry_cap_s": 0.3}
        self.publisher = Publisher(
            self.log,
            self._append,
            broker,
            PublisherSettings(gateway=GATEWAY, **(settings | changes)),
            self.metrics,
            run=self.log.account.run,
        )
        self._commit: asyncio.Future[int] | None = None
        self._committer = asyncio.create_task(self._commit_on(), name="committer")
        self._running = asyncio.create_task(self.publisher.run(), name="publisher")

    def open_stream(self, stream: bytes, device: str, *, base: int = 0, boot: int = 1) -> None:
        """The session of a board whose next seq is base + 1."""
        self._append(
            Session(
                device, device.encode(), stream, utc_ms(), "port", boot, base + 1, True, (), base,
                self.log.log_id, boot, "firmware", "board", "runtime", base,
            )
        )  # fmt: skip

    def add(self, stream: bytes, first: int, last: int, *, value: object = 1.5) -> None:
        """Records first..last of a stream, each a sample."""
        now = utc_ms()
        for seq in range(first, last + 1):
            data = cbor2.dumps([1, 0, seq, 0, {"value": value}])
            outage = self.publisher.outages.current_id
            self._append(Record(stream, seq, now, now - 2, now, 1, outage, data))

    def append(self, entry: Entry) -> int:
        """Any entry."""
        return self._append(entry)

    async def delivered(self, stream: bytes, through: int) -> None:
        """Wait until the account says so."""
        try:
            await until(
                lambda: self.account_of(stream) >= through or self._running.done(), "delivered"
            )
        except AssertionError:
            facts = f"is {self.account_of(stream)}: {self.metrics}"
            raise AssertionError(f"not delivered through {through}, {facts}") from None
        if self._running.done():
            self._running.result()

    def account_of(self, stream: bytes) -> int:
        """delivered-through; 0 while the stream is not known."""
        known = self.log.account.streams.get(stream)
        return known.delivered_through if known is not None else 0

    async def stop(self) -> None:
        """The clean end of a run."""
        self.publisher.stop()
        await self._running
        self._committer.cancel()
        with suppress(asyncio.CancelledError):
            await self._committer
        if self._commit is not None:
            await self._commit  # one at a time: it goes on in its thread
        self.log.append(Stopped(utc_ms(), self.log.account.run))
        self.log.commit()
        self.log.close()

    async def crash(self) -> None:
        """SIGKILL, as far as a task can: nothing is stored any more, no DISCONNECT is sent."""
        connection = self.publisher._connection
        if connection is not None:
            connection.abort("crashed")  # type: ignore[attr-defined]
        for task in (self._running, self._committer):
            task.cancel()
            await asyncio.wait({task})
        self.log.close()

    def _append(self, entry: Entry) -> int:
        lsn = self.log.append(entry)
        self._wanted.set()
        return lsn

    async def _commit_on(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self._commit = asyncio.ensure_future(asyncio.to_thread(self.log.commit))
            await asyncio.shield(self._commit)
            if self.log.apply_committed():
                self.publisher.notify_durable(self.log.durable_lsn)


class Consumer:
    """Keeps all messages below gapless/hall-3; comes back by itself when the broker is away."""

    def __init__(self, broker: LocalBroker, *, receipts: bool = False) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.subscribed = asyncio.Event()
        self.give_receipts = receipts
        self._broker = broker
        self._task = asyncio.create_task(self._listen_on(), name="consumer")

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def of(self, kind: str, stream: bytes | None = None) -> list[dict[str, Any]]:
        """The messages of a kind ("data", "event", "lost", "status"), in order of arrival."""
        return [
            message
            for topic, message in self.messages
            if topic.endswith("/" + kind)
            and (stream is None or message.get("stream") == stream.hex())
        ]

    def first_arrivals(self, stream: bytes) -> list[int]:
        """Seqs in the order in which they first came."""
        return list(dict.fromkeys(message["seq"] for message in self.of("data", stream)))

    def through(self, stream: bytes) -> int:
        """The highest seq up to which everything has come."""
        have = {message["seq"] for message in self.of("data", stream)}
        for message in self.of("lost", stream):
            have |= set(range(message["first"], message["last"] + 1))
        through = 0
        while through + 1 in have:
            through += 1
        return through

    async def _listen_on(self) -> None:
        while True:
            with suppress(aiomqtt.MqttError):
                async with client(
                    self._broker, socket_options=[NO_DELAY], timeout=NOTICED_S
                ) as peer:
                    await peer.subscribe(f"gapless/{GATEWAY}/#", qos=1)
                    self.subscribed.set()
                    await self._send_receipts(peer)
                    async for message in peer.messages:
                        await self._take(peer, message)
            self.subscribed.clear()
            await asyncio.sleep(RECONNECT_S)

    async def _take(self, peer: aiomqtt.Client, message: aiomqtt.Message) -> None:
        topic = str(message.topic)
        if "/receipt/" in topic:
            return
        self.messages.append((topic, json.loads(message.payload)))  # type: ignore[arg-type]
        if len(peer.messages) == 0 or len(self.messages) % RECEIPT_EVERY == 0:
            await self._send_receipts(peer)

    async def _send_receipts(self, peer: aiomqtt.Client) -> None:
        if not self.give_receipts:
            return
        for device, stream in {
            (m["device"], m["stream"]) for _, m in self.messages if "stream" in m
        }:
            receipt = {
                "device": device,
                "stream": stream,
                "through": self.through(bytes.fromhex(stream)),
            }
            topic = f"gapless/{GATEWAY}/receipt/{device}"
            await peer.publish(topic, json.dumps(receipt), qos=1, retain=True)


def unflagged_repeats(messages: list[dict[str, Any]]) -> list[int]:
    """Seqs that came again in another transmission of ours which did not carry the flag."""
    seen: dict[int, set[str]] = {}
    wrong = []
    for message in messages:
        known = seen.setdefault(message["seq"], set())
        if known and message["tx"] not in known and not message["redelivery"]:
            wrong.append(message["seq"])
        known.add(message["tx"])
    return wrong


def broker_settings(broker: LocalBroker, **changes: Any) -> BrokerSettings:
    values: dict[str, Any] = {
        "host": broker.host,
        "port": broker.port,
        "client_id": "gapless-hall-3",
        "tls": TlsSettings(ca_file=broker.ca_file),
    }
    return BrokerSettings(**(values | changes))
