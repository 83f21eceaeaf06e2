"""What a state directory and a capture must say after all that was done to them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gapless_tools.audit.run import run_audit
from tests.support.arrivals import Arrivals
from tests.support.gapless_command import gapless
from tests.support.load_board import LoadBoard

SHOWN = 5  # of what may be thousands


def check_stored(state_dir: Path, acked: Mapping[str, int]) -> None:
    """Right after a kill: the log on the disk has everything that a board was told is durable."""
    if not any(acked.values()):
        return  # nothing was promised, and there may be no log yet
    rows = {row["device"]: row for row in run_audit([state_dir]).evidence["streams"]}
    for device, seq in acked.items():
        if seq:
            row = rows[device]
            stored = row["base"] + row["produced"] - row["pending_device"]
            assert stored >= seq, f"{device}: acked through {seq}, and the log ends at {stored}"
            assert row["unexplained"] == 0, row


async def audit(state_dir: Path, capture: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Run the real `gapless audit`; returns its exit status and its evidence."""
    ended = await gapless("audit", state_dir, "--capture", capture, "--json", *options)
    assert ended.status in (0, 1), ended.errors
    return ended.status, json.loads(ended.output)


async def check_whole(state_dir: Path) -> None:
    """`gapless wal verify` finds no damage."""
    ended = await gapless("wal", "verify", state_dir)
    assert ended.status == 0, ended.output + ended.errors


def check_arrivals(
    arrivals: Arrivals, boards: Sequence[LoadBoard], *, forgetful_broker: bool = False
) -> None:
    """What arrived is what the boards made: whole, equal, in order, repeats flagged.

    `forgetful_broker`: it may have lost what it acknowledged, so that a first transmission never
    arrived and its repeat comes after higher seqs.
    """
    for board in boards:
        device = arrivals.devices[board.device]
        assert len(device.streams) == 1, f"{board.device} has more than one stream"
        assert device.lost == {}, f"{board.device}: declared lost: {device.lost}"
        numbers = range(1, board.produced + 1)
        wrong = sorted(set(device.first_arrivals) ^ set(numbers))
        assert not wrong, (
            f"{board.device}: {len(wrong)} are missing, or not its own: {wrong[:SHOWN]}"
        )
        if not forgetful_broker:
            assert device.first_arrivals == list(numbers), f"{board.device}: out of order"
        check_transmissions(arrivals, board)


def check_transmissions(arrivals: Arrivals, board: LoadBoard) -> None:
    """Order and flags of what arrived from one board, and its values."""
    device = arrivals.devices[board.device]
    faults = device.unflagged_repeats()
    assert not faults, f"{board.device}: {len(faults)} repeats without a flag: {faults[:SHOWN]}"
    faults = device.order_faults()
    assert not faults, f"{board.device}: {len(faults)} out of order: {faults[:SHOWN]}"
    for seq, copies in device.values.items():
        assert all(one == board.body_of(seq) for one in copies), f"{board.device}, seq {seq}"


def check_complete(status: int, evidence: Mapping[str, Any], boards: Sequence[LoadBoard]) -> None:
    """`PASS, complete`, and the figures behind it are those of the boards."""
    assert (status, evidence["verdict"], evidence["complete"]) == (0, "PASS", True), evidence
    rows = {row["device"]: row for row in evidence["streams"]}
    assert set(rows) == {board.device for board in boards}
    for board in boards:
        row = rows[board.device]
        assert row["produced"] == row["delivered"] == board.produced, row
        assert row["lost"] == row["quarantined"] == [], row
        for name in (
            "unexplained", "missing_at_consumer", "duplicates_unflagged", "order_violations",
            "conflicts", "pending_device", "pending_gateway",
        ):  # fmt: skip
            assert row[name] == 0, (name, row)
