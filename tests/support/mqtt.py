"""Small helpers around aiomqtt and local brokers for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiomqtt

from gapless_tools.local_brokers import EmbeddedBroker, LocalBroker, MosquittoBroker
from tests.support.requirements import require_module, require_program

BROKER_KINDS = ("embedded", "mosquitto")
DEADLINE_S = 30.0


def make_broker(kind: str, directory: Path, **options: object) -> LocalBroker:
    """Return a broker of that kind, not started; skips the test where it is not installed."""
    if kind == "embedded":
        require_module("iotcore")
        return EmbeddedBroker(directory, **options)  # type: ignore[arg-type]
    require_program("mosquitto")
    return MosquittoBroker(directory, **options)  # type: ignore[arg-type]


def client(broker: LocalBroker, *, v311: bool = False, **options: object) -> aiomqtt.Client:
    """Return an aiomqtt client of a local broker: TLS, MQTT 5 unless said otherwise."""
    version = aiomqtt.ProtocolVersion.V311 if v311 else aiomqtt.ProtocolVersion.V5
    made = aiomqtt.Client(
        broker.host,
        broker.port_v311 if v311 else broker.port,
        tls_params=aiomqtt.TLSParameters(ca_certs=str(broker.ca_file)),
        protocol=version,
        **{"timeout": DEADLINE_S, **options},  # type: ignore[arg-type]
    )
    made.pending_calls_threshold = 1_000_000
    return made


async def take(subscriber: aiomqtt.Client, count: int) -> list[aiomqtt.Message]:
    """Return the next `count` messages; TimeoutError after a generous deadline."""
    taken: list[aiomqtt.Message] = []
    async with asyncio.timeout(DEADLINE_S):
        async for message in subscriber.messages:
            taken.append(message)
            if len(taken) == count:
                break
    return taken


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition is true; fails with `what` after a generous deadline."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"never came true: {what}") from None
