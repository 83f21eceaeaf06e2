"""The reasons of a LOST range, as sentences in reports."""

from __future__ import annotations

REASON_SENTENCES = {
    "overflow": "The board's buffer was full; it dropped records and declared them.",
    "reset": "The board restarted; what its memory held is gone.",
    "replaced": "The board was replaced; what the old one still held is gone.",
    "retired": "The board was retired by its owner.",
    "quota": "The gateway's disk quota was reached; whole ranges were dropped and declared.",
    "corruption": "The gateway's storage damaged them; what could be read was saved.",
    "discarded": "The broker refused them for good, and the owner of the gateway gave them up.",
    "gateway-rollback": "The gateway's log was set back to an older state.",
}
