"""A gateway that is started and killed as a plan says, while boards sample and a consumer reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.books_check import check_stored
from tests.support.gateway_process import GatewayProcess
from tests.support.kill_plan import Broker, Kill, Moment
from tests.support.load import Load
from tests.support.log_lines import grave_lines
from tests.support.outages import Outages
from tests.support.running_gateway import DEADLINE_S, eventually

POLL_S = 0.001  # finer than a segment lives
JUST_AFTER_S = 0.3
OUTAGE_MIN_S = 0.3
LAST_WORDS_S = 0.02  # for boards to hear what still stands on their lines: it was promised too


class KillRun:
    """Carries out kills one after the other; `acked` is what the boards knew at the last one."""

    def __init__(
        self,
        gateway: GatewayProcess,
        state_dir: Path,
        load: Load,
        outages: Outages,
        capture_file: Path,
        *,
        life_s: float,
    ) -> None:
        """`life_s`: the longest time between being at work and the kill."""
        self.acked: dict[str, int] = {}
        self.killed = 0
        self._gateway = gateway
        self._state_dir = state_dir
        self._segments = state_dir / "wal"
        self._load = load
        self._outages = outages
        self._capture_file = capture_file
        self._life_s = life_s
        self._start_s = 0.0  # how long a start takes on this machine

    async def first_start(self) -> None:
        """Start for the first time, and see how long that takes."""
        before_s = time.monotonic()
        await self._gateway.start()
        self._start_s = time.monotonic() - before_s
        await self._load.wait_for_acks()
        await self._kill()

    async def carry_out(self, kill: Kill) -> None:
        """Start the gateway, kill it when the moment has come, and look at what it left."""
        if kill.back_before_start or kill.moment is Moment.STARTING:
            await self._outages.come_back()
        if kill.moment is Moment.STARTING:
            await self._while_it_starts(kill)
        else:
            await self._gateway.start()
            await self._outages.come_back()
            await self._reach(kill)
        await self._kill()

    async def _while_it_starts(self, kill: Kill) -> None:
        if kill.broker is Broker.AWAY:
            await self._outages.go_away()
        await self._gateway.spawn()
        await asyncio.sleep(kill.fraction * self._start_s)

    async def _reach(self, kill: Kill) -> None:
        if kill.moment is Moment.SERVING:
            await asyncio.sleep(kill.fraction * JUST_AFTER_S)
            return
        await self._load.wait_for_acks()
        if kill.moment is Moment.DRAINING:
            await self._reach_a_drain(kill)
            return
        if kill.broker is Broker.AWAY:
            await self._outages.go_away()
        elif kill.broker is Broker.SILENT:
            self._outages.fall_silent()
        await asyncio.sleep(kill.fraction * self._life_s)
        if kill.moment is Moment.ACKING:
            await self._reach_an_ack()
        elif kill.moment is Moment.ROTATING:
            newest = self._names()[-1]
            await self._until_names(lambda names: names[-1] != newest)
        elif kill.moment is Moment.RETIRING:
            oldest = self._names()[0]
            await self._until_names(lambda names: names[0] != oldest)

    async def _reach_a_drain(self, kill: Kill) -> None:
        await self._outages.go_away()
        await asyncio.sleep(OUTAGE_MIN_S + kill.fraction * self._life_s)
        await self._outages.come_back()
        size = self._capture_file.stat().st_size
        await eventually(lambda: self._capture_file.stat().st_size > size, "the drain begins")
        await asyncio.sleep(kill.fraction * JUST_AFTER_S)

    async def _reach_an_ack(self) -> None:
        """The signal leaves within the call that tells a board of its ack."""
        killed = asyncio.Event()

        def kill() -> None:
            self._gateway.send_kill()
            killed.set()

        board = self._load.boards[self.killed % len(self._load.boards)]
        board.when_acked = kill
        async with asyncio.timeout(DEADLINE_S):
            await killed.wait()

    async def _kill(self) -> None:
        await self._gateway.kill()
        await asyncio.sleep(LAST_WORDS_S)
        acked = self._load.acked()
        self.killed += 1
        assert grave_lines(self._gateway.stderr.result()) == []
        for device, seq in acked.items():
            assert seq >= self.acked.get(device, 0)
        self.acked = acked
        await asyncio.to_thread(check_stored, self._state_dir, acked)

    def _names(self) -> list[str]:
        return sorted(path.name for path in self._segments.iterdir()) or [""]

    async def _until_names(self, change: Callable[[list[str]], bool]) -> None:
        """Poll as finely as can be, so that the kill falls into what happens there."""
        async with asyncio.timeout(DEADLINE_S):
            while not change(self._names()):
                await asyncio.sleep(POLL_S)
