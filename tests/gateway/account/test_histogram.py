"""Quantiles of bucketed latencies are never too small, and too large by less than a quarter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gapless_gateway.account.histogram import (
    BUCKET_MAX,
    Histogram,
    bucket_of,
    lower_bound_ms,
    upper_bound_ms,
)

LATENCY = st.integers(0, (1 << 30) - 1)


@given(LATENCY)
def test_a_latency_lies_in_its_bucket_and_the_bucket_is_narrow(latency_ms: int) -> None:
    bucket = bucket_of(latency_ms)
    assert lower_bound_ms(bucket) <= latency_ms <= upper_bound_ms(bucket)
    assert upper_bound_ms(bucket) <= lower_bound_ms(bucket) * 1.25


def test_buckets_are_without_a_gap() -> None:
    for bucket in range(BUCKET_MAX):
        assert upper_bound_ms(bucket) + 1 == lower_bound_ms(bucket + 1)
    assert bucket_of(1 << 30) == bucket_of(1 << 50) == BUCKET_MAX
    assert bucket_of(-5) == 0


@given(st.lists(LATENCY, min_size=1), st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_an_upper_bound_within_a_quarter(latencies: list[int], p: float) -> None:
    histogram = Histogram()
    for one in latencies:
        histogram.add(one)
    rank = min(range(1, len(latencies) + 1), key=lambda n: (n < p * len(latencies), n))
    true = sorted(latencies)[rank - 1]
    said = histogram.quantile(p)
    assert said is not None
    assert true <= said <= true * 1.25


def test_an_empty_histogram_has_no_quantile() -> None:
    assert Histogram().quantile(0.5) is None


@given(st.lists(LATENCY), st.lists(LATENCY))
def test_histograms_add_up(one: list[int], two: list[int]) -> None:
    left, right, both = Histogram(), Histogram(), Histogram()
    for latency_ms in one:
        left.add(latency_ms)
        both.add(latency_ms)
    for latency_ms in two:
        right.add(latency_ms)
        both.add(latency_ms)
    left.merge(right.items())
    assert left == both
    assert left.total() == len(one) + len(two)
