"""The real daemon inside the test's process, with a broker that is not there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from gapless_gateway import config as configuration
from gapless_gateway.daemon import Daemon

DEADLINE_S = 30.0  # generous: reached only by what would never happen


async def eventually(condition: Callable[[], Any], what: str = "") -> None:
    """Wait until the condition holds; fail after a generous deadline."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"never happened: {what or condition}") from None


def closed_tcp_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RunningGateway:
    """Start, look at, stop. The state directory stays, so it can be started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.config_file = folder / "gateway.toml"
        self.daemon: Daemon | None = None
        self._task: asyncio.Task[None] | None = None

    def write_config(self, ports: Iterable[Path], more: str = "") -> None:
        """Write a configuration for these ports."""
        tables = "".join(f'[[port]]\npath = "{path}"\n' for path in ports)
        self.config_file.write_text(
            f'[gateway]\nname = "test"\nstate_dir = "{self.state_dir}"\n{tables}'
            f'[broker]\nhost = "127.0.0.1"\nport = {closed_tcp_port()}\n'
            "[broker.tls]\nenabled = false\n[web]\nport = 0\n" + more,
            encoding="utf-8",
        )

    async def start(self, ports: Iterable[Path], *, disk: Any = None, more: str = "") -> None:
        """Start the daemon and wait until it serves."""
        self.write_config(ports, more)
        daemon = self.daemon = Daemon(configuration.load(self.config_file), disk=disk)
        self._task = asyncio.create_task(daemon.run(), name="gateway under test")
        ready = asyncio.create_task(daemon.ready.wait())
        await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """Stop it cleanly."""
        if self._task is not None and self.daemon is not None:
            self.daemon.stop()
            task, self._task = self._task, None
            async with asyncio.timeout(DEADLINE_S):
                await task

    async def get(self, path: str) -> tuple[int, Any]:
        """Return status and JSON of a page."""
        assert self.daemon is not None
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.daemon.web_address}{path}") as response,
        ):
            return response.status, await response.json()

    async def metrics(self) -> Metrics:
        """Return what /metrics says now."""
        assert self.daemon is not None
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.daemon.web_address}/metrics") as response,
        ):
            return Metrics(await response.text())

    async def metric_reaches(self, least: float, name: str, **labels: str) -> None:
        """Wait until a metric is at least `least`."""
        deadline_s = asyncio.get_running_loop().time() + DEADLINE_S
        while (metrics := await self.metrics()).value(name, **labels) < least:
            if asyncio.get_running_loop().time() > deadline_s:
                alike = [one for one in metrics.samples if one.name == name]
                raise AssertionError(f"{name} {labels} never reached {least}: {alike}")
            await asyncio.sleep(0.02)


class Metrics:
    """A scrape, parsed by Prometheus' own parser."""

    def __init__(self, text: str) -> None:
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of this name whose labels include these; 0: none."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def assert_balanced(self) -> None:
        """Every stream: produced = the sum of all states, and nothing is unexplained."""
        streams = [one for one in self.samples if one.name == "gapless_produced_seqs"]
        assert streams, "no stream in the metrics"
        for one in streams:
            key = dict(one.labels)
            states = {
                sample.labels["state"]: sample.value
                for sample in self.samples
                if sample.name == "gapless_seqs" and key.items() <= sample.labels.items()
            }
            assert len(states) == 7, states
            assert sum(states.values()) == one.value, (key, states, one.value)
            assert states["unexplained"] == 0, (key, states)
        assert self.value("gapless_order_violations") == 0
