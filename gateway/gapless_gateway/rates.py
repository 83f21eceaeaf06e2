"""Small meters: how many per second lately, and which lines of a flood are worth logging."""

from __future__ import annotations

import logging
from collections import Counter, deque

RATE_WINDOW_MS = 5000
SPARSE_KEYS_MAX = 256


class RateMeter:
    """Events per second over the last five seconds, at most one cell a second in memory."""

    def __init__(self) -> None:
        self._cells: deque[tuple[int, int]] = deque()  # (second, count)

    def add(self, count: int, now_ms: int) -> None:
        """Count events."""
        second = now_ms // 1000
        if self._cells and self._cells[-1][0] == second:
            self._cells[-1] = (second, self._cells[-1][1] + count)
        else:
            self._cells.append((second, count))
            self._drop_old(now_ms)

    def per_second(self, now_ms: int) -> float:
        """Return the mean over the window."""
        self._drop_old(now_ms)
        return sum(count for _, count in self._cells) * 1000 / RATE_WINDOW_MS

    def _drop_old(self, now_ms: int) -> None:
        oldest = (now_ms - RATE_WINDOW_MS) // 1000
        while self._cells and self._cells[0][0] <= oldest:
            self._cells.popleft()


class SparseLog:
    """Logs the 1st, 2nd, 4th, 8th ... occurrence of a message: a flood costs a few lines."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._seen: Counter[str] = Counter()

    def warning(self, message: str, **facts: object) -> bool:
        """Log at level warning; returns whether a line was written."""
        return self._emit(logging.WARNING, message, facts)

    def info(self, message: str, **facts: object) -> bool:
        """Log at level info; returns whether a line was written."""
        return self._emit(logging.INFO, message, facts)

    def _emit(self, level: int, message: str, facts: dict[str, object]) -> bool:
        if len(self._seen) >= SPARSE_KEYS_MAX:
            self._seen.clear()
        self._seen[message] += 1
        times = self._seen[message]
        worth_a_line = times & (times - 1) == 0
        if worth_a_line:
            self._log.log(level, message, extra={**facts, "times": times})
        return worth_a_line
