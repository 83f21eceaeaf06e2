"""The summaries of many retired segments as one, in bounded size.

What a merged summary keeps, and what it only counts, stands in docs/wal-format.md, "Merged
summary". Merging is the same in one step or in many: of what is kept exactly nothing depends on
when the ledger was compacted. (The points of the backlog's curve are thinned, so these do.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gapless_gateway.account.intervals import IntervalMap, IntervalSet
from gapless_gateway.wal.summary import PROGRESS_POINTS_MAX

RANGES_MAX = 256
EVENTS_MAX = 256
# Rows of streams: of a segment's summary, the first five fields of a merged one.
SEGMENT_ROW_FIELDS = 5

Verdict = tuple[int, bool, bool]  # reason, at_most, by_gateway


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a merged summary keeps; beyond it the newest is kept."""

    ranges: int = RANGES_MAX  # of a stream: stored ranges, and as many lost ones
    events: int = EVENTS_MAX  # runs, outages, conflicts, quarantined: of each
    points: int = PROGRESS_POINTS_MAX  # of the backlog's curve

    @property
    def smallest(self) -> bool:
        """Whether there is nothing left to give up."""
        return self == self.halved()

    def halved(self) -> Bounds:
        """Half of everything, as far as that leaves something."""
        return Bounds(max(self.ranges // 2, 1), max(self.events // 2, 1), max(self.points // 2, 2))


class _Stream:
    def __init__(self) -> None:
        self.records = 0
        self.stored = IntervalSet()
        self.lost: IntervalMap[Verdict] = IntervalMap()
        self.delivered_through = 0
        self.first = 0  # the lowest number that was stored; 0: none
        self.from_ms: int | None = None
        self.to_ms: int | None = None
        # Numbers up to `through` are counted and not listed any more.
        self.through = 0
        self.numbers = 0  # of them, how many were stored or lost
        self.lost_counts: dict[tuple[int, bool], int] = {}

    def take(self, row: list[Any], from_ms: int | None, to_ms: int | None) -> None:
        """Add a row of a summary that comes behind all that were taken."""
        _, records, stored, lost, delivered_through = row[:SEGMENT_ROW_FIELDS]
        first = min((one[0] for one in stored), default=0)
        if len(row) > SEGMENT_ROW_FIELDS:
            first, from_ms, to_ms, counted = row[SEGMENT_ROW_FIELDS:]
            if counted is not None:
                self._take_counted(*counted)
        self.records += records
        self.delivered_through = max(self.delivered_through, delivered_through)
        if first:
            self.first = min(self.first, first) if self.first else first
            self.from_ms = _earlier(self.from_ms, from_ms)
            self.to_ms = _later(self.to_ms, to_ms)
        for one in stored:
            # One below `through` came late: it was counted before.
            self.stored.add(max(one[0], self.through + 1), one[1])
        for start, last, *verdict in lost:
            # Given up after it was stored, and counted as a number then.
            self._count_lost(start, min(last, self.through), verdict[0], verdict[1])
            reason, at_most, by_gateway = verdict
            self.lost.assign(max(start, self.through + 1), last, (reason, at_most, by_gateway))

    def _take_counted(self, through: int, numbers: int, lost: list[list[Any]]) -> None:
        # Only ever of the oldest summary: a span stands before all others.
        self.through, self.numbers = through, self.numbers + numbers
        for reason, at_most, count in lost:
            key = (reason, at_most)
            self.lost_counts[key] = self.lost_counts.get(key, 0) + count

    def _count_lost(self, first: int, last: int, reason: int, at_most: bool) -> None:
        if first <= last:
            key = (reason, at_most)
            self.lost_counts[key] = self.lost_counts.get(key, 0) + last - first + 1

    def bound(self, ranges_max: int) -> None:
        """Keep the newest ranges; count what lies below them."""
        through = self.through
        for kept in (self.stored.ranges(), [(a, b) for a, b, _ in self.lost]):
            if len(kept) > ranges_max:
                through = max(through, kept[-ranges_max - 1][1])
        if through == self.through:
            return
        counted = self.stored.within(0, through).union(self.lost.keys().within(0, through))
        self.numbers += counted.count()
        for first, last, (reason, at_most, _) in self.lost.within(0, through):
            self._count_lost(first, last, reason, at_most)
        self.stored.remove(0, through)
        self.lost.remove(0, through)
        self.through = through

    def row(self, stream: bytes) -> list[Any]:
        lost_counts = [[*key, count] for key, count in sorted(self.lost_counts.items())]
        counted = [self.through, self.numbers, lost_counts] if self.through else None
        return [
            stream,
            self.records,
            [list(one) for one in self.stored],
            [[first, last, *verdict] for first, last, verdict in self.lost],
            self.delivered_through,
            self.first,
            self.from_ms,
            self.to_ms,
            counted,
        ]


def merge_summaries(summaries: Iterable[dict[str, Any]], bounds: Bounds) -> dict[str, Any]:
    """One summary for many, given in the order of the log; each a segment's or a merged one."""
    segments = 0
    from_ms: int | None = None
    to_ms: int | None = None
    kinds: dict[int, int] = {}
    streams: dict[bytes, _Stream] = {}
    events: dict[str, list[Any]] = {"runs": [], "outages": [], "conflicts": [], "quarantined": []}
    progress: list[list[Any]] = []
    histograms: dict[str, dict[int, int]] = {"durable_histogram": {}, "delivered_histogram": {}}
    for summary in summaries:
        segments += summary.get("segments", 1)
        from_ms = _earlier(from_ms, summary["from_ms"])
        to_ms = _later(to_ms, summary["to_ms"])
        _add_counts(kinds, summary["kinds"].items())
        for name, counts in histograms.items():
            _add_counts(counts, summary[name])
        for name, kept in events.items():
            kept.extend(summary[name])
            del kept[: -bounds.events]
        progress += summary["progress"]
        for row in summary["streams"]:
            kept_of_stream = streams.setdefault(row[0], _Stream())
            kept_of_stream.take(row, summary["from_ms"], summary["to_ms"])
    for one in streams.values():
        one.bound(bounds.ranges)
    return {
        "segments": segments,
        "from_ms": from_ms,
        "to_ms": to_ms,
        "kinds": dict(sorted(kinds.items())),
        "streams": [one.row(stream) for stream, one in sorted(streams.items())],
        **events,
        "progress": thinned(progress, bounds.points),
        **{name: sorted(map(list, counts.items())) for name, counts in histograms.items()},
    }


def thinned(points: list[list[Any]], points_max: int) -> list[list[Any]]:
    """At most so many points [at_ms, pending, ...]: evenly over time, peaks and the end kept."""
    if len(points) <= points_max:
        return points
    start_ms = min(point[0] for point in points)
    span_ms = max(point[0] for point in points) - start_ms + 1
    highest: dict[int, list[Any]] = {}
    for point in points[:-1]:
        slot = (point[0] - start_ms) * (points_max - 1) // span_ms
        if slot not in highest or point[1] > highest[slot][1]:
            highest[slot] = point
    return [*(highest[slot] for slot in sorted(highest)), points[-1]]


def _add_counts(counts: dict[int, int], added: Iterable[Any]) -> None:
    for key, count in added:
        counts[key] = counts.get(key, 0) + count


def _earlier(one: int | None, other: int | None) -> int | None:
    return min((at for at in (one, other) if at is not None), default=None)


def _later(one: int | None, other: int | None) -> int | None:
    return max((at for at in (one, other) if at is not None), default=None)
