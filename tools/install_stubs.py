"""Installs the stm32 type stubs into a folder of their own, once; the argument names the folder."""

import subprocess
import sys
from pathlib import Path

PACKAGE = "micropython-stm32-stubs"


def main(folder: Path) -> int:
    """Return pip's exit status, 0 when the stubs are there already."""
    if (folder / "stdlib").is_dir():
        return 0
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), PACKAGE]
    return subprocess.call(pip)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
