"""The reasons of a LOST range, as words in messages and as sentences in reports."""

from __future__ import annotations

from gapless_gateway.wal.entries import (
    REASON_CORRUPTION,
    REASON_GATEWAY_ROLLBACK,
    REASON_OVERFLOW,
    REASON_QUOTA,
    REASON_REPLACED,
    REASON_RESET,
    REASON_RETIRED,
)

REASON_WORDS = {
    REASON_OVERFLOW: "overflow",
    REASON_RESET: "reset",
    REASON_REPLACED: "replaced",
    REASON_RETIRED: "retired",
    REASON_QUOTA: "quota",
    REASON_CORRUPTION: "corruption",
    REASON_GATEWAY_ROLLBACK: "gateway-rollback",
}

REASON_SENTENCES = {
    "overflow": "The board's buffer was full; it dropped records and declared them.",
    "reset": "The board restarted; what its memory held is gone.",
    "replaced": "The board was replaced; what the old one still held is gone.",
    "retired": "The board was retired by its owner.",
    "quota": "The gateway's disk quota was reached; whole ranges were dropped and declared.",
    "corruption": "The gateway's storage damaged them; what could be read was saved.",
    "gateway-rollback": "The gateway's log was set back to an older state.",
}


def reason_word(reason: int) -> str:
    """The word of a reason; a number that this version does not know stays a number."""
    return REASON_WORDS.get(reason, str(reason))
