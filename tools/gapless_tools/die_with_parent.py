"""A child that ends when its parent does: no demo and no test leaves a process behind.

`python -m gapless_tools.die_with_parent PARENT_PID PROGRAM [ARGUMENT ...]` asks the kernel for
SIGKILL at the parent's death and becomes PROGRAM; the request survives the exec and the process
id stays the same. A wrapper instead of `preexec_fn`, because running Python between fork and
exec of a process with threads can deadlock.

The kernel means the *thread* that started the child: start it from one that lives on, such as
the event loop's, not from a short-lived worker.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # linux/prctl.h
EXIT_CANNOT_RUN = 127


def die_with_parent(parent_pid: int) -> None:
    """Ask for SIGKILL when `parent_pid`, which must be the caller's parent, is gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    # The parent may have died before the request was made; then nobody would end us.
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def command_line(program: Sequence[str]) -> list[str]:
    """The command that runs `program` as a child which dies with this process."""
    return [sys.executable, "-P", "-m", "gapless_tools.die_with_parent", str(os.getpid()), *program]


def main(arguments: Sequence[str]) -> int:
    """Become the program; returns only if that failed."""
    parent_pid, *program = arguments
    die_with_parent(int(parent_pid))
    try:
        os.execvp(program[0], program)  # noqa: S606 - becoming another program is the purpose
    except OSError as error:
        print(f"cannot run {program[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
    return EXIT_CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
