"""The wire between a virtual board's process and whoever opens its port: two ptys and a bridge.

    gateway or mpremote  <->  outer pty  <->  bridge  <->  inner pty  <->  interpreter

The interpreter needs a terminal of its own, whose modes it changes; the one that others open must
keep its name and its state while interpreters come and go. The bridge buffers at most
BUFFER_BYTES_MAX each way and then stops reading, so that nothing is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import termios
import tty
from collections.abc import Callable

BUFFER_BYTES_MAX = 4096
_MODE_POLL_S = 0.005
RAW_PROMPT = b"raw REPL; CTRL-B to exit\r\n>"
FRIENDLY_PROMPT = b"\r\n>>> "
_TAIL_BYTES = 64


class Terminal:
    """One pty: `board` is the master's file descriptor, `port` the slave's, which stays open."""

    def __init__(self) -> None:
        self.board, self.port = os.openpty()
        self.name = os.ttyname(self.port)
        tty.setraw(self.port)
        os.set_blocking(self.board, False)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.board)
        os.close(self.port)


class Pump:
    """Moves bytes from one file descriptor to another; `seen` is called with what was read."""

    def __init__(self, source: int, sink: int, seen: Callable[[bytes], None]) -> None:
        self.buffer = bytearray()
        self._source = source
        self._sink = sink
        self._seen = seen
        self._loop = asyncio.get_running_loop()
        self.update()

    def update(self) -> None:
        """Watch for what can be done now."""
        if len(self.buffer) < BUFFER_BYTES_MAX:
            self._loop.add_reader(self._source, self.read)
        else:
            self._loop.remove_reader(self._source)
        if self.buffer:
            self._loop.add_writer(self._sink, self._write)
        else:
            self._loop.remove_writer(self._sink)

    def read(self) -> bool:
        """Read once; return whether there was anything."""
        try:
            data = os.read(self._source, BUFFER_BYTES_MAX)
        except (BlockingIOError, InterruptedError, OSError):
            return False
        self.buffer += data
        self._seen(data)
        self._write()
        return bool(data)

    def _write(self) -> None:
        if self.buffer:
            with contextlib.suppress(BlockingIOError, InterruptedError):
                del self.buffer[: os.write(self._sink, self.buffer)]
        self.update()

    def close(self) -> None:
        """Stop watching."""
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._sink)


class Bridge:
    """Both ptys, and the bytes between them."""

    def __init__(self) -> None:
        self.outer = Terminal()
        self.inner = Terminal()
        self.raw_repl = False  # what the interpreter last said it is in
        self._tail = b""
        self._initial = self._initial_mode()
        self.from_board = Pump(self.inner.board, self.outer.board, self._track)
        self.to_board = Pump(self.outer.board, self.inner.board, lambda data: None)

    def _initial_mode(self) -> list[int | list[bytes | int]]:
        """The mode of a program on a board: eight bits both ways, and Ctrl-C interrupts."""
        mode = termios.tcgetattr(self.inner.port)
        mode[3] |= termios.ISIG | termios.NOFLSH
        for character in (termios.VQUIT, termios.VSUSP):
            mode[6][character] = b"\0"
        return mode

    def prepare(self) -> None:
        """Give the next interpreter a terminal as a reset leaves it."""
        termios.tcsetattr(self.inner.port, termios.TCSANOW, self._initial)
        self.raw_repl = False
        self._tail = b""

    def forget_input(self) -> None:
        """A hardware reset: what the board had received and not read is gone."""
        termios.tcflush(self.inner.port, termios.TCIFLUSH)

    def drain_board(self) -> None:
        """Take over the last words of an interpreter that ended."""
        while self.from_board.read():
            pass

    def print(self, text: bytes) -> None:
        """Say something on the port as the board would."""
        self.from_board.buffer += text
        self.from_board.update()

    def in_repl(self) -> bool:
        """Return whether the interpreter's REPL reads the terminal (it clears all local modes)."""
        mode = termios.tcgetattr(self.inner.port)
        return mode[3] == 0 and mode[6][termios.VMIN] in (1, b"\x01")

    async def enter_raw_repl(self, deadline_s: float) -> None:
        """Type Ctrl-A as soon as the REPL is there: mpremote's soft reset goes on in raw mode."""
        until = asyncio.get_running_loop().time() + deadline_s
        while not self.in_repl():
            if asyncio.get_running_loop().time() > until:
                return
            await asyncio.sleep(_MODE_POLL_S)
        self.to_board.buffer[:0] = b"\x01"
        self.to_board.update()

    def _track(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-_TAIL_BYTES - len(data) :]
        raw = self._tail.rfind(RAW_PROMPT)
        friendly = self._tail.rfind(FRIENDLY_PROMPT)
        if raw != friendly:
            self.raw_repl = raw > friendly
        self._tail = self._tail[-_TAIL_BYTES:]

    def close(self) -> None:
        """Close both ptys; the port's name is gone."""
        self.from_board.close()
        self.to_board.close()
        self.outer.close()
        self.inner.close()
