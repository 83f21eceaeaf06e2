"""`gapless capture`, the reference consumer: keep all that a gateway publishes, and receipt it."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from gapless_gateway.errors import UserError
from gapless_tools.capture_broker import BrokerOptions
from gapless_tools.capture_client import Capture
from gapless_tools.capture_progress import CaptureProgress
from gapless_tools.capture_store import CaptureStore

TERMINAL_INTERVAL_S = 0.5
LOG_INTERVAL_S = 5.0
EPILOG = """\b
Examples:
  gapless capture --host broker.example --ca-file ca.pem --gateway gw-1 --out capture/
  gapless capture --host 127.0.0.1 --port 1883 --no-tls --gateway gw-1 --out capture/ --json
"""


@click.command(epilog=EPILOG)
@click.option("--host", required=True, help="The broker's name or address.")
@click.option("--port", type=click.IntRange(1, 65535), default=8883, show_default=True)
@click.option("--gateway", required=True, help="Whose messages: [gateway] name of its settings.")
@click.option(
    "--out",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Holds capture.jsonl; a capture that is there is continued.",
)
@click.option("--ca-file", type=click.Path(path_type=Path), help="PEM; else the system's.")
@click.option("--cert-file", type=click.Path(path_type=Path), help="Our certificate, PEM.")
@click.option("--key-file", type=click.Path(path_type=Path), help="Its key, PEM, unencrypted.")
@click.option("--no-tls", is_flag=True, help="Connect without TLS.")
@click.option("--username")
@click.option("--password-file", type=click.Path(path_type=Path), help="Its first line is used.")
@click.option(
    "--mqtt-version",
    "protocol",
    type=click.Choice(["5", "3.1.1"]),
    default="5",
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Show the progress as lines of JSON.")
def command(
    directory: Path, gateway: str, *, no_tls: bool, as_json: bool, **connection: Any
) -> None:
    """Keep everything a gateway publishes in DIR/capture.jsonl, and receipt it.

    Each message is on the disk before it is receipted, so a gateway with delivered_when = "receipt"
    forgets nothing that is not here. Runs until Ctrl-C or SIGTERM, through outages of the broker.
    """
    if not gateway or set(gateway) & set("/+#"):
        raise UserError(f"--gateway {gateway!r} cannot be the name of a gateway")
    options = BrokerOptions(tls=not no_tls, **connection)
    options.check()
    logging.getLogger("mqtt").setLevel(logging.CRITICAL)  # aiomqtt's; we say what matters
    progress = CaptureProgress()
    store = CaptureStore.open(directory, gateway, progress.note)
    try:
        asyncio.run(_run(gateway, options, store, progress, Display(as_json)))
    finally:
        store.close()


class Display:
    """One line that is written over on a terminal; else a line every few seconds, or JSON."""

    def __init__(self, as_json: bool) -> None:
        """Writes to standard output if `as_json`, else to standard error."""
        self._json = as_json
        self._live = not as_json and sys.stderr.isatty()
        self.interval_s = TERMINAL_INTERVAL_S if self._live else LOG_INTERVAL_S
        self._last: dict[str, Any] | None = None

    def tell(self, sentence: str) -> None:
        """Show an event."""
        if not self._json:
            click.echo(("\r\x1b[K" if self._live else "") + f"capture: {sentence}", err=True)

    def show(self, status: dict[str, Any], *, last: bool = False) -> None:
        """Show where the capture is, if that has changed."""
        if status == self._last and not last:
            return
        self._last = status
        if self._json:
            click.echo(json.dumps({"at_ms": time.time_ns() // 1_000_000, **status}))
        elif self._live and not last:
            click.echo(f"\r\x1b[K{_line(status)}", err=True, nl=False)
        else:
            click.echo(("\r\x1b[K" if self._live else "") + f"capture: {_line(status)}", err=True)


def _line(status: dict[str, Any]) -> str:
    words = [
        "connected" if status["connected"] else "not connected",
        f"{status['messages']} messages",
        f"{status['repeated']} repeated",
    ]
    for name, label in (("conflicts", "CONFLICTS"), ("not_understood", "not understood")):
        if status[name]:
            words.append(f"{status[name]} {label}")
    for stream in status["streams"]:
        through = "no base yet" if stream["through"] is None else f"through {stream['through']}"
        gap = f" ({stream['missing']} missing)" if stream["missing"] else ""
        words.append(f"{stream['device']} {through}{gap}")
    return ", ".join(words)


async def _run(
    gateway: str,
    options: BrokerOptions,
    store: CaptureStore,
    progress: CaptureProgress,
    display: Display,
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if store.damaged_lines:
        display.tell(f"{store.damaged_lines} unreadable lines are not counted as received")
    capture = Capture(gateway, options, store, progress, jitter=random.random, tell=display.tell)

    def status() -> dict[str, Any]:
        return {"connected": capture.connected, **progress.as_dict()}

    async def show() -> None:
        while True:
            await asyncio.sleep(display.interval_s)
            display.show(status())

    showing = asyncio.create_task(show(), name="capture display")
    try:
        await capture.run(stop)
    finally:
        showing.cancel()
    display.show(status(), last=True)
