"""The settings of the publisher, apart from the broker's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class PublisherSettings:
    """How and what to publish, and every limit with its unit."""

    gateway: str  # the gateway's name in topics and messages
    delivered_when: Literal["puback", "receipt"] = "puback"
    encoding: Literal["json", "cbor"] = "json"
    window: int = 100  # unacknowledged publishes; the broker's Receive Maximum may lower it
    receipt_window: int = 10_000  # entries sent and not yet receipted
    receipt_timeout_s: float = 30.0  # no progress of a receipt heard for so long: send again
    read_ahead_entries: int = 256  # entries of the log held in memory ahead of the window
    send_mark_block_lsns: int = 4096
    bookkeeping_period_s: float = 1.0  # cursor, Progress, retiring
    retry_first_s: float = 0.1
    retry_cap_s: float = 0.7  # a broker that is not there: first record within 1 s of its return
    refused_retry_cap_s: float = 5.0  # one that does not want us is asked less often
    connection_of_use_s: float = 5.0  # one that lasted so long lets the waits begin anew
    stop_timeout_s: float = 2.0  # for the last acknowledgements at a clean stop
