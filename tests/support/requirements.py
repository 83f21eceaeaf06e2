"""Programs and packages that some tests need and a machine may lack.

A missing one skips the test with its reason. With GAPLESS_REQUIRE_ALL=1, as in CI, the same
reason is a failure: a skip that nobody looks at would let a promise go untested. Only the right
to mount is not asked of everybody: a user who has it not cannot install it either.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest

CAP_SYS_ADMIN = 21  # linux/capability.h


def require_program(name: str, *, hint: str = "") -> str:
    """Return the path of the program `name`, or skip (fail, where nothing may be skipped)."""
    beside_interpreter = Path(sys.executable).parent / name
    path = str(beside_interpreter) if beside_interpreter.exists() else shutil.which(name)
    if path is None and Path("/usr/sbin", name).exists():  # Debian: not on a user's PATH
        path = f"/usr/sbin/{name}"
    if path is None:
        fail_or_skip(f"needs the program {name}" + (f" ({hint})" if hint else ""))
    return path


def require_module(name: str, *, hint: str = "") -> None:
    """Skip (fail, where nothing may be skipped) when the Python module `name` is missing."""
    if importlib.util.find_spec(name) is None:
        fail_or_skip(f"needs the Python module {name}" + (f" ({hint})" if hint else ""))


def require_right_to_mount() -> None:
    """Skip where this process may not mount file systems, whatever else may be skipped."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    rights = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    if not int(rights.split()[1], 16) >> CAP_SYS_ADMIN & 1:
        pytest.skip("needs the right to mount a small file system: run it as root")


def fail_or_skip(reason: str) -> NoReturn:
    """Skip for this reason, or fail where nothing may be skipped."""
    if os.environ.get("GAPLESS_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}, and GAPLESS_REQUIRE_ALL=1 forbids to skip it", pytrace=False)
    pytest.skip(reason)
