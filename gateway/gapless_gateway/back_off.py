"""Back-off for what heals by itself: doubling, capped, jittered."""

from __future__ import annotations

import random

# Above this, doubling has long met every cap; it keeps the power small over weeks of failures.
_DOUBLINGS_MAX = 16


class BackOff:
    """Delays that double from `first_s` to a cap, each shortened by up to half at random.

    The jitter keeps many ports (or gateways) that failed at one moment from trying again at one
    moment.
    """

    def __init__(self, first_s: float, max_s: float, rng: random.Random | None = None) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._random = rng or random.Random()  # noqa: S311 - jitter, no secret
        self.attempts = 0  # since the last reset()

    def next_delay_s(self, max_s: float | None = None) -> float:
        """Return how long to wait before the next attempt, in seconds; `max_s` for this one."""
        cap_s = self._max_s if max_s is None else max_s
        delay_s = min(cap_s, self._first_s * (1 << min(self.attempts, _DOUBLINGS_MAX)))
        self.attempts += 1
        return delay_s * self._random.uniform(0.5, 1.0)

    def worth_a_line(self) -> bool:
        """Return whether this attempt is to be logged: the 1st, 2nd, 4th, 8th and so on."""
        return self.attempts & (self.attempts - 1) == 0

    def reset(self) -> None:
        """Start again from the shortest delay: the thing works."""
        self.attempts = 0
