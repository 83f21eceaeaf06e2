"""What is left running: processes whose command line or open folder names a path."""

from __future__ import annotations

import time
from pathlib import Path


def processes_that_name(folder: Path) -> list[str]:
    """Return the command line of every live process that names `folder` or works inside it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            works_in = (entry / "cwd").readlink()
        except OSError:
            continue  # it ended meanwhile, or is not ours
        if words and (str(folder) in words or works_in.is_relative_to(folder)):
            found.append(f"{entry.name}: {words}")
    return found


def wait_until_none_names(folder: Path, deadline_s: float = 20.0) -> list[str]:
    """Wait for the last of them to end; return those that never did."""
    until = time.monotonic() + deadline_s
    while (left := processes_that_name(folder)) and time.monotonic() < until:
        time.sleep(0.05)
    return left
