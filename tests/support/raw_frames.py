"""Frames made and read without gapless_link: COBS, CRC-32 of zlib, cbor2, straight from the format.

For what a sound board never sends.
"""

from __future__ import annotations

import asyncio
import os
import tty
import zlib
from pathlib import Path
from typing import Any

import cbor2

FROM_BOARD = 0x10
HELLO, WELCOME, START, RECORDS, LOST, ACK, REJECT = range(1, 8)


def cobs(body: bytes) -> bytes:
    """Encode; without the closing zero."""
    out = bytearray()
    for run in _runs(body):
        out.append(len(run) + 1)
        out += run
    return bytes(out)


def _runs(body: bytes) -> list[bytes]:
    runs: list[bytes] = []
    for part in body.split(b"\0"):
        runs += [part[at : at + 254] for at in range(0, len(part) + 1, 254)]
    return runs


def uncobs(data: bytes) -> bytes:
    """Decode one frame; without the closing zero."""
    out, at = bytearray(), 0
    while at < len(data):
        code = data[at]
        out += data[at + 1 : at + code]
        at += code
        if code < 0xFF and at < len(data):
            out.append(0)
    return bytes(out)


def frame(
    message: Any, *, session: bytes = bytes(4), counter: int = 1, flags: int = FROM_BOARD
) -> bytes:
    """Return a frame; `message` is bytes of CBOR or an object for cbor2."""
    content = message if isinstance(message, bytes) else cbor2.dumps(message)
    body = bytes([flags]) + session + counter.to_bytes(4, "big") + content
    return cobs(body + zlib.crc32(body).to_bytes(4, "big")) + b"\0"


def hello(device_id: str = "raw-1", **changed: Any) -> list[Any]:
    """Return the array of a HELLO, by the names of docs/wire-format.md."""
    fields: dict[str, Any] = {
        "type": HELLO, "vmin": 1, "vmax": 1, "device_id": device_id, "uid": b"raw-uid",
        "stream": None, "boot": 1, "wraps": 0, "ticks_ms": 1000, "next": 1, "exact": True,
        "held": [], "acked": 0, "acked_by": None, "nonce": b"nonce-01", "limits": [512, 2048],
        "firmware": "raw", "board": "raw", "runtime": "raw",
    }  # fmt: skip
    assert changed.keys() <= fields.keys(), changed
    return list((fields | changed).values())


def start(welcome: Answer, *, counter: int = 1) -> bytes:
    """Return the START that belongs to a WELCOME."""
    message = [START, [0, 1010, 1, 5], welcome.message[7], b""]
    return frame(message, session=welcome.session, counter=counter)


class Answer:
    """A frame from the gateway, decoded."""

    def __init__(self, data: bytes) -> None:
        body = uncobs(data)
        assert zlib.crc32(body[:-4]).to_bytes(4, "big") == body[-4:]
        self.session = body[1:5]
        self.message: list[Any] = cbor2.loads(body[9:-4])
        self.kind: int = self.message[0]


class RawPort:
    """A pty whose other end is the test itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._master, self._slave = os.openpty()
        tty.setraw(self._master)
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        path.symlink_to(os.ttyname(self._slave))
        self._received = b""
        asyncio.get_running_loop().add_reader(self._master, self._readable)

    async def write(self, data: bytes) -> None:
        """Write all of it, as fast as the gateway reads."""
        while data:
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                await asyncio.sleep(0.005)

    def answers(self, kind: int | None = None) -> list[Answer]:
        """Return the gateway's frames so far, of one kind or all."""
        frames = [Answer(one) for one in self._received.split(b"\0")[:-1] if one]
        return [one for one in frames if kind in {None, one.kind}]

    def close(self) -> None:
        """Unplug."""
        asyncio.get_running_loop().remove_reader(self._master)
        self.path.unlink(missing_ok=True)
        os.close(self._master)
        os.close(self._slave)

    def _readable(self) -> None:
        self._received += os.read(self._master, 4096)
