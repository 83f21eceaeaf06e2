"""When the gateway is killed, and what its broker does then: drawn from a seed."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass


class Moment(enum.Enum):
    """In which part of its life a process is killed."""

    STARTING = "while it starts or recovers"  # from its first instruction on
    SERVING = "just after its recovery"
    WORKING = "at work"
    ACKING = "as a board hears an ack"
    ROTATING = "as a new segment begins"
    RETIRING = "as a segment is freed"
    DRAINING = "while a backlog drains"


class Broker(enum.Enum):
    """What becomes of the broker before the kill."""

    THERE = "there"
    AWAY = "away"
    SILENT = "silent"  # its connections stay open and nothing is answered


# Each once in every round, so that a run of twelve has met all of them.
ROUND = (
    (Moment.STARTING, Broker.THERE),
    (Moment.STARTING, Broker.AWAY),
    (Moment.SERVING, Broker.THERE),
    (Moment.WORKING, Broker.THERE),
    (Moment.WORKING, Broker.AWAY),
    (Moment.WORKING, Broker.SILENT),
    (Moment.ACKING, Broker.THERE),
    (Moment.ACKING, Broker.AWAY),
    (Moment.ROTATING, Broker.THERE),
    (Moment.ROTATING, Broker.AWAY),
    (Moment.RETIRING, Broker.THERE),
    (Moment.DRAINING, Broker.THERE),
)


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill: where in the life, and how far (0 to 1) into that part of it."""

    moment: Moment
    broker: Broker
    fraction: float
    back_before_start: bool  # whether a broker that went is back before the next start

    def __str__(self) -> str:
        """For the account of a run."""
        return f"{self.moment.value} ({self.fraction:.3f}), broker {self.broker.value}"


def plan_kills(count: int, rng: random.Random) -> list[Kill]:
    """Return `count` kills: whole rounds in random order, the last one cut short."""
    kills: list[Kill] = []
    while len(kills) < count:
        for moment, broker in rng.sample(ROUND, len(ROUND)):
            kills.append(Kill(moment, broker, rng.random(), rng.random() < 0.5))
    return kills[:count]
