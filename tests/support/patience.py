"""Waiting that does not depend on how fast the machine is: it gives up when nothing moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

STANDSTILL_S = 45.0


async def as_long_as_it_moves(
    condition: Callable[[], Any], progress: Callable[[], object], what: str
) -> None:
    """Wait until the condition holds; fail once `progress` has stood still for a long time."""
    loop = asyncio.get_running_loop()
    last, moved_at_s = progress(), loop.time()
    while not condition():
        await asyncio.sleep(0.05)
        if (now := progress()) != last:
            last, moved_at_s = now, loop.time()
        elif loop.time() - moved_at_s > STANDSTILL_S:
            raise AssertionError(f"nothing moves any more at {now}, before {what}")
