"""One task per port: opens it, reads and writes it, and opens it again after it was unplugged.

A port knows nothing of what its bytes mean; it hands them to its `PortUser`. Whatever happens on
one port, the others do not notice: reading is bounded per turn of the event loop, writing is
bounded in bytes, and every fault of a line ends in closing and reopening that line only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable
from typing import Protocol

from gapless_gateway.back_off import BackOff
from gapless_gateway.config import PortSettings
from gapless_gateway.errors import PortIsNoSerialLine
from gapless_gateway.metrics import Metrics
from gapless_gateway.serial_line import Line, PortFault, open_line

READ_BYTES = 4096
READS_PER_TURN_MAX = 16  # then the other ports get their turn
WRITE_BUFFER_BYTES_MAX = 16384
RETRY_FIRST_S = 0.25
RETRY_MAX_S = 5.0
STABLE_AFTER_S = 5.0  # a line that lives shorter than this does not reset the back-off
FLUSH_TIMEOUT_S = 0.3

log = logging.getLogger("gapless.ports")


class PortUser(Protocol):
    """What a port tells its session. All calls come from the event loop's thread."""

    def port_opened(self, write: Callable[[bytes], None]) -> None:
        """The line is open; `write` never waits."""

    def port_received(self, data: bytes) -> None:
        """Bytes came in, in order."""

    def port_closed(self, reason: str) -> None:
        """The line is gone; `write` must not be called any more."""


class Port:
    """A serial port by path. `run()` is its task; cancel it to close the port."""

    def __init__(
        self,
        settings: PortSettings,
        user: PortUser,
        metrics: Metrics,
        rng: random.Random | None = None,
    ) -> None:
        self.path = settings.path
        self._baud = settings.baud
        self._user = user
        self._metrics = metrics.port(settings.path)
        self._back_off = BackOff(RETRY_FIRST_S, RETRY_MAX_S, rng)

    async def run(self) -> None:
        """Keep the port open for ever."""
        while True:
            try:
                line = await open_line(self.path, self._baud)
            except PortFault as fault:
                self._metrics.open_failed(fault.code)
                await self._wait_after(fault.code, str(fault))
            except PortIsNoSerialLine as error:  # it was a serial line, or nothing, at start
                self._metrics.open_failed("not_serial")
                await self._wait_after("not_serial", str(error))
            else:
                reason = await self._use(line)
                self._metrics.lost()
                await self._wait_after("lost", f"the port {self.path} was lost: {reason}")

    async def _wait_after(self, code: str, words: str) -> None:
        delay_s = self._back_off.next_delay_s()
        self._metrics.retry_in(delay_s)
        if self._back_off.worth_a_line():
            log.warning(
                words,
                extra={
                    "port": self.path,
                    "fault": code,
                    "attempt": self._back_off.attempts,
                    "retry_in_s": round(delay_s, 2),
                },
            )
        await asyncio.sleep(delay_s)

    async def _use(self, line: Line) -> str:
        """Serve an open line until it is lost; returns why. Closes it in any case."""
        loop = asyncio.get_running_loop()
        opened_at_s = loop.time()
        transfer = _Transfer(loop, line, self._user.port_received, self._metrics)
        log.info("port opened", extra={"port": self.path, "baud": self._baud})
        self._metrics.opened()
        self._user.port_opened(transfer.write)
        reason = "stopped"
        try:
            reason = await transfer.lost
        finally:
            if loop.time() - opened_at_s >= STABLE_AFTER_S:
                self._back_off.reset()
            self._metrics.closed()
            self._user.port_closed(reason)
            try:
                await transfer.flush(FLUSH_TIMEOUT_S)
            finally:
                transfer.close()
                line.close()
        return reason


class _Transfer:
    """Moves bytes between the event loop and one open line."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        line: Line,
        received: Callable[[bytes], None],
        metrics: PortTransferMetrics,
    ) -> None:
        self._loop = loop
        self._line = line
        self._descriptor = line.fileno()
        self._received = received
        self._metrics = metrics
        self._unsent = bytearray()
        self._open = True
        self.lost: asyncio.Future[str] = loop.create_future()
        loop.add_reader(self._descriptor, self._readable)

    def write(self, data: bytes) -> None:
        """Send whole frames, now or as the line takes them; a frame that has no room is dropped.

        The link repeats what is not acknowledged, so a dropped frame costs time, never data.
        """
        if not data or not self._open:
            return
        if len(self._unsent) + len(data) > WRITE_BUFFER_BYTES_MAX:
            self._metrics.write_dropped(len(data))
            return
        was_empty = not self._unsent
        self._unsent += data
        if was_empty:
            self._writable()

    def close(self) -> None:
        """Stop watching the descriptor."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._descriptor)
            self._loop.remove_writer(self._descriptor)

    async def flush(self, timeout_s: float) -> None:
        """Wait until what was written has left, for a bounded time."""
        if self.lost.done() and not self.lost.cancelled():
            return
        deadline_s = self._loop.time() + timeout_s
        # The kernel tells nobody when its buffer is empty.
        while self._loop.time() < deadline_s and (  # noqa: ASYNC110
            self._unsent or self._line.pending_bytes()
        ):
            await asyncio.sleep(0.01)

    def _readable(self) -> None:
        for _ in range(READS_PER_TURN_MAX):
            try:
                data = os.read(self._descriptor, READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(error.strerror or "read failed")
                return
            if not data:
                self._lose("the other end is gone")
                return
            self._metrics.received(len(data))
            try:
                self._received(data)
            except Exception:
                # A bug of ours, met by what this board said: it costs this port its session.
                log.exception("a port is reopened because of an error in the gateway")
                self._lose("an error in the gateway")
            if not self._open:
                return

    def _writable(self) -> None:
        try:
            sent = os.write(self._descriptor, self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lose(error.strerror or "write failed")
            return
        del self._unsent[:sent]
        self._metrics.sent(sent)
        if self._unsent:
            self._loop.add_writer(self._descriptor, self._writable)
        else:
            self._loop.remove_writer(self._descriptor)

    def _lose(self, reason: str) -> None:
        self.close()
        if not self.lost.done():
            self.lost.set_result(reason)


class PortTransferMetrics(Protocol):
    """The counters that a transfer writes."""

    def received(self, count: int) -> None:
        """`count` bytes came in."""

    def sent(self, count: int) -> None:
        """`count` bytes left."""

    def write_dropped(self, count: int) -> None:
        """Frames of `count` bytes found the write buffer full."""
