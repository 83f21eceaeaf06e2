"""A test's end of a board's serial port: frames by eye, and a small gateway without a disk."""

from __future__ import annotations

import asyncio
import os
import termios
import time
from collections.abc import Callable
from typing import Any

import cbor2

from gapless_link import receiver
from gapless_link.receiver import Receiver

# Generous: a machine under load is slow, and nothing here measures speed.
DEADLINE_S = 60.0
_POLL_S = 0.01
_ENVELOPE_BYTES = 9  # version and flags, session, counter
_CRC_BYTES = 4


def uncobs(data: bytes) -> bytes:
    """Undo COBS the plain way; raises ValueError."""
    out = bytearray()
    at = 0
    while at < len(data):
        code = data[at]
        if not code or at + code > len(data):
            raise ValueError("no COBS")
        out += data[at + 1 : at + code]
        at += code
        if code < 0xFF and at < len(data):
            out.append(0)
    return bytes(out)


class Line:
    """An open port. `read_hello` waits for the next HELLO, `until` for any text."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self.data = b""

    def read(self) -> bytes:
        """Return what has arrived since the last call."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            data = b""
        self.data += data
        return data

    def write(self, data: bytes) -> None:
        """Send all of it."""
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                time.sleep(_POLL_S)

    def forget(self) -> None:
        """Drop what arrived so far."""
        termios.tcflush(self._fd, termios.TCIFLUSH)
        self.data = b""

    async def until(self, found: Callable[[bytes], Any]) -> Any:
        """Read until `found(all data)` is true; return what it returned."""
        deadline = time.monotonic() + DEADLINE_S
        while not (answer := found(self.data)):
            assert time.monotonic() < deadline, f"waited in vain; the line said {self.data!r}"
            await asyncio.sleep(_POLL_S)
            self.read()
        return answer

    async def until_text(self, text: bytes) -> None:
        """Read until `text` has come, and forget everything up to it."""
        await self.until(lambda data: text in data)
        self.data = self.data.split(text, 1)[1]

    async def read_hello(self) -> list[Any]:
        """Wait for the next HELLO; return its fields."""
        hello: list[Any] = await self.until(_first_hello)
        self.data = b""
        return hello

    def close(self) -> None:
        """Close the port."""
        os.close(self._fd)


def _first_hello(data: bytes) -> list[Any] | None:
    for frame in data.split(b"\0")[:-1]:
        try:
            body = uncobs(frame)[_ENVELOPE_BYTES:-_CRC_BYTES]
            message = cbor2.loads(body) if body else None
        except (ValueError, cbor2.CBORDecodeError):
            continue
        if isinstance(message, list) and message[:1] == [1]:
            return message
    return None


class SmallGateway:
    """Accepts a board and keeps in memory what it sends, like a log that is never lost."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.log_id = os.urandom(8)
        self.streams: set[bytes] = set()
        self.records: dict[int, bytes] = {}
        self.lost: dict[int, tuple[int, bool]] = {}  # seq -> (reason, at_most)
        self.conflicts: list[int] = []
        self.hellos: list[Any] = []
        self.durable = 0
        self._line: Line | None = None
        self._receiver = Receiver(os.urandom)

    async def run_until(self, enough: Callable[[], bool]) -> None:
        """Serve the port until `enough()`; then let it be."""
        line = Line(self.path)
        deadline = time.monotonic() + DEADLINE_S
        try:
            while not enough():
                assert time.monotonic() < deadline, f"waited in vain, durable {self.durable}"
                now_ms = time.monotonic_ns() // 1_000_000
                self._receiver.receive(line.read(), now_ms)
                line.data = b""
                while (event := self._receiver.next_event()) is not None:
                    self._handle(event)
                line.write(self._receiver.data_to_send(now_ms))
                await asyncio.sleep(_POLL_S)
        finally:
            line.close()

    def _handle(self, event: Any) -> None:
        if isinstance(event, receiver.HelloReceived):
            self.hellos.append(event.hello)
            stream = event.hello.stream or os.urandom(4)
            self._receiver.welcome(self.log_id, stream, self.durable, self.durable + 1000)
        elif isinstance(event, receiver.Started):
            self._begin(event.hello)
        elif isinstance(event, receiver.RecordsReceived):
            for seq, data in enumerate(event.records, event.first):
                self._take(seq, data)
                self._settled_through(seq)
        elif isinstance(event, receiver.RecordRepeated):
            self._take(event.seq, event.data)
        elif isinstance(event, receiver.LostReceived):
            for seq in range(event.first, event.last + 1):
                self.lost.setdefault(seq, (event.reason, event.at_most))
            self._settled_through(event.last)

    def _begin(self, hello: Any) -> None:
        self.streams.add(bytes(hello.stream or b""))
        held = [seq for first, last in hello.held for seq in range(first, last + 1)]
        first_held = min(held, default=hello.next)
        gaps = []
        if first_held > self.durable + 1:
            gaps = [(self.durable + 1, first_held - 1, 2, not hello.exact)]
        self._receiver.begin(self.durable + 1, gaps)
        self._receiver.acknowledge(self.durable, self.durable + 1000)

    def _take(self, seq: int, data: bytes) -> None:
        if self.records.setdefault(seq, bytes(data)) != bytes(data):
            self.conflicts.append(seq)

    def _settled_through(self, seq: int) -> None:
        self.durable = max(self.durable, seq)
        self._receiver.acknowledge(self.durable, self.durable + 1000)
