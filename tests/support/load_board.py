"""A board that samples as fast as it is allowed to, and whose values follow from seed and seq."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from gapless_link.sender import DURABLE
from tests.support.simulated_board import SimulatedBoard

TURN_S = 0.02
# Below the gateway's credit window, so that it is the outbox that stops a board, as on a real one.
HELD_MAX = 256


class LoadBoard(SimulatedBoard):
    """Samples until its outbox is full; goes on as soon as the gateway has made room in it.

    Nothing is ever dropped: what is missing in the end, the gateway has lost.
    """

    def __init__(
        self, folder: Path, device_id: str, seed: int, *, records_per_s: int, padding: int = 0
    ) -> None:
        """`padding`: bytes that make each record longer."""
        self._seed = f"{seed}/{device_id}/"
        self._burst = max(1, round(records_per_s * TURN_S))
        self._padding = "x" * padding
        self.longest_wait_s = 0.0  # between two acks, since `watch_waits`
        self._acked_at_s = time.monotonic()
        self.when_acked: Callable[[], None] | None = None  # called once, at the very moment
        super().__init__(folder, device_id)

    @property
    def device(self) -> str:
        """The name of the device."""
        return str(self.identity.device_id)

    @property
    def produced(self) -> int:
        """The highest seq that was used."""
        return self.outbox.next_seq - 1

    @property
    def held(self) -> int:
        """How many records are not acked yet."""
        return len(self.outbox.records)

    @property
    def is_full(self) -> bool:
        """Whether nothing more fits into the outbox."""
        return self.held >= HELD_MAX

    @property
    def is_stopped(self) -> bool:
        """Whether it holds all that it can hold, and the gateway has forbidden it to send."""
        return self.linked and self.is_full and self.sender.credit <= self.acked_through

    def body_of(self, seq: int) -> dict[str, object]:
        """Return values that no other seq, device or seed has."""
        body: dict[str, object] = {
            "value": seq,
            "check": zlib.crc32(f"{self._seed}{seq}".encode()) & 0x3FFFFFFF,
        }
        return body | {"padding": self._padding} if self._padding else body

    def _handle(self, event: object) -> None:
        super()._handle(event)
        if event != DURABLE:
            return
        now_s = time.monotonic()
        self.longest_wait_s = max(self.longest_wait_s, now_s - self._acked_at_s)
        self._acked_at_s = now_s
        if self.when_acked is not None:
            when_acked, self.when_acked = self.when_acked, None
            when_acked()

    def watch_waits(self) -> None:
        """Begin to measure how long the gateway lets this board wait for an ack."""
        self.longest_wait_s, self._acked_at_s = 0.0, time.monotonic()

    async def keep_sampling(self) -> None:
        """Sample until cancelled."""
        while True:
            if (room := HELD_MAX - self.held) > 0:
                self.sample(min(room, self._burst))
            await asyncio.sleep(TURN_S)
