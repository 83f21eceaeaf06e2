"""`gapless capture` as a process of its own: the consumer, independent of the gateway."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from gapless_tools.capture_store import CAPTURE_NAME
from gapless_tools.local_brokers import LocalBroker
from tests.support.running_gateway import DEADLINE_S, eventually


class ConsumerProcess:
    """Keeps everything of one gateway in `directory`; runs within its block."""

    def __init__(self, broker: LocalBroker, gateway: str, directory: Path) -> None:
        self.directory = directory
        self.file = directory / CAPTURE_NAME
        self._log_file = directory.with_suffix(".log")
        self._command = [
            sys.executable, "-m", "gapless_tools.cli", "capture",
            "--host", broker.host, "--port", str(broker.port), "--ca-file", str(broker.ca_file),
            "--gateway", gateway, "--out", str(directory),
        ]  # fmt: skip
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Start, and wait until it has subscribed: what is published from now on arrives."""
        with self._log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdout=log, stderr=log
            )
        await eventually(lambda: "connected to" in self.words, "the consumer has subscribed")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill it if it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    @property
    def words(self) -> str:
        """What it said."""
        return self._log_file.read_text(errors="replace")

    async def stop(self) -> int:
        """Let it finish cleanly; returns its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_S):
            return await self._process.wait()
