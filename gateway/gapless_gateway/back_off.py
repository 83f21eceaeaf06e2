"""Back-off for what heals by itself: doubling, capped, jittered."""

from __future__ import annotations

import random


class BackOff:
    """Delays that double from `first_s` to `max_s`, each shortened by up to half at random.

    The jitter keeps many ports (or gateways) that failed at one moment from trying again at one
    moment.
    """

    def __init__(self, first_s: float, max_s: float, rng: random.Random | None = None) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._next_s = first_s
        self._random = rng or random.Random()  # noqa: S311 - jitter, no secret
        self.attempts = 0  # since the last reset()

    def next_delay_s(self) -> float:
        """Return how long to wait before the next attempt, in seconds."""
        self.attempts += 1
        delay_s = self._next_s * self._random.uniform(0.5, 1.0)
        self._next_s = min(self._next_s * 2, self._max_s)
        return delay_s

    def worth_a_line(self) -> bool:
        """Return whether this attempt is to be logged: the 1st, 2nd, 4th, 8th and so on."""
        return self.attempts & (self.attempts - 1) == 0

    def reset(self) -> None:
        """Start again from the shortest delay: the thing works."""
        self._next_s = self._first_s
        self.attempts = 0
