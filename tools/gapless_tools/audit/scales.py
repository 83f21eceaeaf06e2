"""Axes: which values deserve a tick, and how a number, a moment and a duration are written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

SECOND_MS = 1000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

HEADROOM = 0.06  # of an axis of counts, above the highest value

EN_DASH = "\N{EN DASH}"

# Steps between two ticks of a time axis; people count in these and in nothing between.
_TIME_STEPS_MS = (
    *(s * SECOND_MS for s in (1, 2, 5, 10, 15, 30)),
    *(m * MINUTE_MS for m in (1, 2, 5, 10, 15, 30)),
    *(h * HOUR_MS for h in (1, 2, 3, 6, 12)),
    *(d * DAY_MS for d in (1, 2, 5, 10, 30, 90, 365)),
)
_DURATION_TICKS_MS = (
    *(1, 3, 10, 30, 100, 300),
    *(s * SECOND_MS for s in (1, 3, 10, 30)),
    *(m * MINUTE_MS for m in (1, 3, 10, 30)),
    *(h * HOUR_MS for h in (1, 3, 10, 24)),
    *(d * DAY_MS for d in (3, 10, 30, 100)),
)


_DURATION_DECADES_MS = (
    *(1, 10, 100, SECOND_MS, 10 * SECOND_MS, MINUTE_MS, 10 * MINUTE_MS, HOUR_MS, 10 * HOUR_MS),
    *(d * DAY_MS for d in (3, 30)),
)


@dataclass(frozen=True, slots=True)
class Tick:
    """One mark of an axis, in the axis' own unit, and its label."""

    value: float
    label: str


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values, its ticks, and the mapping from a value onto 0..1."""

    low: float
    high: float
    ticks: tuple[Tick, ...]
    logarithmic: bool = False

    def position(self, value: float) -> float:
        """Where `value` stands between `low` (0) and `high` (1), clamped to the axis."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(max(value, self.low))
        return min(1.0, max(0.0, (value - low) / (high - low)))


def count_axis(high: float, ticks_max: int = 5, low: float = 0) -> Axis:
    """An axis for whole numbers with a little room above `high`."""
    step = nice_step(max(high - low, 1), ticks_max)
    start = math.floor(low / step) * step
    end = max(high + (high - start) * HEADROOM, start + step)
    values = range(int(start), int(end) + 1, int(step))
    return Axis(start, end, tuple(Tick(value, whole(value)) for value in values))


def nice_step(span: float, ticks_max: int) -> int:
    """The smallest of 1, 2, 5, 10, 20 ... that needs at most `ticks_max` steps for `span`."""
    exponent = 0
    while True:
        for factor in (1, 2, 5):
            step: int = factor * 10**exponent
            if span / step <= ticks_max:
                return step
        exponent += 1


def time_axis(low_ms: int, high_ms: int, ticks_max: int) -> Axis:
    """An axis of UTC moments (ms since 1970) whose ticks fall on round times of the clock."""
    high_ms = max(high_ms, low_ms + SECOND_MS)
    span = high_ms - low_ms
    step = next((s for s in _TIME_STEPS_MS if span / s <= ticks_max), _TIME_STEPS_MS[-1])
    first = -(-low_ms // step) * step
    label = _time_label(step, low_ms, high_ms)
    ticks = tuple(Tick(value, label(value)) for value in range(first, high_ms + 1, step))
    return Axis(low_ms, high_ms, ticks)


def _time_label(step_ms: int, low_ms: int, high_ms: int) -> Callable[[int], str]:
    """How the ticks of a time axis are written, so that no two read alike."""
    if step_ms >= DAY_MS:
        pattern = "%d %b"
    elif low_ms // DAY_MS != high_ms // DAY_MS:
        pattern = "%d %b %H:%M"
    elif step_ms >= MINUTE_MS:
        pattern = "%H:%M"
    else:
        pattern = "%H:%M:%S"
    return lambda value_ms: utc(value_ms).strftime(pattern)


def duration_axis(low_ms: float, high_ms: float, ticks_max: int = 7) -> Axis:
    """A logarithmic axis of durations whose ends and ticks are round ones (10 ms, 3 s, 1 min)."""
    low_ms = max(low_ms, 1)
    high_ms = max(high_ms, low_ms * 3)
    start = max((t for t in _DURATION_TICKS_MS if t <= low_ms), default=_DURATION_TICKS_MS[0])
    end = min((t for t in _DURATION_TICKS_MS if t >= high_ms), default=int(high_ms))
    inside = [t for t in _DURATION_TICKS_MS if start <= t <= end]
    if len(inside) > ticks_max:
        inside = [t for t in _DURATION_DECADES_MS if start <= t <= end]
    return Axis(start, end, tuple(Tick(t, duration(t)) for t in inside), logarithmic=True)


def utc(moment_ms: int) -> datetime:
    """The moment as a datetime in UTC."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC)


def rfc3339(moment_ms: int) -> str:
    """The moment as RFC 3339 in UTC with milliseconds."""
    return utc(moment_ms).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment_ms % 1000:03d}Z"


def moment(moment_ms: int | None) -> str:
    """The moment for a reader: `2026-11-22 17:30:05 UTC`."""
    return "not known" if moment_ms is None else utc(moment_ms).strftime("%Y-%m-%d %H:%M:%S UTC")


def whole(number: float) -> str:
    """A whole number with its thousands apart (narrow no-break spaces, as in ISO 80000-1)."""
    return f"{int(number):,}".replace(",", "\u202f")


def duration(duration_ms: float | None) -> str:
    """A duration in the unit that suits it: `350 ms`, `12.5 s`, `3 min 20 s`, `2 h 5 min`."""
    if duration_ms is None:
        return "not known"
    if duration_ms < SECOND_MS:
        return f"{duration_ms:.0f} ms"
    if duration_ms < MINUTE_MS:
        return f"{duration_ms / SECOND_MS:.1f}".removesuffix(".0") + " s"
    if duration_ms < HOUR_MS:
        return _two_units(duration_ms, MINUTE_MS, "min", SECOND_MS, "s")
    if duration_ms < DAY_MS:
        return _two_units(duration_ms, HOUR_MS, "h", MINUTE_MS, "min")
    return _two_units(duration_ms, DAY_MS, "d", HOUR_MS, "h")


def _two_units(duration_ms: float, large: int, large_name: str, small: int, small_name: str) -> str:
    units, rest = divmod(round(duration_ms / small) * small, large)
    return f"{units} {large_name}" + (f" {rest // small} {small_name}" if rest else "")


def ranges(pairs: list[tuple[int, int]], shown_max: int = 8) -> str:
    """Ranges of numbers for a reader: `3, 7-9 and 4 more ranges`, with en dashes."""
    words = [whole(a) if a == b else f"{whole(a)}{EN_DASH}{whole(b)}" for a, b in pairs[:shown_max]]
    more = len(pairs) - shown_max
    return ", ".join(words) + (f" and {more} more ranges" if more > 0 else "")
