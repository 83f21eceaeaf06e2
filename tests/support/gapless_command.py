"""The `gapless` command, run to its end as a person runs it."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

DEADLINE_S = 120.0


@dataclass(frozen=True)
class Ended:
    """What a command said, and how it ended."""

    status: int
    output: str
    errors: str


async def gapless(*arguments: object) -> Ended:
    """Run `gapless ARGUMENTS`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gapless_tools.cli", *map(str, arguments),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(DEADLINE_S):
            output, errors = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return Ended(process.returncode or 0, output.decode(), errors.decode())
