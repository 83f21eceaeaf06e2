"""Receipts: what a consumer says it has, checked before it is believed.

A receipt is `{"device","stream","through"}` on `gapless/{gateway}/receipt/{device}`, retained. It
moves delivered-through only as far as entries were sent. A receipt may come before we have sent
anything in this run (it is retained, and about an earlier run): it is kept, and what is then read
from the log and may have been sent before is passed over. Everything else that is beyond what was
sent is refused and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

PAYLOAD_BYTES_MAX = 1024
SEQ_MAX = (1 << 30) - 1


class ReceiptRefused(ValueError):
    """A receipt that cannot be believed; the message is the name under which it is counted."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The consumer says that it has everything of the stream up to `through`."""

    device: str
    stream: bytes
    through: int


def topic_filter(gateway: str) -> str:
    """Where receipts of all devices come from."""
    return f"gapless/{gateway}/receipt/+"


def parse(topic: str, payload: bytes) -> Receipt:
    """The receipt in a message. Raises ReceiptRefused("malformed")."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise ReceiptRefused("malformed")
    try:
        fields: Any = json.loads(payload)
        device, stream, through = fields["device"], fields["stream"], fields["through"]
        stream_id = bytes.fromhex(stream)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ReceiptRefused("malformed") from None
    if type(device) is not str or type(through) is not int or len(stream_id) != 4:
        raise ReceiptRefused("malformed")
    if not 0 <= through <= SEQ_MAX or topic.rsplit("/", 1)[-1] != device:
        raise ReceiptRefused("malformed")
    return Receipt(device, stream_id, through)


class Receipts:
    """What was heard, per stream, and whether a consumer was heard in this broker session."""

    def __init__(self) -> None:
        self.heard: dict[bytes, int] = {}
        self.heard_in_session = False
        self.accepted = 0
        self.refused: Counter[str] = Counter()

    def begin_session(self) -> None:
        """A new broker session: whoever was there before need not be there now."""
        self.heard_in_session = False

    def accept(
        self, receipt: Receipt, *, device: str | None, durable: int, sent: int, delivered: int
    ) -> int:
        """Check a receipt against what is known of its stream; the seq it is believed up to.

        `device`: whose stream this is, None if unknown here. `durable`: the highest seq in the
        log. `sent`: the highest seq that may have been sent, by this run or one before.
        `delivered`: delivered-through. Raises ReceiptRefused.
        """
        if device is None or device != receipt.device:
            raise ReceiptRefused("stranger")
        if receipt.through > min(durable, sent):
            raise ReceiptRefused("beyond-sent")
        self.heard_in_session = True
        if receipt.through < delivered:
            raise ReceiptRefused("backwards")
        self.heard[receipt.stream] = max(self.heard.get(receipt.stream, 0), receipt.through)
        self.accepted += 1
        return receipt.through
