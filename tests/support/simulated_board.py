"""A board for tests of the gateway: the real sender of gapless_link on a pty, records in a list.

It runs on the event loop of the test. What it numbered and what it was told is durable is kept,
so that a test can compare them with what the gateway has.
"""

from __future__ import annotations

import asyncio
import os
import time
import tty
from pathlib import Path

import cbor2

from gapless_link import messages
from gapless_link.sender import DURABLE, LINKED, REJECTED, WELCOMED, Identity, Sender


class RecordList:
    """The outbox that the sender asks: never overflows unless the test says so."""

    def __init__(self) -> None:
        self.next_seq = 1
        self.records: dict[int, bytes] = {}
        self.lost: list[tuple[int, int, int, bool]] = []

    def add(self, data: bytes) -> int:
        """Number a record; returns its seq."""
        seq = self.next_seq
        self.records[seq] = data
        self.next_seq += 1
        return seq

    def lose(self, first: int, last: int, reason: int, *, at_most: bool = False) -> None:
        """Declare a range LOST."""
        for seq in range(first, last + 1):
            self.records.pop(seq, None)
        self.lost.append((first, last, reason, at_most))

    def forget(self, first: int, last: int) -> None:
        """Lose records without a word, as a reset does."""
        for seq in range(first, last + 1):
            del self.records[seq]

    def find(self, seq: int) -> int:
        """Return the lowest number from `seq` on that is a record or LOST; 0: none."""
        if seq in self.records:
            return seq
        candidates = [one for one in self.records if one >= seq]
        candidates += [max(seq, first) for first, last, _, _ in self.lost if last >= seq]
        return min(candidates, default=0)

    def size(self, seq: int) -> int:
        """Return the bytes of the record, 0 for what is none."""
        return len(self.records.get(seq, b""))

    def read_into(self, seq: int, buffer: bytearray, at: int) -> int:
        """Copy the record."""
        data = self.records[seq]
        buffer[at : at + len(data)] = data
        return len(data)

    def lost_range(self, seq: int) -> tuple[int, int, int, bool]:
        """Return the LOST that `seq` lies in."""
        return next(one for one in self.lost if one[0] <= seq <= one[1])

    def free_through(self, seq: int) -> None:
        """Forget what is durable."""
        self.records = {one: data for one, data in self.records.items() if one > seq}
        self.lost = [
            (max(first, seq + 1), last, reason, at_most)
            for first, last, reason, at_most in self.lost
            if last > seq
        ]

    def held(self) -> list[tuple[int, int]]:
        """Return the ranges that are left."""
        numbers = set(self.records)
        for first, last, _, _ in self.lost:
            numbers.update(range(first, last + 1))
        ranges: list[tuple[int, int]] = []
        for number in sorted(numbers):
            if ranges and ranges[-1][1] == number - 1:
                ranges[-1] = (ranges[-1][0], number)
            else:
                ranges.append((number, number))
        return ranges


class SimulatedBoard:
    """One board. `path` is a stable name of its port: a link to the pty of the moment."""

    def __init__(self, folder: Path, device_id: str, uid: bytes | None = None) -> None:
        self.path = folder / f"tty-{device_id}"
        self.outbox = RecordList()
        self.identity = Identity(device_id, uid or device_id.encode()[:16], firmware="test")
        self.durable: list[int] = []  # as it was told, in order
        self.sent = bytearray()  # everything written to the line
        self.rejections: list[tuple[int, str]] = []
        self.boots = 0
        self.deaf = False  # nothing that the gateway says gets through
        self._descriptors: tuple[int, int] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.boot()

    def boot(self) -> None:
        """Start anew, as after a reset that the outbox survives."""
        self.boots += 1
        self.identity.boot = self.boots
        self._zero_ns = time.monotonic_ns() - 1_000_000
        self.sender = Sender(self.identity, self.outbox, keep_alive_ms=300, silence_ms=1500)

    # -- the line

    def plug_in(self) -> None:
        """Make the port appear."""
        master, slave = os.openpty()
        tty.setraw(master)
        tty.setraw(slave)
        os.set_blocking(master, False)
        self._descriptors = (master, slave)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(slave))
        asyncio.get_running_loop().add_reader(master, self._readable)
        self.run()

    def unplug(self) -> None:
        """Make the port vanish."""
        if self._descriptors is None:
            return
        asyncio.get_running_loop().remove_reader(self._descriptors[0])
        self.path.unlink(missing_ok=True)
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = None
        if self._timer is not None:
            self._timer.cancel()

    def write_raw(self, data: bytes) -> None:
        """Put bytes on the line as they are."""
        if self._descriptors is not None:
            self.sent += data
            while data:
                try:
                    data = data[os.write(self._descriptors[0], data) :]
                except BlockingIOError:
                    return  # the gateway does not read: lost on the line

    # -- the firmware

    @property
    def now_ms(self) -> int:
        """Ticks since boot."""
        return (time.monotonic_ns() - self._zero_ns) // 1_000_000 & messages.TICKS_MASK

    @property
    def linked(self) -> bool:
        """Whether a session runs, as the board sees it."""
        return bool(self.sender.state == LINKED)

    @property
    def acked_through(self) -> int:
        """The highest seq that the board was told is durable."""
        return self.durable[-1] if self.durable else 0

    def sample(self, count: int = 1) -> None:
        """Number `count` records and send what may be sent."""
        for _ in range(count):
            body = self.body_of(self.outbox.next_seq)
            self.outbox.add(cbor2.dumps([self.boots, 0, self.now_ms, 0, body]))
        self.run()

    def body_of(self, seq: int) -> dict[str, object]:
        """Return what is measured for this seq."""
        return {"value": seq}

    def run(self) -> None:
        """Handle what came in, send what is due, set the timer."""
        while (event := self.sender.next_event()) is not None:
            self._handle(event)
        while len(frame := self.sender.data_to_send(self.now_ms)):
            self.write_raw(bytes(frame))
        if self._timer is not None:
            self._timer.cancel()
        wait_ms = self.sender.next_deadline_ms(self.now_ms)
        if wait_ms is not None and self._descriptors is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(1, wait_ms) / 1000, self.run)

    def _handle(self, event: object) -> None:
        if event == WELCOMED:
            self.sender.confirm()
        elif event == DURABLE:
            self.durable.append(self.sender.durable)
        elif event == REJECTED:
            code, words = self.sender.rejection
            self.rejections.append((code, words.decode()))

    def _readable(self) -> None:
        if self._descriptors is None:
            return
        try:
            data = os.read(self._descriptors[0], 4096)
        except OSError:
            return
        if not self.deaf:
            self.sender.receive(data, self.now_ms)
        self.run()
