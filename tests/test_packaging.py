"""What is shipped: the wheel carries the firmware, and finds it without a checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def in_another_folder(folder: Path, code: str) -> str:
    """Run `code` with this interpreter, isolated from the checkout."""
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


def test_the_installed_wheel_finds_its_firmware_outside_the_checkout(tmp_path: Path) -> None:
    where = in_another_folder(
        tmp_path, "import gapless_tools.firmware_files as f; print(f.__file__)"
    )
    if ROOT / "tools" in Path(where).parents:
        pytest.skip("Gapless is installed in editable mode here; tox tests the wheel")
    found = Path(
        in_another_folder(
            tmp_path,
            "from gapless_tools.firmware_files import firmware_dir; print(firmware_dir())",
        )
    )
    assert found != ROOT / "firmware"
    for source in (ROOT / "firmware").rglob("*.py"):
        assert (found / source.relative_to(ROOT / "firmware")).read_bytes() == source.read_bytes()
