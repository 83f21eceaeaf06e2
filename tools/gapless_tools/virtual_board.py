"""A whole board without hardware: the firmware in the MicroPython interpreter, on a pty.

`VirtualBoard` is the supervisor: it fills a folder with the board's files, runs the interpreter on
it, and does what a board's hardware does. A soft reset ends the interpreter, and it starts again
on the same port; a crash starts it again after a pause that grows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import signal
from collections.abc import Mapping
from pathlib import Path

import click

from gapless_gateway.errors import UserError
from gapless_tools import firmware_files
from gapless_tools.virtual_board_bridge import Bridge
from gapless_tools.virtual_board_child import command_line
from gapless_tools.virtual_board_runtime import (
    HEAP_BYTES,
    RESET_STATUS,
    Runtime,
    cpython_runtime,
    find_runtime,
)

log = logging.getLogger(__name__)

DEVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
# Hardware that the firmware sees as files in its folder, see gapless_device/boards/virtual.py.
REGISTERS_FILE = "rtc_registers.bin"
UID_FILE = "uid.txt"
UID_BYTES = 12  # as an STM32 has
SEQ_MARK_CHECK = 0x25A5A5A5  # gapless_device/numbering.py
CRASH_WAIT_MIN_S = 0.2
CRASH_WAIT_MAX_S = 10.0
# An interpreter that lived this long ended the row of crashes before it.
CRASH_FORGET_S = 30.0
RAW_REPL_DEADLINE_S = 10.0


def produced_through(directory: Path | str) -> int:
    """Return the highest seq that a board ever used, read from its backup registers; 0 for none.

    A fact about the board that no gateway had a hand in.
    """
    try:
        data = (Path(directory) / REGISTERS_FILE).read_bytes()
    except FileNotFoundError:
        return 0
    words = [int.from_bytes(data[at : at + 4], "big") for at in range(0, 16, 4)]
    marks = [words[at] for at in (0, 2) if words[at + 1] == words[at] ^ SEQ_MARK_CHECK]
    return max(marks, default=0)


class VirtualBoard:
    """One board. `start`, then open `port_path` like any serial port.

    directory       the board's file system; made if it is not there, kept afterwards
    device          the device_id
    link            the port's stable name, a symbolic link; `directory` + ".port" unless given
    settings        more keys for settings.json, over period_ms
    install         False leaves the folder as it is: an empty one is a board with a REPL only
    runtime         the interpreter; found unless given
    """

    def __init__(
        self,
        directory: Path | str,
        device: str,
        *,
        link: Path | str | None = None,
        period_ms: int = 1000,
        settings: Mapping[str, object] | None = None,
        install: bool = True,
        runtime: Runtime | None = None,
        heap_bytes: int = HEAP_BYTES,
    ) -> None:
        if not DEVICE_NAME.fullmatch(device):
            raise UserError(
                f"{device!r} is no device name: use 1 to 32 letters, digits, '.', '_' or '-', "
                "beginning with a letter or digit"
            )
        self.directory = Path(directory).absolute()
        self.device = device
        self.port_path = str(Path(link).absolute() if link else f"{self.directory}.port")
        self.runtime = runtime or find_runtime()
        self.starts = 0  # how often the interpreter was started
        self._settings = {"period_ms": period_ms, **(settings or {})}
        self._install = install
        self._heap_bytes = heap_bytes
        self._uid = ""
        self._bridge: Bridge | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._power = asyncio.Event()  # cleared: stays off until `restart`
        self._killed = False
        self._cause = "power-on"

    async def start(self) -> None:
        """Fill the folder, open the port and switch the board on."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._install:
            await asyncio.to_thread(self._fill)
        self._uid = self._load_uid()
        self._bridge = Bridge()
        self._make_link(self._bridge.outer.name)
        self._power.set()
        await self._spawn(run_main=True)
        self._supervisor = asyncio.create_task(self._supervise(), name=f"board {self.device}")

    @property
    def pid(self) -> int | None:
        """The interpreter's process id, None while the board is off."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    async def kill(self) -> None:
        """Stop the board dead (SIGKILL); RAM is lost, it stays off until `restart`."""
        self._power.clear()
        self._killed = True
        if self.pid is not None and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def restart(self, cause: str = "reset") -> None:
        """Start the board again, after `kill` or as the reset button does."""
        await self.kill()
        self._cause = cause
        self._power.set()

    async def power_cut(self) -> None:
        """Cut the power: the backup registers, without a battery, are lost as well."""
        await self.kill()
        (self.directory / REGISTERS_FILE).unlink(missing_ok=True)

    async def stop(self) -> None:
        """Switch off and take the port away. The folder stays."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        await self.kill()
        if self._bridge is not None:
            with contextlib.suppress(OSError):  # gone, or no link of ours
                self._remove_link(self._bridge.outer.name)
            self._bridge.close()
            self._bridge = None

    def _fill(self) -> None:
        compiled = self.runtime.micropython is not None
        firmware_files.fill(self.directory, "virtual", compiled=compiled)
        settings = {"device": self.device, "profile": "virtual", **self._settings}
        firmware_files.write_settings(self.directory, settings)

    def _load_uid(self) -> str:
        path = self.directory / UID_FILE
        if not path.exists():
            path.write_text(secrets.token_hex(UID_BYTES), encoding="ascii")
        return path.read_text(encoding="ascii")

    def _make_link(self, target: str) -> None:
        path = Path(self.port_path)
        if path.exists() and not path.is_symlink():
            raise UserError(f"{path} is in the way of the board's port: remove it or use --link")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(path)

    def _remove_link(self, target: str) -> None:
        path = Path(self.port_path)
        if str(path.readlink()) == target:
            path.unlink()

    async def _spawn(self, *, run_main: bool) -> None:
        assert self._bridge is not None
        self._bridge.prepare()
        program = self.runtime.command(
            self.directory, heap_bytes=self._heap_bytes, run_main=run_main
        )
        terminal = self._bridge.inner.port
        self._killed = False
        self._process = await asyncio.create_subprocess_exec(
            *command_line(program),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=self.directory,
            start_new_session=True,
            env={
                **os.environ,
                "MICROPYPATH": ".frozen:/lib",
                "HOME": "/nonexistent",  # no history file of the REPL in the user's home
                "GAPLESS_BOARD_UID": self._uid,
                "GAPLESS_BOARD_RESET_CAUSE": self._cause,
            },
        )
        self.starts += 1

    async def _supervise(self) -> None:
        """Start the interpreter again whenever it ended, for as long as the power is on."""
        assert self._bridge is not None
        crashes = 0
        loop = asyncio.get_running_loop()
        while True:
            assert self._process is not None
            began_s = loop.time()
            status = await self._process.wait()
            self._bridge.drain_board()
            raw_repl = self._bridge.raw_repl
            if loop.time() - began_s >= CRASH_FORGET_S:
                crashes = 0
            if self._killed:
                await self._power.wait()
            elif status == 0:
                self._cause = "soft"
                self._bridge.print(b"MPY: soft reboot\r\n")
            elif status == RESET_STATUS:
                self._cause = "reset"
            else:
                wait_s = min(CRASH_WAIT_MIN_S * 2**crashes, CRASH_WAIT_MAX_S)
                crashes = min(crashes + 1, 10)
                self._cause = "crash"
                log.warning(
                    "board %s: the interpreter ended with status %d; again in %.1f s",
                    self.device, status, wait_s,
                )  # fmt: skip
                await asyncio.sleep(wait_s)
            soft_in_raw_repl = raw_repl and self._cause == "soft"
            if self._cause != "soft":
                self._bridge.forget_input()
            await self._spawn(run_main=not soft_in_raw_repl)
            if soft_in_raw_repl:
                await self._bridge.enter_raw_repl(RAW_REPL_DEADLINE_S)


