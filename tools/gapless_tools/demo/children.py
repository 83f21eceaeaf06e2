"""The demo's child processes: each in a session of its own, logging to a file, ended in order."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from gapless_tools.die_with_parent import command_line

STOP_TIMEOUT_S = 15.0


class Child:
    """One program that the demo starts, kills and starts again.

    A session of its own keeps the terminal's Ctrl-C away from it: the demo alone decides in which
    order its children end. It dies with the demo all the same, should the demo be killed.
    """

    def __init__(self, name: str, log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """What the last process ended with, None while it runs or before it was started."""
        return None if self._process is None else self._process.poll()

    def start(self, command: Sequence[str]) -> None:
        """Start the program; its output is appended to its log."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command_line(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End it at once with SIGKILL, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int | None:
        """Ask it to finish with SIGTERM, insist after a while; return its exit status."""
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return process.returncode

    def last_words(self, lines: int = 5) -> str:
        """Return the end of its log, for the sentence that says what went wrong."""
        with contextlib.suppress(OSError):
            text = self.log_path.read_text(errors="replace").strip()
            return "\n".join(text.splitlines()[-lines:])
        return ""
