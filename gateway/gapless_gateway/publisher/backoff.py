"""How long to wait before the broker is asked again."""

from __future__ import annotations

import random

# Above this, doubling has long met every cap; it keeps the power small over weeks of outage.
_DOUBLINGS_MAX = 16


class Backoff:
    """Doubling waits up to a cap, each between half and all of its value, so that many gateways
    do not come back in step.
    """

    def __init__(self, first_s: float, rng: random.Random) -> None:
        self._first_s = first_s
        self._rng = rng
        self._failures = 0

    def next_s(self, cap_s: float) -> float:
        """The wait after one more failure, never above `cap_s`."""
        wait_s = min(cap_s, self._first_s * (1 << min(self._failures, _DOUBLINGS_MAX)))
        self._failures += 1
        return wait_s * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """The connection was of use: begin again with the shortest wait."""
        self._failures = 0
