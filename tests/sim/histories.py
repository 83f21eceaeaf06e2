"""Many histories, one after the other, and what happened in them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.sim.shrinking import Failure, failure_of, shrink
from tests.sim.small_world import small_world
from tests.sim.world import Tally, World, plan_of

SEED_DEFAULT = 20261124
HISTORIES_DEFAULT = 2000
FAILURES_MAX = 3  # then there is enough to look at


@dataclass
class Outcome:
    """Of a run of many histories."""

    seed: int
    histories: int = 0
    took_s: float = 0.0
    tally: Tally = field(default_factory=Tally)
    failures: list[Failure] = field(default_factory=list)

    def __str__(self) -> str:
        rate = self.histories / max(self.took_s, 0.001)
        lines = [
            f"GAPLESS_SEED={self.seed} GAPLESS_HISTORIES={self.histories}: "
            f"{self.took_s:.1f} s, {rate:.0f} histories/s",
            f"faults: {dict(self.tally.faults.most_common())}",
            f"refusals to start: {dict(self.tally.refusals)}",
            f"facts: {dict(self.tally.facts)}",
        ]
        return "\n".join([*lines, *map(str, self.failures)])


def base_seed() -> int:
    """Where the seeds begin: GAPLESS_SEED."""
    return int(os.environ.get("GAPLESS_SEED", SEED_DEFAULT))


def histories_wanted() -> int:
    """How many: GAPLESS_HISTORIES."""
    return int(os.environ.get("GAPLESS_HISTORIES", HISTORIES_DEFAULT))


def play_many(
    seed: int, histories: int, on_progress: Callable[[Outcome], None] | None = None
) -> Outcome:
    """Play the histories seed, seed + 1, ...; failures come back shortened."""
    outcome = Outcome(seed)
    began_s = time.monotonic()
    logging.disable(logging.CRITICAL)  # the gateway's own words about thousands of faults
    try:
        with small_world():
            for number in range(seed, seed + histories):
                _play_one(number, outcome)
                outcome.histories += 1
                outcome.took_s = time.monotonic() - began_s
                if on_progress is not None:
                    on_progress(outcome)
                if len(outcome.failures) >= FAILURES_MAX:
                    break
    finally:
        logging.disable(logging.NOTSET)
    return outcome


def _play_one(number: int, outcome: Outcome) -> None:
    plan = plan_of(number)
    try:
        World(plan, outcome.tally).play()
    except Exception:
        failure = failure_of(plan)
        assert failure is not None, f"seed {number} fails only once: the world is not deterministic"
        outcome.failures.append(shrink(failure))
