"""The memory of the real gateway process, started on a state directory."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

DEADLINE_S = 120.0
SETTLED_AFTER_S = 3.0


def gateway_memory_bytes(folder: Path, state_dir: Path) -> float:
    """Run `gapless run` on the state directory, its broker away; return its settled PSS.

    PSS is what the process holds itself, and its share of what it shares with others.
    """
    config = folder / "gateway.toml"
    config.write_text(
        f'[gateway]\nname = "bench"\nstate_dir = "{state_dir}"\n'
        f'[[port]]\npath = "{folder / "no-board"}"\n'
        f'[broker]\nhost = "127.0.0.1"\nport = {_closed_port()}\n'
        "[broker.tls]\nenabled = false\n[web]\nport = 0\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "gapless_tools.cli", "run", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_it_serves(process, state_dir / "runtime.json")
            time.sleep(SETTLED_AFTER_S)
            return _pss_bytes(process.pid)
        finally:
            process.terminate()


def _wait_until_it_serves(process: subprocess.Popen[bytes], runtime_file: Path) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < until_s and process.poll() is None:
        if runtime_file.exists() and json.loads(runtime_file.read_text())["pid"] == process.pid:
            return
        time.sleep(0.05)
    raise RuntimeError("the gateway did not start")


def _pss_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    match = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
    assert match is not None
    return 1024 * int(match.group(1))


def _closed_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
