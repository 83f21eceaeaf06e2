"""The firmware's plain tests pass under the MicroPython interpreter too, from the same files."""

from __future__ import annotations

import subprocess
from pathlib import Path

from gapless_tools.firmware_files import firmware_dir, link_dir
from tests.support.requirements import require_program

HERE = Path(__file__).resolve().parent


def test_the_firmware_passes_its_tests_under_micropython(tmp_path: Path) -> None:
    micropython = require_program("micropython", hint="pip install 'gapless[demo]'")
    finished = subprocess.run(
        [
            micropython, "-X", "heapsize=1M", str(HERE / "run_micropython.py"), str(tmp_path),
            str(firmware_dir()), str(link_dir().parent), str(HERE),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert " passed, 0 failed" in finished.stdout
