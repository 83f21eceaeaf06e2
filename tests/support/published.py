"""Messages as a gateway publishes them, for tests of whoever consumes them."""

from __future__ import annotations

import json
from typing import Any

GATEWAY = "gw-1"
DEVICE = "pump-1"
STREAM = bytes.fromhex("0a1b2c3d")


def topic(kind: str, device: str = DEVICE) -> str:
    return f"gapless/{GATEWAY}/{device}/{kind}"


STATUS_TOPIC = f"gapless/{GATEWAY}/status"


def record(seq: int, *, stream: bytes = STREAM, device: str = DEVICE, **changed: Any) -> bytes:
    fields = {
        "v": 1, "device": device, "stream": stream.hex(), "boot": 1, "seq": seq,
        "t": "2026-03-01T12:00:00.250Z", "t_ms": 1772366400250, "t_err_ms": 3,
        "t_source": "link", "rx": "2026-03-01T12:00:00.290Z", "replay": False, "outage": 0,
        "redelivery": False, "tx": f"1-{seq}", "values": {"temperature": 21.5},
    }  # fmt: skip
    return json.dumps(fields | changed, separators=(",", ":")).encode()


def lost(first: int, last: int, *, device: str = DEVICE, **changed: Any) -> bytes:
    fields = {
        "v": 1, "device": device, "stream": STREAM.hex(), "first": first, "last": last,
        "reason": "overflow", "at_most": False, "rx": "2026-03-01T12:00:00.290Z",
        "replay": False, "outage": 0, "redelivery": False, "tx": f"1-{first}",
    }  # fmt: skip
    return json.dumps(fields | changed, separators=(",", ":")).encode()


def status(*bases: tuple[str, bytes, int], state: str = "online") -> bytes:
    streams = [
        {"device": device, "stream": stream.hex(), "base": base}
        for device, stream, base in bases or ((DEVICE, STREAM, 0),)
    ]
    fields = {"v": 1, "gateway": GATEWAY, "state": state, "run": 1, "streams": streams}
    return json.dumps(fields).encode()
