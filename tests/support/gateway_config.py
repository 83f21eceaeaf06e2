"""The configuration of a gateway that delivers to a local broker over TLS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gapless_tools.local_brokers import LocalBroker

GATEWAY_NAME = "hall-3"
# The smallest there are, so that they are begun and freed all the time.
SEGMENT_BYTES_MAX = 65536


def write_gateway_config(
    path: Path,
    *,
    state_dir: Path,
    ports: Iterable[Path],
    broker: LocalBroker,
    broker_port: int | None = None,
    delivery: Mapping[str, Any] | None = None,
    wal: Mapping[str, Any] | None = None,
) -> Path:
    """Write it to `path`. `broker_port`: where the broker is reached, unless at its own port."""
    tables = [
        ("[gateway]", {"name": GATEWAY_NAME, "state_dir": str(state_dir)}),
        *(("[[port]]", {"path": str(port)}) for port in ports),
        ("[broker]", {"host": broker.host, "port": broker_port or broker.port}),
        ("[broker.tls]", {"ca_file": str(broker.ca_file)}),
        ("[delivery]", dict(delivery or {})),
        ("[wal]", {"segment_bytes_max": SEGMENT_BYTES_MAX, **(wal or {})}),
        ("[web]", {"port": 0}),
    ]
    lines = []
    for head, keys in tables:
        lines.append(head)
        lines += [f"{name} = {_value(value)}" for name, value in keys.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _value(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
