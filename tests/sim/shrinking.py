"""A history that breaks a promise, made short: fewer steps, fewer kinds of fault, the same promise.

A step has a random number generator of its own, so leaving one out leaves the others as they were
(as far as they do not depend on what it did).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from tests.sim.truth import BrokenPromise
from tests.sim.world import Plan, World

SHRINKING_S_MAX = 20.0
LAST_EVENTS = 40


@dataclass
class Failure:
    """What broke, and the shortest history found that breaks it."""

    plan: Plan
    name: str
    words: str
    events: list[str]

    def __str__(self) -> str:
        lines = [
            f"{self.words}",
            f"seed {self.plan.seed}, {len(self.plan.steps)} steps: {list(self.plan.steps)}",
            f"faults: {', '.join(sorted(self.plan.kinds)) or 'none'}",
            f"to tell it again: PYTHONPATH=. python -m tests.sim --replay {self.plan.seed}",
            "its last events:",
            *(f"    {one}" for one in self.events[-LAST_EVENTS:]),
        ]
        return "\n".join(lines)


def failure_of(plan: Plan) -> Failure | None:
    """Play a plan; what broke, or None."""
    world = World(plan)
    try:
        world.play()
    except BrokenPromise as broken:
        return Failure(plan, broken.name, str(broken), world.truth.events)
    except Exception as error:  # a promise as well: nothing of the gateway's code may raise it
        name = type(error).__name__
        return Failure(plan, name, f"{name}: {error}", world.truth.events)
    return None


def shrink(failure: Failure) -> Failure:
    """The shortest history found that breaks the same promise, within a bounded time."""
    until = time.monotonic() + SHRINKING_S_MAX
    shortest = _shorter_end(failure, until)
    for kind in sorted(shortest.plan.kinds):
        plan = replace(shortest.plan, kinds=shortest.plan.kinds - {kind})
        shortest = _if_same(plan, shortest, until)
    return _without_pieces(shortest, until)


def _if_same(plan: Plan, before: Failure, until: float) -> Failure:
    """The failure of `plan` if it breaks the same promise, else the one before."""
    if time.monotonic() > until:
        return before
    found = failure_of(plan)
    return found if found is not None and found.name == before.name else before


def _shorter_end(failure: Failure, until: float) -> Failure:
    """The bisected number of steps."""
    shortest, low = failure, 0
    while low < len(shortest.plan.steps) - 1 and time.monotonic() < until:
        middle = (low + len(shortest.plan.steps)) // 2
        found = _if_same(
            replace(shortest.plan, steps=shortest.plan.steps[:middle]), shortest, until
        )
        if found is shortest:
            low = middle
        shortest = found
    return shortest


def _without_pieces(failure: Failure, until: float) -> Failure:
    """Leave out pieces, smaller and smaller ones."""
    shortest = failure
    size = max(1, len(shortest.plan.steps) // 2)
    while time.monotonic() < until:
        at = 0
        while at < len(shortest.plan.steps):
            steps = shortest.plan.steps
            found = _if_same(
                replace(shortest.plan, steps=steps[:at] + steps[at + size :]), shortest, until
            )
            if found is shortest:
                at += size
            shortest = found
        if size == 1:
            break
        size = max(1, size // 2)
    return shortest
