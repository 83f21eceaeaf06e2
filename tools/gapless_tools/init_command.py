"""`gapless init`: a commented configuration, and the folder for the gateway's log."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import click

from gapless_gateway.config import DEFAULT_CONFIG_FILE, DEFAULT_STATE_DIR, NAME_PATTERN, load
from gapless_gateway.errors import UserError

SERIAL_BY_ID = Path("/dev/serial/by-id")
STATE_DIR_MODE = 0o750

_TEMPLATE = """\
# Gapless gateway. Times are in the unit that ends a key's name. Relative paths start at this
# file's folder. `gapless run --config THIS_FILE --check` judges a change before you restart.

[gateway]
name = {name}           # stands in every topic: gapless/NAME/DEVICE/data
state_dir = {state_dir}   # the log, on a disk that keeps what it has synced

# One table per board. Use the stable name from `ls -l /dev/serial/by-id`, never ttyACM0: that
# one goes to whichever board is plugged in first. socket://HOST:PORT reaches a serial server.
{ports}
[broker]
host = "mqtt.example.org"      # <- set this
port = 8883
adapter = "mqtt5"              # or "aiomqtt", slower, which also speaks MQTT 3.1.1
# protocol = "3.1.1"           # only with adapter = "aiomqtt"
# client_id = "gapless-..."    # made from the gateway's name unless set
# username = "gateway"
# password_file = "broker-password"   # its first line is the password; chmod 600
keep_alive_s = 30
window = 100                   # publishes that may wait for their acknowledgement

[broker.tls]
enabled = true
# ca_file = "ca.pem"           # unless the broker's authority is one of the system's
# cert_file = "gateway.pem"    # our own certificate and key, where the broker asks for them
# key_file = "gateway.key"     # chmod 600

[delivery]
# "puback": delivered once the broker has acknowledged. "receipt": once the consumer's receipt has
# come; needs a consumer such as `gapless capture`, and survives a broker that loses its memory.
delivered_when = "puback"
encoding = "json"              # or "cbor"
receipt_timeout_s = 30
receipt_window = 10000         # messages that may wait for their receipt

[wal]
segment_bytes_max = 16777216
commit_linger_ms = 0           # wait so long for more records before each sync to the disk
# quota_bytes = 2000000000     # a ceiling for state_dir; none by default
# free_bytes_min = 67108864    # stays free on the disk; by default this, or a tenth of a small disk
on_full = "hold"               # or "drop-oldest": declare the oldest unsent records lost instead

[web]                          # /healthz, /metrics (Prometheus) and /account
host = "127.0.0.1"
port = 9468

[log]
level = "info"                 # "debug", "info", "warning", "error"
format = "json"                # or "text"
"""


@click.command(
    epilog="""\b
Examples:
  sudo gapless init
  gapless init --config hall-3.toml --state-dir hall-3-state --name hall-3
"""
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG_FILE,
    show_default=True,
    help="The file to write; it must not be there yet.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=DEFAULT_STATE_DIR,
    show_default=True,
    help="The folder for the gateway's log.",
)
@click.option("--name", help="The gateway's name.  [default: this machine's name]")
def command(config_file: Path, state_dir: Path, name: str | None) -> None:
    """Write a commented configuration and make the folder for the gateway's log.

    The serial devices that are plugged in now are entered as its ports. Nothing that is there
    already is changed.
    """
    name = name or _name_of_this_machine()
    if not NAME_PATTERN.fullmatch(name):
        raise UserError(
            f'--name {name}: a gateway\'s name may hold letters, digits, ".", "_" and "-" only '
            "and starts with a letter or a digit; choose another"
        )
    _write(config_file, render(name, state_dir.absolute(), serial_devices()))
    load(config_file)  # what we write is what we accept
    _make_state_dir(state_dir)
    click.echo(f"wrote {config_file}, and the folder {state_dir} for the log")
    click.echo(f"next: set host in [broker] and look at the ports, then run\n"
               f"  gapless run --config {config_file}")  # fmt: skip


def render(name: str, state_dir: Path, devices: list[str]) -> str:
    """Return the text of a configuration with these ports, or with an example to be changed."""
    tables = [f"[[port]]\npath = {_quoted(device)}\nbaud = 115200\n" for device in devices]
    if not tables:
        example = "/dev/serial/by-id/usb-MicroPython_Pyboard_Virtual_Comm_Port_in_FS_Mode-if01"
        tables = [f"[[port]]\npath = {_quoted(example)}   # <- set this\nbaud = 115200\n"]
    return _TEMPLATE.format(
        name=_quoted(name), state_dir=_quoted(str(state_dir)), ports="\n".join(tables)
    )


def serial_devices() -> list[str]:
    """Return the stable names of the serial devices that are plugged in now."""
    try:
        return sorted(str(path) for path in SERIAL_BY_ID.iterdir())
    except OSError:
        return []


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a TOML basic string too


def _name_of_this_machine() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64].lstrip("._-")
    return name or "gateway"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(
            f"{path} is there already and stays as it is; remove it or name another with --config"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); run with sudo, or name another file "
            "with --config"
        ) from None


def _make_state_dir(path: Path) -> None:
    try:
        path.mkdir(mode=STATE_DIR_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the folder {path} cannot be made ({error.strerror}); run with sudo, or name "
            "another with --state-dir"
        ) from None
