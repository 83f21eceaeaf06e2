"""Latencies in buckets of about a quarter octave, so that they can be added, stored and compared.

Bucket 0 holds 0 ms, 1..3 hold 1, 2 and 3 ms; from 4 ms on each octave [2^k, 2^(k+1)) is cut into
four equal parts, so a bucket is never wider than a quarter of its lower bound. Everything from
2^30 ms (twelve days) on is in the last bucket. A quantile read from the counts is the upper bound
of its bucket: never too small, and too large by less than 25 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

OCTAVE_MAX = 30
BUCKETS = 4 * (OCTAVE_MAX - 1) + 1
BUCKET_MAX = BUCKETS - 1


def bucket_of(latency_ms: int) -> int:
    """The bucket of a latency. A negative one (a clock that was set back) counts as 0 ms."""
    if latency_ms < 4:
        return max(latency_ms, 0)
    octave = latency_ms.bit_length() - 1
    if octave >= OCTAVE_MAX:
        return BUCKET_MAX
    return 4 * (octave - 1) + ((latency_ms >> (octave - 2)) & 3)


def lower_bound_ms(bucket: int) -> int:
    """The smallest latency of this bucket, in milliseconds."""
    if bucket < 4:
        return bucket
    octave, quarter = bucket // 4 + 1, bucket % 4
    return (4 + quarter) << (octave - 2)


def upper_bound_ms(bucket: int) -> int:
    """The largest whole ms of this bucket; the last bucket has none and gives its lower bound."""
    if bucket >= BUCKET_MAX:
        return lower_bound_ms(BUCKET_MAX)
    return lower_bound_ms(bucket + 1) - 1


class Histogram:
    """Counts per bucket; adding two of them is exact."""

    __slots__ = ("counts",)

    def __init__(self, counts: Iterable[tuple[int, int]] | Mapping[int, int] = ()) -> None:
        self.counts: dict[int, int] = {}
        self.merge(counts.items() if isinstance(counts, Mapping) else counts)

    def add(self, latency_ms: int, count: int = 1) -> None:
        """Count a latency."""
        bucket = bucket_of(latency_ms)
        self.counts[bucket] = self.counts.get(bucket, 0) + count

    def merge(self, counts: Iterable[tuple[int, int]]) -> None:
        """Add (bucket, count) pairs, as a Progress entry has them."""
        for bucket, count in counts:
            self.counts[bucket] = self.counts.get(bucket, 0) + count

    def items(self) -> tuple[tuple[int, int], ...]:
        """The (bucket, count) pairs in order of latency, those that are not zero."""
        return tuple(sorted((bucket, count) for bucket, count in self.counts.items() if count))

    def total(self) -> int:
        """How many latencies were counted."""
        return sum(self.counts.values())

    def quantile(self, p: float) -> int | None:
        """The latency in ms that a share `p` (0..1) does not exceed, or None when empty.

        An upper bound: the true quantile is at most this, and at least 4/5 of it.
        """
        return quantile(self.counts, p)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return self.items() == other.items()

    __hash__ = None  # type: ignore[assignment]


def quantile(counts: Mapping[int, int], p: float) -> int | None:
    """The upper bound in ms of the bucket in which the quantile `p` (0..1) of `counts` lies."""
    total = sum(counts.values())
    if total == 0:
        return None
    rank = max(1, -int(-p * total // 1))  # the smallest whole number not below p * total
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            return upper_bound_ms(bucket)
    return upper_bound_ms(max(counts))
