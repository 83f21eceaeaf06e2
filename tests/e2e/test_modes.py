"""Real boards, a gateway process and a real broker, with the account read from the outside."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gapless_tools.audit.run import run_audit
from gapless_tools.local_brokers import LocalBroker
from gapless_tools.virtual_board import VirtualBoard, produced_through
from tests.support.gateway_process import GatewayProcess
from tests.support.mqtt import client, make_broker, until
from tests.support.running_gateway import DEADLINE_S

SEQS_BEFORE = 10
SEQS_AFTER = 20


def write_configuration(
    folder: Path, broker: LocalBroker, ports: list[str], **broker_keys: str
) -> Path:
    """A gateway that delivers by PUBACK."""
    keys = "".join(f'{name} = "{value}"\n' for name, value in broker_keys.items())
    tables = "".join(f'[[port]]\npath = "{port}"\n' for port in ports)
    port = broker.port_v311 if broker_keys.get("protocol") == "3.1.1" else broker.port
    path = folder / "gateway.toml"
    path.write_text(
        f'[gateway]\nname = "hall-3"\nstate_dir = "{folder / "state"}"\n{tables}'
        f'[broker]\nhost = "{broker.host}"\nport = {port}\n{keys}'
        f'[broker.tls]\nca_file = "{broker.ca_file}"\n[web]\nport = 0\n'
    )
    return path


async def each_reaches(gateway: GatewayProcess, boards: list[VirtualBoard], count: int) -> None:
    """Wait until `count` seqs of every board are delivered."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            metrics = await gateway.metrics()
            delivered = [
                metrics.value("gapless_seqs", state="delivered", device=board.device)
                for board in boards
            ]
            if min(delivered) >= count:
                return
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("kind", "broker_keys"),
    [
        ("embedded", {"adapter": "mqtt5"}),
        ("mosquitto", {"adapter": "mqtt5"}),
        ("mosquitto", {"adapter": "aiomqtt"}),
        ("mosquitto", {"adapter": "aiomqtt", "protocol": "3.1.1"}),
    ],
)
async def test_by_puback_all_arrives_in_order_over_a_killed_gateway(
    tmp_path: Path, kind: str, broker_keys: dict[str, str]
) -> None:
    boards = [
        VirtualBoard(tmp_path / name, name, period_ms=period_ms, settings={"boot_window_ms": 100})
        for name, period_ms in (("pump-1", 60), ("valve-2", 150))
    ]
    broker = make_broker(kind, tmp_path / "broker")
    messages: list[dict[str, Any]] = []
    async with broker, client(broker) as consumer:
        await consumer.subscribe("gapless/hall-3/+/+", qos=1)
        listening = asyncio.create_task(listen(consumer, messages))
        await asyncio.gather(*(board.start() for board in boards))
        config = write_configuration(tmp_path, broker, [b.port_path for b in boards], **broker_keys)
        gateway = GatewayProcess(config, tmp_path / "state")
        try:
            await gateway.start()
            await each_reaches(gateway, boards, SEQS_BEFORE)
            await gateway.kill()
            await gateway.start()
            await each_reaches(gateway, boards, SEQS_BEFORE + SEQS_AFTER)
            (await gateway.metrics()).assert_balanced()
            assert await gateway.stop() == 0
        finally:
            await gateway.kill()
            for board in boards:
                await board.stop()
        evidence = run_audit([tmp_path / "state"]).evidence
        # What the broker has acknowledged may still be on its way to the consumer.
        await until(lambda: all(have_all(messages, s) for s in evidence["streams"]), "all is there")
        listening.cancel()
    assert evidence["verdict"] == "PASS"
    for stream in evidence["streams"]:
        assert first_arrivals(messages, stream) == list(range(1, stream["delivered_through"] + 1))
        assert stream["unexplained"] == 0
    known = {stream["device"]: stream["known_through"] for stream in evidence["streams"]}
    for board in boards:
        assert 0 < known[board.device] <= produced_through(board.directory)


def first_arrivals(messages: list[dict[str, Any]], stream: dict[str, Any]) -> list[int]:
    """The seqs of a stream, as records or declared lost, in the order in which each came first."""
    seqs: dict[int, None] = {}
    for message in messages:
        if message["stream"] == stream["stream"]:
            first = message.get("first", message.get("seq"))
            seqs |= dict.fromkeys(range(first, message.get("last", first) + 1))
    return list(seqs)


def have_all(messages: list[dict[str, Any]], stream: dict[str, Any]) -> bool:
    return len(first_arrivals(messages, stream)) >= stream["delivered_through"]


async def listen(consumer: Any, messages: list[dict[str, Any]]) -> None:
    async for message in consumer.messages:
        content = json.loads(message.payload)
        if "tx" in content:
            messages.append(content)
