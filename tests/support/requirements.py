"""Programs and packages that some tests need and a machine may lack.

A missing one skips the test with its reason. With GAPLESS_REQUIRE_ALL=1, as in CI, the same
reason is a failure: a skip that nobody looks at would let a promise go untested.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest


def require_program(name: str, *, hint: str = "") -> str:
    """Return the path of the program `name`, or skip (fail, where nothing may be skipped)."""
    beside_interpreter = Path(sys.executable).parent / name
    path = str(beside_interpreter) if beside_interpreter.exists() else shutil.which(name)
    if path is None and Path("/usr/sbin", name).exists():  # Debian: not on a user's PATH
        path = f"/usr/sbin/{name}"
    if path is None:
        _missing(f"needs the program {name}" + (f" ({hint})" if hint else ""))
    return path


def require_module(name: str, *, hint: str = "") -> None:
    """Skip (fail, where nothing may be skipped) when the Python module `name` is missing."""
    if importlib.util.find_spec(name) is None:
        _missing(f"needs the Python module {name}" + (f" ({hint})" if hint else ""))


def _missing(reason: str) -> None:
    if os.environ.get("GAPLESS_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}, and GAPLESS_REQUIRE_ALL=1 forbids to skip it", pytrace=False)
    pytest.skip(reason)
