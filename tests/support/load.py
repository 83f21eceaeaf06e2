"""Several boards that sample at once, and go on whatever happens to the gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.load_board import LoadBoard
from tests.support.patience import as_long_as_it_moves


class Load:
    """Plugs the boards in, lets them sample, and unplugs them at the end of the block."""

    def __init__(
        self, folder: Path, seed: int, *, boards: int, records_per_s: int, padding: int = 0
    ) -> None:
        """`records_per_s`: of each board, as long as the gateway takes them."""
        self.boards = [
            LoadBoard(
                folder,
                f"board-{number}",
                seed,
                records_per_s=records_per_s,
                padding=padding,
            )
            for number in range(1, boards + 1)
        ]
        self._sampling: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Plug in, and begin."""
        for board in self.boards:
            board.plug_in()
        self.go_on()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unplug."""
        await self.stop_sampling()
        for board in self.boards:
            board.unplug()

    def go_on(self) -> None:
        """Sample."""
        self._sampling = [asyncio.create_task(board.keep_sampling()) for board in self.boards]

    async def stop_sampling(self) -> None:
        """Sample no more; what is held is still sent. Raises what a board met."""
        sampling, self._sampling = self._sampling, []
        for task in sampling:
            task.cancel()
        for end in await asyncio.gather(*sampling, return_exceptions=True):
            if not isinstance(end, asyncio.CancelledError):
                raise end or AssertionError("a board stopped sampling by itself")

    def acked(self) -> dict[str, int]:
        """Return through which seq each board was told that its records are durable."""
        return {board.device: board.acked_through for board in self.boards}

    async def wait_for_acks(self, count: int = 1) -> None:
        """Wait until every board was acked `count` seqs more than now."""
        before = self.acked()
        await as_long_as_it_moves(
            lambda: all(self.acked()[one] >= seq + count for one, seq in before.items()),
            self.acked,
            f"every board is acked {count} more than {before}",
        )

    async def wait_until_all_is_acked(self) -> None:
        """Wait until no board holds anything."""
        await as_long_as_it_moves(
            lambda: not any(board.held for board in self.boards), self.acked, "all is acked"
        )
