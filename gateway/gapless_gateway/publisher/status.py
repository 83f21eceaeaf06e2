"""The retained status of the gateway, and the last will that takes its place.

`gapless/{gateway}/status`, always JSON, whatever the encoding of records is:

    {"v":1,"gateway":"hall-3","state":"online","run":12,"log_id":"...","since":"...Z",
     "delivered_when":"puback","streams":[{"device":"pump-1","stream":"0a1b2c3d","base":0}]}

`base` is where the account of a stream starts: a consumer that comes late begins there. `since` is
when the gateway connected, or left in order; it is null in the last will, which the broker sends
when it has lost us at a moment that nobody could write down beforehand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from gapless_gateway.brokers.base import OutgoingMessage
from gapless_gateway.publisher.message import rfc3339


class StreamFacts(Protocol):
    """What the status says of a stream; account.StreamAccount has it."""

    device: str
    stream: bytes
    base: int


@dataclass(frozen=True, slots=True)
class StatusMaker:
    """Makes the status messages of one run."""

    gateway: str
    run: int
    log_id: bytes
    delivered_when: str

    def online(self, since_ms: int, streams: Iterable[StreamFacts]) -> OutgoingMessage:
        """Connected since then."""
        return self._message("online", since_ms, streams)

    def offline(self, since_ms: int, streams: Iterable[StreamFacts]) -> OutgoingMessage:
        """Stopped in order."""
        return self._message("offline", since_ms, streams)

    def will(self, streams: Iterable[StreamFacts]) -> OutgoingMessage:
        """For the broker to publish when it loses us."""
        return self._message("offline", None, streams)

    def _message(
        self, state: str, since_ms: int | None, streams: Iterable[StreamFacts]
    ) -> OutgoingMessage:
        status = {
            "v": 1,
            "gateway": self.gateway,
            "state": state,
            "run": self.run,
            "log_id": self.log_id.hex(),
            "since": None if since_ms is None else rfc3339(since_ms),
            "delivered_when": self.delivered_when,
            "streams": [
                {"device": one.device, "stream": one.stream.hex(), "base": one.base}
                for one in streams
            ],
        }
        return OutgoingMessage(
            f"gapless/{self.gateway}/status",
            json.dumps(status, separators=(",", ":")).encode(),
            retain=True,
        )
