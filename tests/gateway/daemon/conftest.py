"""A running gateway in the test's process, and boards beside it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.running_gateway import RunningGateway
from tests.support.simulated_board import SimulatedBoard


class Boards:
    """Makes boards in the test's folder, and unplugs them all at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.made: list[SimulatedBoard] = []

    def __call__(
        self, device_id: str, uid: bytes | None = None, *, port: str = ""
    ) -> SimulatedBoard:
        board = SimulatedBoard(self._folder, device_id, uid)
        if port:
            board.path = self._folder / f"tty-{port}"
        board.plug_in()
        self.made.append(board)
        return board


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """`gapless run` inside a test sets the process's logging up; undo that."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
async def boards(tmp_path: Path) -> AsyncIterator[Boards]:
    made = Boards(tmp_path)
    yield made
    for board in made.made:
        board.unplug()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """Not started yet: `await gateway.start(boards)`."""
    running = RunningGateway(tmp_path)
    yield running
    await running.stop()
