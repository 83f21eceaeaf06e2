"""The firmware on the path, a folder of its own for each test, boards that are always stopped."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gapless_tools.firmware_files import firmware_dir
from gapless_tools.virtual_board import VirtualBoard

sys.path.append(str(firmware_dir()))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest_asyncio.fixture
async def new_board(tmp_path: Path) -> AsyncIterator[Callable[..., VirtualBoard]]:
    """Return a function that makes boards; they are stopped at the end."""
    boards: list[VirtualBoard] = []

    def make(device: str = "pump-1", **options: Any) -> VirtualBoard:
        board = VirtualBoard(tmp_path / device, device, **options)
        boards.append(board)
        return board

    yield make
    for board in boards:
        await board.stop()
