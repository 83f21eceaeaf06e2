"""The demo's folder: what it holds, and how it is made and taken away again."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from gapless_gateway.errors import UserError

GATEWAY_NAME = "demo"

CONFIGURATION = """\
# The configuration of the gateway that this demo ran. `gapless init` writes one with every key
# explained; here stands only what differs from the defaults.

[gateway]
name = "{gateway}"
state_dir = "{state_dir}"
{ports}
[broker]
host = "{host}"
port = {port}

[broker.tls]
ca_file = "{ca_file}"

[delivery]
# The broker is killed with what it had acknowledged and not yet passed on, so its word is not
# enough here: a record is delivered when the consumer says so.
delivered_when = "receipt"
receipt_timeout_s = 2

[web]
port = 0  # any free one; it is written to {state_dir}/runtime.json
"""


class Workplace:
    """Paths of one demo. The folder is its own: made by it, and removed when it is interrupted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.configuration = root / "gateway.toml"
        self.state = root / "state"
        self.broker = root / "broker"
        self.capture = root / "capture"
        self.boards = root / "boards"
        self.logs = root / "logs"

    def board(self, device: str) -> Path:
        """Return the folder that is a board's file system."""
        return self.boards / device

    def port(self, device: str) -> Path:
        """Return the stable name of a board's serial port."""
        return self.root / "ports" / device

    def write_configuration(self, devices: list[str], host: str, port: int, ca_file: Path) -> str:
        """Write gateway.toml and return its text."""
        ports = "".join(f'\n[[port]]\npath = "{self.port(device)}"\n' for device in devices)
        text = CONFIGURATION.format(
            gateway=GATEWAY_NAME,
            state_dir=self.state,
            ports=ports,
            host=host,
            port=port,
            ca_file=ca_file,
        )
        self.configuration.write_text(text)
        return text

    def remove(self) -> None:
        """Take everything away, as if the demo had not been run."""
        shutil.rmtree(self.root, ignore_errors=True)


def make_workplace(report: Path | None) -> Workplace:
    """Make the folder of a demo. Raises UserError when `report` is taken or cannot be made."""
    try:
        root = _make_default() if report is None else _make_named(report)
    except OSError as error:
        raise UserError(
            f"the folder {report or Path.cwd()} cannot be made or written ({error.strerror}); "
            "name another with --report."
        ) from None
    place = Workplace(root.resolve())
    for folder in (place.state, place.boards, place.logs, place.root / "ports"):
        folder.mkdir()
    return place


def _make_named(root: Path) -> Path:
    if root.is_dir() and any(root.iterdir()):
        raise UserError(f"--report {root} is not empty; name a folder that the demo can fill.")
    root.mkdir(parents=True, exist_ok=True)
    return root


def _make_default() -> Path:
    """Make a folder that no other demo has: two may start here in the same second."""
    stamp = time.strftime("gapless-demo-%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        root = Path(stamp if number == 1 else f"{stamp}-{number}")
        try:
            root.mkdir()
        except FileExistsError:
            continue
        return root
    raise UserError("there are too many folders gapless-demo-... here; remove some.")
