"""`gapless run` as a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.running_gateway import DEADLINE_S, Metrics


class GatewayProcess:
    """Start it with a configuration; kill it or stop it by its own handle."""

    def __init__(self, config_file: Path, state_dir: Path) -> None:
        self._config_file = config_file
        self._runtime_file = state_dir / "runtime.json"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id, None while none was started."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start and wait until it serves."""
        await self.spawn()
        await self.wait_until_serving()

    async def spawn(self) -> None:
        """Start, and return at once: nothing of it may have run yet."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gapless_tools.cli", "run", "--config", str(self._config_file),
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self.stderr = asyncio.create_task(self._process.stderr.read())

    async def wait_until_serving(self) -> None:
        """Wait until the process that was spawned says where it serves."""
        async with asyncio.timeout(DEADLINE_S):
            while (facts := self.runtime()) is None or facts["pid"] != self._process.pid:
                assert self._process.returncode is None, await self.stderr
                await asyncio.sleep(0.02)

    def runtime(self) -> dict[str, Any] | None:
        """Return what the gateway wrote about itself, None if it wrote nothing."""
        try:
            return json.loads(self._runtime_file.read_text())
        except FileNotFoundError:
            return None

    async def metrics(self) -> Metrics:
        """Return what /metrics says now."""
        _, text = await self._get("/metrics")
        return Metrics(text)

    async def metrics_when(self, condition: Callable[[Metrics], Any], what: str) -> Metrics:
        """Wait until the metrics are so; returns them. Fails after a generous deadline."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + DEADLINE_S
        while not condition(metrics := await self.metrics()):
            assert loop.time() < deadline_s, f"never came true in the metrics: {what}"
            await asyncio.sleep(0.05)
        return metrics

    async def health(self) -> tuple[int, dict[str, Any]]:
        """Return status and content of /healthz."""
        status, text = await self._get("/healthz")
        return status, json.loads(text)

    async def _get(self, page: str) -> tuple[int, str]:
        facts = self.runtime()
        assert facts is not None, "the gateway does not say where it serves"
        async with aiohttp.ClientSession() as session, session.get(facts["web"] + page) as answer:
            return answer.status, await answer.text()

    def send_kill(self) -> None:
        """Send SIGKILL and wait for nothing; `kill` waits for its end."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)

    async def kill(self) -> None:
        """End it as a power cut ends a process."""
        await self._end(signal.SIGKILL)

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it cleanly; returns its exit status."""
        return await self._end(number)

    async def _end(self, number: int) -> int:
        if self._process is None:
            return 0
        process, self._process = self._process, None
        if process.returncode is None:
            process.send_signal(number)
        async with asyncio.timeout(DEADLINE_S):
            status = await process.wait()
            await self.stderr
        return status
