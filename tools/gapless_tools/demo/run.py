"""Runs a plan: starts the parts, breaks them when their moment comes, and judges what is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from gapless_gateway.errors import UserError
from gapless_tools.audit.run import Result, run_audit
from gapless_tools.demo.children import Child
from gapless_tools.demo.closing import Closing, print_closing
from gapless_tools.demo.gateway_client import fetch_account
from gapless_tools.demo.plan import Plan
from gapless_tools.demo.screen import Screen, backlog_of
from gapless_tools.demo.workplace import GATEWAY_NAME, Workplace, make_workplace
from gapless_tools.local_brokers import EmbeddedBroker, LocalBroker, MosquittoBroker
from gapless_tools.virtual_board import VirtualBoard, produced_through
from gapless_tools.virtual_board_runtime import HEAP_BYTES

BROKERS: dict[str, type[LocalBroker]] = {"embedded": EmbeddedBroker, "mosquitto": MosquittoBroker}
POLL_S = 0.25
START_TIMEOUT_S = 30.0
DRAIN_TIMEOUT_S = 120.0
AWAY_S = 1.0  # how long a killed board and a killed gateway stay away
HEARD_S = 0.2  # for what a board has sent to reach the gateway's disk
FREEZE_ATTEMPTS = 50

EXIT_PASS = 0
EXIT_FAIL = 1
EXIT_INTERRUPTED = 130


def run_demo(plan: Plan, broker_kind: str, report: Path | None) -> int:
    """Run the demo; returns the exit status. Raises UserError for what a person can mend."""
    console = Console()
    place = make_workplace(report)
    demo = Demo(plan, broker_kind, place, console)
    try:
        return asyncio.run(demo.run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        place.remove()
        console.print("interrupted: every process was stopped, and nothing was left behind")
        return EXIT_INTERRUPTED
    except UserError:
        console.print(f"what the parts said is kept in {place.root}", markup=False)
        raise


class Demo:
    """One run. Owns every process it starts, and ends each by its own handle."""

    def __init__(self, plan: Plan, broker_kind: str, place: Workplace, console: Console) -> None:
        self._plan = plan
        self._place = place
        self._console = console
        self._screen = Screen(console, plan.duration_s)
        self._broker_kind = broker_kind
        self._boards = [
            VirtualBoard(place.board(device), device, link=place.port(device), period_ms=period_ms)
            for device, period_ms in plan.boards()
        ]

    async def run(self) -> int:
        """Run from the first certificate to the verdict."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
        async with contextlib.AsyncExitStack() as stack:
            with self._screen:
                self._make_parts()
                stack.push_async_callback(self._stop_all)
                await self._start_all()
                # No task group: it would wrap the one sentence of a UserError.
                watching = asyncio.create_task(self._watch(), name="demo: watch")
                try:
                    await self._play()
                    await self._drain()
                    await self._end_sampling()
                finally:
                    watching.cancel()
                closing = await self._judge()
        print_closing(self._console, closing)
        return EXIT_PASS if closing.passed else EXIT_FAIL

    # -- starting and stopping

    def _make_parts(self) -> None:
        self._broker = BROKERS[self._broker_kind](self._place.broker)
        self._capture = Child("capture", self._place.logs / "capture.log")
        self._gateway = Child("gateway", self._place.logs / "gateway.log")

    async def _start_all(self) -> None:
        screen = self._screen
        screen.phase(
            f"starting the broker ({self._broker_kind}), TLS, certificates made for this run"
        )
        await self._broker.start()
        self._set("broker", "up")
        text = self._place.write_configuration(
            [board.device for board in self._boards],
            self._broker.host,
            self._broker.port,
            self._broker.ca_file,
        )
        screen.event(f"the gateway's configuration, kept in {self._place.configuration}:")
        self._console.print(text, markup=False, highlight=False, style="dim", soft_wrap=True)
        screen.phase("starting the consumer (gapless capture)")
        self._capture.start(self._capture_command())
        self._set("consumer", "up")
        runtime = self._boards[0].runtime.words
        heap = f"{HEAP_BYTES // 1024} KB of heap each"
        screen.phase(f"starting {len(self._boards)} virtual boards: {runtime}, {heap}")
        await asyncio.gather(*(board.start() for board in self._boards))
        for board in self._boards:
            self._set(board.device, "up")
        screen.phase("starting the gateway (gapless run)")
        self._gateway.start(self._gateway_command())
        self._set("gateway", "up")
        await self._until(self._all_linked, "every board is linked", START_TIMEOUT_S)
        screen.begin_clock()
        screen.event("every board is linked; the clock begins here")

    def _gateway_command(self) -> list[str]:
        return [*_gapless(), "run", "--config", str(self._place.configuration)]

    def _capture_command(self) -> list[str]:
        return [
            *_gapless(), "capture",
            "--host", self._broker.host, "--port", str(self._broker.port),
            "--ca-file", str(self._broker.ca_file),
            "--gateway", GATEWAY_NAME, "--out", str(self._place.capture),
        ]  # fmt: skip

    async def _stop_all(self) -> None:
        """End all that still runs; what was stopped before is passed over."""
        for board in self._boards:
            await board.stop()
        await asyncio.to_thread(self._gateway.stop)
        await asyncio.to_thread(self._capture.stop)
        await self._broker.stop()

    # -- the plan

    async def _play(self) -> None:
        """Do what the plan says, each at its moment."""
        plan = self._plan
        steps: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (plan.broker_killed_at_s, self._kill_broker),
            (plan.board_killed_at_s, self._kill_board),
            (plan.gateway_killed_at_s, self._kill_gateway),
            (plan.broker_back_at_s, self._bring_broker_back),
        ]
        for at_s, step in steps:
            await self._sleep_until(at_s)
            await step()
        await self._sleep_until(plan.duration_s)

    async def _kill_broker(self) -> None:
        self._broker.kill()
        self._set("broker", "killed")
        self._screen.event("SIGKILL to the broker: the backlog begins to grow")

    async def _kill_board(self) -> None:
        board = self._boards[-1]
        await board.kill()
        self._set(board.device, "killed")
        self._screen.event(f"SIGKILL to {board.device}: its RAM is gone, its seq mark is not")
        await asyncio.sleep(AWAY_S)
        await board.restart()
        self._set(board.device, "up")
        self._screen.event(f"{board.device} boots again and goes on numbering")

    async def _kill_gateway(self) -> None:
        self._gateway.kill()
        self._set("gateway", "killed")
        self._screen.event("SIGKILL to the gateway: boards hold what was not acknowledged")
        await asyncio.sleep(AWAY_S)
        self._gateway.start(self._gateway_command())
        self._set("gateway", "up")
        self._screen.event("the gateway recovers its log and goes on")

    async def _bring_broker_back(self) -> None:
        await self._broker.start()
        self._set("broker", "up")
        backlog = self._screen.state.backlog[-1] if self._screen.state.backlog else 0
        self._screen.event(f"the broker is back, and has forgotten all; backlog {backlog}")

    async def _drain(self) -> None:
        self._screen.phase("waiting until the backlog is gone")
        await self._until(self._drained, "the backlog has drained", DRAIN_TIMEOUT_S)

    async def _end_sampling(self) -> None:
        """Switch the boards off, each at a moment at which the gateway has all that it used.

        A number used and never sent is one that nobody can know of. A board is frozen first; if
        it had just used one, it may go on a little, and is frozen again.
        """
        self._screen.phase("switching the boards off")
        for board in self._boards:
            await self._freeze(board)
            await board.stop()
            self._set(board.device, "off")
        await self._until(self._nothing_pending, "all is delivered", DRAIN_TIMEOUT_S)
        await asyncio.to_thread(self._gateway.stop)
        self._set("gateway", f"ended with {self._gateway.exit_status}")
        await asyncio.to_thread(self._capture.stop)
        self._set("consumer", f"ended with {self._capture.exit_status}")

    async def _freeze(self, board: VirtualBoard) -> None:
        for _ in range(FREEZE_ATTEMPTS):
            if board.pid is None:
                return
            os.kill(board.pid, signal.SIGSTOP)
            await asyncio.sleep(HEARD_S)
            account = await fetch_account(self._place.state)
            heard = _durable_of(account, board.device)
            if heard == produced_through(board.directory):
                return
            os.kill(board.pid, signal.SIGCONT)
            await asyncio.sleep(HEARD_S / 2)

    async def _judge(self) -> Closing:
        """Audit the books against the consumer, and the books against the boards."""
        self._screen.phase("auditing the log, the capture and the boards")
        result: Result = await asyncio.to_thread(
            run_audit, [self._place.state], self._place.capture, self._place.root
        )
        produced = {board.device: produced_through(board.directory) for board in self._boards}
        return Closing(
            result=result,
            produced_by_boards=produced,
            backlog_peak=self._screen.state.backlog_peak,
            gateway_status=self._gateway.exit_status,
            consumer_status=self._capture.exit_status,
            account=self._screen.state.account,
            root=self._place.root,
        )

    # -- watching

    async def _watch(self) -> None:
        """Keep the screen up to date, and notice a part that ended without being told to."""
        while True:
            account = await fetch_account(self._place.state)
            self._screen.state.take_account(account)
            self._screen.refresh()
            await asyncio.sleep(POLL_S)

    def _check_parts(self) -> None:
        for child in (self._gateway, self._capture):
            if child.exit_status is not None and self._screen.state.parts.get(child.name) == "up":
                raise UserError(
                    f"the {child.name} ended with status {child.exit_status}; "
                    f"it said: {child.last_words()}"
                )

    async def _until(
        self, condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float
    ) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while not await condition():
            self._check_parts()
            if loop.time() > until:
                raise UserError(
                    f"after {timeout_s:g} s it is still not so that {what}; "
                    f"the logs in {self._place.logs} may say why"
                )
            self._screen.refresh()
            await asyncio.sleep(POLL_S)

    async def _all_linked(self) -> bool:
        account = await fetch_account(self._place.state)
        linked = (
            {s["device"] for s in account["streams"] if s["link"] == "linked"} if account else set()
        )
        return linked == {board.device for board in self._boards}

    async def _drained(self) -> bool:
        """True when the outage is over: its last record is delivered, and little is under way."""
        account = await fetch_account(self._place.state)
        return account is not None and account["outage"] is None and account["outages_total"] > 0

    async def _nothing_pending(self) -> bool:
        account = await fetch_account(self._place.state)
        self._screen.state.take_account(account)
        return account is not None and backlog_of(account) == 0

    async def _sleep_until(self, at_s: float) -> None:
        while (left_s := at_s - self._screen.elapsed_s) > 0:
            self._check_parts()
            await asyncio.sleep(min(left_s, POLL_S))

    def _set(self, name: str, state: str) -> None:
        self._screen.state.parts[name] = state
        self._screen.refresh()


def _gapless() -> list[str]:
    """Return the command of this very installation, whatever the PATH says."""
    return [sys.executable, "-m", "gapless_tools.cli"]


def _durable_of(account: dict[str, Any] | None, device: str) -> int | None:
    """Return the last seq of a device that is on the gateway's disk; None when it does not say."""
    if account is None:
        return None
    for stream in account["streams"]:
        if stream["device"] == device and not stream["closed"]:
            return int(stream["last_seq"])
    return None
