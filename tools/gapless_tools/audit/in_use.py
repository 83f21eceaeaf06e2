"""Whether a gateway runs on a state directory, asked without touching its lock."""

from __future__ import annotations

import os
from pathlib import Path

_LOCKS = Path("/proc/locks")


def is_in_use(lock: Path) -> bool:
    """Whether someone on this machine holds the lock file; False where that cannot be known.

    The kernel lists every lock as `ID: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE ...`, the device
    in hexadecimal. Trying to take the lock instead could keep a gateway from starting.
    """
    try:
        status = lock.stat()
        lines = _LOCKS.read_text("ascii").splitlines()
    except OSError:
        return False
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any(device in line.split() for line in lines)
