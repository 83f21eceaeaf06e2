"""Bounds that are large in a real gateway, made small so that short histories reach them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

BOUNDS = {
    "gapless_gateway.wal.space.RESERVE_BYTES": 8 * 1024,
    "gapless_gateway.wal.space.FREE_BYTES_MIN": 4 * 1024,
    "gapless_gateway.wal.log.NEW_SEGMENT_WORTH_BYTES": 1024,
    "gapless_gateway.intake.CREDIT_WINDOW_SEQS": 40,
    "gapless_gateway.intake.RECORD_COST_BYTES": 250,
    "gapless_gateway.intake.DROP_BELOW_BYTES": 12 * 1024,
    # Read from the metadata of the installed package at each start of the daemon.
    "gapless_gateway.daemon.version": lambda _name: "sim",
}


@contextmanager
def small_world() -> Iterator[None]:
    """Within the block the gateway's bounds are small."""
    with ExitStack() as stack:
        for name, value in BOUNDS.items():
            stack.enter_context(mock.patch(name, value))
        yield