EPILOG = """\b
Examples:
  gapless virtual-board --dir /tmp/pump-1 --device pump-1
  mpremote connect /tmp/pump-1.port fs ls
  gapless virtual-board --dir /tmp/bare --device pump-2 --empty    a REPL, no firmware
"""


@click.command(epilog=EPILOG)
@click.option(
    "--dir", "directory", required=True, type=click.Path(path_type=Path, file_okay=False),
    help="The board's file system; made if it is not there, kept afterwards.",
)  # fmt: skip
@click.option("--device", required=True, help="The device_id.")
@click.option(
    "--link", type=click.Path(path_type=Path),
    help="A stable name for the port, a symbolic link. Default: DIR.port",
)  # fmt: skip
@click.option(
    "--period-ms", type=click.IntRange(1, 86_400_000), default=1000, show_default=True,
    help="Time between two samples.",
)  # fmt: skip
@click.option("--empty", is_flag=True, help="Install nothing: whatever DIR holds is run.")
@click.option(
    "--runtime", type=click.Choice(["auto", "cpython"]), default="auto", show_default=True,
    help="auto: MicroPython where it is found, else CPython.",
)  # fmt: skip
def command(
    *,
    directory: Path,
    device: str,
    link: Path | None,
    period_ms: int,
    empty: bool,
    runtime: str,
) -> None:
    """Run a board without hardware: the firmware, as on a board, behind a serial port (a pty)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    board = VirtualBoard(
        directory,
        device,
        link=link,
        period_ms=period_ms,
        install=not empty,
        runtime=cpython_runtime() if runtime == "cpython" else None,
    )
    asyncio.run(_run(board))


async def _run(board: VirtualBoard) -> None:
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, done.set)
    try:
        await board.start()
        click.echo(f"board    {board.device} in {board.directory}")
        click.echo(f"runtime  {board.runtime.words}")
        click.echo(f"port     {board.port_path}")
        click.echo("Ctrl-C stops it.")
        await done.wait()
    finally:
        await board.stop()
