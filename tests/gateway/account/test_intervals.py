"""Interval sets and maps are what a set and a dict of integers would be."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gapless_gateway.account.intervals import IntervalMap, IntervalSet

RANGE = st.tuples(st.integers(0, 40), st.integers(-2, 8)).map(lambda one: (one[0], sum(one)))
EDITS = st.lists(st.tuples(st.sampled_from("+-"), RANGE), max_size=20)


def numbers(first: int, last: int) -> set[int]:
    return set(range(first, last + 1))


def built(edits: list[tuple[str, tuple[int, int]]]) -> tuple[IntervalSet, set[int]]:
    intervals, model = IntervalSet(), set()
    for sign, (first, last) in edits:
        if sign == "+":
            intervals.add(first, last)
            model |= numbers(first, last)
        else:
            intervals.remove(first, last)
            model -= numbers(first, last)
    return intervals, model


def flat(intervals: IntervalSet) -> set[int]:
    return {one for first, last in intervals for one in range(first, last + 1)}


def is_normal(intervals: IntervalSet) -> bool:
    ranges = list(intervals)
    apart = all(a[1] + 1 < b[0] for a, b in pairwise(ranges))
    return apart and all(first <= last for first, last in ranges)


@given(EDITS)
def test_an_interval_set_holds_what_a_set_holds(edits: list[tuple[str, tuple[int, int]]]) -> None:
    intervals, model = built(edits)
    assert flat(intervals) == model
    assert is_normal(intervals)
    assert intervals.count() == len(model)
    assert bool(intervals) == bool(model)
    assert all(intervals.contains(one) == (one in model) for one in range(-3, 60))
    assert intervals == IntervalSet((one, one) for one in sorted(model))


@given(EDITS, EDITS)
def test_set_algebra_is_that_of_sets(
    one: list[tuple[str, tuple[int, int]]], two: list[tuple[str, tuple[int, int]]]
) -> None:
    (left, a), (right, b) = built(one), built(two)
    assert flat(left.union(right)) == a | b
    assert flat(left.difference(right)) == a - b
    assert flat(left.intersection(right)) == a & b
    assert all(map(is_normal, [left.union(right), left.difference(right)]))
    assert flat(left) == a


@given(EDITS, RANGE)
def test_parts_of_a_set_are_those_of_the_numbers(
    edits: list[tuple[str, tuple[int, int]]], part: tuple[int, int]
) -> None:
    intervals, model = built(edits)
    assert flat(intervals.within(*part)) == model & numbers(*part)
    assert intervals.covers(*part) == (numbers(*part) <= model)
    at = intervals.range_at(part[0])
    assert (at is not None) == (part[0] in model)
    if at is not None:
        assert numbers(*at) <= model
        assert at[0] - 1 not in model
        assert at[1] + 1 not in model


MAP_EDITS = st.lists(st.tuples(st.sampled_from(["a", "b", "fill", "-"]), RANGE), max_size=20)


@given(MAP_EDITS, RANGE)
def test_an_interval_map_holds_what_a_dict_holds(
    edits: list[tuple[str, tuple[int, int]]], part: tuple[int, int]
) -> None:
    intervals: IntervalMap[str] = IntervalMap()
    model: dict[int, str] = {}
    for what, (first, last) in edits:
        if what == "-":
            intervals.remove(first, last)
            model = {at: old for at, old in model.items() if not first <= at <= last}
        elif what == "fill":
            intervals.fill(first, last, "f")
            model = {**dict.fromkeys(numbers(first, last), "f"), **model}
        else:
            intervals.assign(first, last, what)
            model |= dict.fromkeys(numbers(first, last), what)
    unfolded = {at: value for a, b, value in intervals for at in range(a, b + 1)}
    assert unfolded == model
    assert all(intervals.get(one) == model.get(one) for one in range(-3, 60))
    assert flat(intervals.keys()) == set(model)
    items = intervals.items()
    assert all(x[1] < y[0] and not (x[1] + 1 == y[0] and x[2] == y[2]) for x, y in pairwise(items))
    clipped = {at: value for a, b, value in intervals.within(*part) for at in range(a, b + 1)}
    assert clipped == {at: value for at, value in model.items() if at in numbers(*part)}


def test_neighbours_become_one_range() -> None:
    intervals = IntervalSet([(1, 4), (9, 9), (6, 6)])
    intervals.add(5, 5)
    assert intervals.ranges() == [(1, 6), (9, 9)]
    intervals.add(7, 8)
    assert intervals.ranges() == [(1, 9)]


def test_a_million_records_without_a_loss_are_one_range() -> None:
    intervals = IntervalSet()
    for seq in range(1, 1_000):
        intervals.add(seq, seq)
    assert intervals.ranges() == [(1, 999)]
