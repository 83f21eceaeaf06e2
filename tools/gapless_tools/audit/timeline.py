"""What the plots of a report are drawn from: curves over time, bounded however long the history.

None of this enters the verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gapless_gateway.account.histogram import Histogram
from gapless_gateway.wal.entries import T_SOURCE_NONE, Progress, Record

POINTS_MAX = 4096  # of one curve; beyond it, neighbours are merged
LATENCY_BINS_MAX = 512
# Progress entries come about once a second; after a pause, one still speaks of its last second.
PROGRESS_INTERVAL_MAX_MS = 2_000

Point = tuple[int, int]  # (moment in ms since 1970, value)


def later(_: Point, second: Point) -> Point:
    """Merge two neighbours of a curve that rises: the later one stands for both."""
    return second


def higher(first: Point, second: Point) -> Point:
    """Merge two neighbours of a curve whose peaks matter."""
    return first if first[1] > second[1] else second


@dataclass(slots=True)
class Curve:
    """Points in the order of time, merged in pairs when there are too many."""

    merge: Callable[[Point, Point], Point]
    points: list[Point] = field(default_factory=list)
    _every: int = 1  # how many values one kept point stands for
    _pending: list[Point] = field(default_factory=list)

    def add(self, at_ms: int, value: int) -> None:
        """Take in the next value."""
        self._pending.append((at_ms, value))
        if len(self._pending) < self._every:
            return
        self.points.append(self._merged(self._pending))
        self._pending.clear()
        if len(self.points) >= POINTS_MAX:
            first = self.points[0]
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [self.merge(a, b) for a, b in pairs]
            self.points[0] = first
            self._every *= 2

    def all(self) -> list[Point]:
        """The points, with what is not merged yet."""
        return self.points + ([self._merged(self._pending)] if self._pending else [])

    def _merged(self, points: list[Point]) -> Point:
        result = points[0]
        for point in points[1:]:
            result = self.merge(result, point)
        return result


@dataclass(slots=True)
class LatencyBin:
    """The latencies that became known between two moments."""

    from_ms: int
    to_ms: int
    durable: Histogram
    delivered: Histogram


@dataclass(slots=True)
class Timeline:
    """All curves of one log."""

    sampled: dict[bytes, Curve] = field(default_factory=dict)  # (time of the sample, seq)
    delivered: dict[bytes, Curve] = field(default_factory=dict)  # (time, delivered through)
    backlog: Curve = field(default_factory=lambda: Curve(higher))  # (time, records pending)
    latencies: list[LatencyBin] = field(default_factory=list)
    _progress_ms: int = 0

    def take_record(self, entry: Record) -> None:
        """A record: when its sample was taken, as far as that is known, else when it came."""
        at_ms = entry.rx_ms
        if entry.t_source != T_SOURCE_NONE and entry.t_lo_ms >= 0 and entry.t_hi_ms >= 0:
            at_ms = (entry.t_lo_ms + entry.t_hi_ms) // 2
        self.take_sample(entry.stream, at_ms, entry.seq)

    def take_sample(self, stream: bytes, at_ms: int, seq: int) -> None:
        """A number of a stream and when it was used."""
        curve = self.sampled.get(stream)
        if curve is None:
            curve = self.sampled[stream] = Curve(later)
        curve.add(at_ms, seq)

    def take_progress(self, entry: Progress) -> None:
        """A Progress entry: deliveries, backlog, latencies."""
        through = [(stream, delivered) for stream, delivered, *_ in entry.streams]
        self.take_point(entry.at_ms, entry.pending, through)
        if entry.durable_histogram or entry.delivered_histogram:
            since = max(self._progress_ms, entry.at_ms - PROGRESS_INTERVAL_MAX_MS)
            self.latencies.append(
                LatencyBin(
                    since,
                    entry.at_ms,
                    Histogram(entry.durable_histogram),
                    Histogram(entry.delivered_histogram),
                )
            )
            if len(self.latencies) > LATENCY_BINS_MAX:
                self._halve_latencies()
        self._progress_ms = entry.at_ms

    def take_point(self, at_ms: int, pending: int, through: list[tuple[bytes, int]]) -> None:
        """Where delivery stood at a moment; also kept by the ledger for retired segments."""
        self.backlog.add(at_ms, pending)
        for stream, delivered in through:
            self.delivered.setdefault(stream, Curve(later)).add(at_ms, delivered)

    def _halve_latencies(self) -> None:
        bins = self.latencies
        for first, second in zip(bins[::2], bins[1::2], strict=False):
            first.to_ms = second.to_ms
            first.durable.merge(second.durable.items())
            first.delivered.merge(second.delivered.items())
        self.latencies = bins[::2]
