"""What the benches share: interleaving, medians, rows with a goal, and how they are printed."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.table import Table

PROGRESS_AFTER_S = 2.0

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Row:
    """One line of the result."""

    what: str
    value: float
    goal: str  # such as ">= 0.95"
    holds: bool


def at_least(what: str, value: float, goal: float) -> Row:
    """Return a row whose value should not be below `goal`."""
    return Row(what, _short(value), f">= {goal:g}", value >= goal)


def at_most(what: str, value: float, goal: float) -> Row:
    """Return a row whose value should not be above `goal`."""
    return Row(what, _short(value), f"<= {goal:g}", value <= goal)


def interleaved(
    contestants: Mapping[str, Callable[[], _Result]], rounds: int
) -> dict[str, list[_Result]]:
    """Run each contestant once per round, so that all meet the same weather; return all results.

    Every other round goes backwards: none of them always comes first, or last.
    """
    results: dict[str, list[_Result]] = {name: [] for name in contestants}
    for turn in range(rounds):
        names = list(contestants)
        for name in names if turn % 2 == 0 else reversed(names):
            results[name].append(contestants[name]())
    return results


def median_ratio(above: Iterable[float], below: Iterable[float]) -> float:
    """Return the median of the ratios, round by round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


class Progress:
    """Lines on stderr about something that may take long: silent for the first two seconds."""

    def __init__(self, words: str) -> None:
        self._words = words
        self._next_s = time.monotonic() + PROGRESS_AFTER_S

    def at(self, done: int, total: int) -> None:
        """Say how far it is, at most once in two seconds."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + PROGRESS_AFTER_S
            say(f"{self._words}: {done:,} of {total:,}")


def say(words: str) -> None:
    """Print a line of progress on stderr."""
    print(words, file=sys.stderr, flush=True)  # noqa: T201


def print_rows(rows: list[Row], *, as_json: bool) -> None:
    """Print the rows on stdout: a table, or the list as JSON."""
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))  # noqa: T201
        return
    table = Table(box=box.SIMPLE)
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_column("goal")
    table.add_column("holds")
    for row in rows:
        table.add_row(row.what, f"{row.value:g}", row.goal, "yes" if row.holds else "NO")
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def _short(value: float) -> float:
    """Three digits that mean something: more would be noise."""
    return float(f"{value:.3g}")
