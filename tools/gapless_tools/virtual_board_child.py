"""What a virtual board's process does before it becomes the interpreter.

python -P -m gapless_tools.virtual_board_child PARENT_PID PROGRAM [ARGUMENT ...]
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import termios
from collections.abc import Sequence

from gapless_tools.die_with_parent import die_with_parent


def command_line(program: Sequence[str]) -> list[str]:
    """The command that runs `program` on the terminal that it gets as standard input."""
    module = "gapless_tools.virtual_board_child"
    return [sys.executable, "-P", "-m", module, str(os.getpid()), *program]


def main(arguments: Sequence[str]) -> None:
    """Take the terminal, tie this life to the parent's, and become the program."""
    parent_pid, *program = arguments
    die_with_parent(int(parent_pid))
    # The terminal's Ctrl-C belongs to the board's program, like on a board.
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # Until the interpreter listens to Ctrl-C, it must not die of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.execv(program[0], program)  # noqa: S606 - becoming another program is the purpose


if __name__ == "__main__":
    main(sys.argv[1:])
