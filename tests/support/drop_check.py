"""What must hold when a gateway was allowed to drop its oldest records for want of space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.arrivals import Arrivals
from tests.support.books_check import check_transmissions
from tests.support.load_board import LoadBoard

REASON = "quota"


def check_dropped(
    arrivals: Arrivals, evidence: Mapping[str, Any], boards: Sequence[LoadBoard]
) -> int:
    """Everything is there, or declared lost in its place, on both sides; returns how many are."""
    rows = {row["device"]: row for row in evidence["streams"]}
    lost_in_all = 0
    for board in boards:
        device, row = arrivals.devices[board.device], rows[board.device]
        numbers = range(1, board.produced + 1)
        lost = {seq for one in row["lost"] for seq in range(one["first"], one["last"] + 1)}
        assert {(one["reason"], one["at_most"]) for one in row["lost"]} <= {(REASON, False)}, row
        # Exactly these were declared to the consumer, and exactly the others came.
        assert device.lost == dict.fromkeys(lost, REASON), board.device
        assert set(device.values) == set(numbers) - lost, board.device
        # In their place: each number, lost or not, came after the one before it.
        assert device.first_arrivals == list(numbers), board.device
        check_transmissions(arrivals, board)
        assert row["produced"] == board.produced == row["delivered"] + len(lost), row
        for name in ("unexplained", "missing_at_consumer", "duplicates_unflagged", "conflicts"):
            assert row[name] == 0, (name, row)
        lost_in_all += len(lost)
    return lost_in_all
