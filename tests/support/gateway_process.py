"""`gapless run` as a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from tests.support.running_gateway import DEADLINE_S


class GatewayProcess:
    """Start it with a configuration; kill it or stop it by its own handle."""

    def __init__(self, config_file: Path, state_dir: Path) -> None:
        self._config_file = config_file
        self._runtime_file = state_dir / "runtime.json"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start and wait until it serves."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gapless_tools.cli", "run", "--config", str(self._config_file),
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self.stderr = asyncio.create_task(self._process.stderr.read())
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
