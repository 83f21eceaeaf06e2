"""Asks the running gateway for its account, over its own web server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp

TIMEOUT_S = 2.0


async def fetch_account(state: Path) -> dict[str, Any] | None:
    """Return what the gateway of this state directory answers to /account; None when it is away."""
    try:
        address = json.loads((state / "runtime.json").read_text())["web"]
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{address}/account") as answer,
        ):
            account: dict[str, Any] = await answer.json()
            return account
    except (OSError, ValueError, KeyError, aiohttp.ClientError, TimeoutError):
        return None
