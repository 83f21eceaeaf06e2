"""Runs a board's boot.py and main.py on CPython, where there is no MicroPython.

Run as a script in the board's folder. The files are the same as on a board; what MicroPython has
and CPython lacks is put in place first. There is no raw REPL, so mpremote does not work with it.
"""

import os
import sys
import traceback
from pathlib import Path


def main() -> int:
    """Run boot.py, then main.py, like a board after a reset; return the exit status."""
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as MicroPython does it
    sys.print_exception = traceback.print_exception  # type: ignore[attr-defined]
    sys.dont_write_bytecode = True
    for name in ("boot.py", "main.py"):
        path = Path(name)
        if path.exists():
            code = compile(path.read_text(encoding="utf-8"), name, "exec")
            exec(code, {"__name__": "__main__"})  # noqa: S102 - this is what a board does
    print("This virtual board runs on CPython: there is no REPL. Ctrl-D resets it.")  # noqa: T201
    while sys.stdin.readline():
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
