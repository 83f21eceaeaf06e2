"""How long and how hard the tests that kill are to run; from the environment.

GAPLESS_SOAK_KILLS   how many kills (12)
GAPLESS_SOAK_BOARDS  how many boards (4)
GAPLESS_SOAK_LIFE_S  for how long a gateway that works is left alive at most, in seconds (1.5)
GAPLESS_SEED         what the moments are drawn from; a new one each time unless it is given
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Soak:
    """The settings of one run."""

    kills: int
    boards: int
    life_s: float
    seed: int

    def rng(self) -> random.Random:
        """Return a new source of this run's random numbers."""
        return random.Random(self.seed)


@contextmanager
def soak_settings() -> Iterator[Soak]:
    """Say the seed at the start, and once more with whatever goes wrong."""
    environment = os.environ.get
    soak = Soak(
        kills=int(environment("GAPLESS_SOAK_KILLS") or 12),
        boards=int(environment("GAPLESS_SOAK_BOARDS") or 4),
        life_s=float(environment("GAPLESS_SOAK_LIFE_S") or 1.5),
        seed=int(environment("GAPLESS_SEED") or secrets.randbelow(1 << 32)),
    )
    print(f"GAPLESS_SEED={soak.seed}", flush=True)
    try:
        yield soak
    except BaseException as error:
        error.add_note(f"run it again with GAPLESS_SEED={soak.seed}")
        raise
