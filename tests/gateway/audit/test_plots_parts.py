"""Axes that a person can read, and curves that stay small however long the history."""

from __future__ import annotations

import random

import pytest

from gapless_gateway.wal.entries import Progress, Record
from gapless_tools.audit.content import UNREADABLE, digest_of_message, digest_of_record
from gapless_tools.audit.numbers import SeqNumbers
from gapless_tools.audit.plots import held
from gapless_tools.audit.scales import (
    count_axis,
    duration,
    duration_axis,
    nice_step,
    ranges,
    time_axis,
)
from gapless_tools.audit.timeline import LATENCY_BINS_MAX, POINTS_MAX, Curve, Timeline, higher

NOON_MS = 1_767_268_800_000  # 2026-01-01 12:00:00 UTC


@pytest.mark.parametrize(
    ("span_ms", "first_labels"),
    [
        (7_000, ["12:00:00", "12:00:01"]),
        (60_000, ["12:00:00", "12:00:10"]),
        (3_600_000, ["12:00", "12:10"]),
        (10 * 3_600_000, ["12:00", "14:00"]),
        (20 * 3_600_000, ["01 Jan 12:00", "01 Jan 15:00"]),
        (20 * 86_400_000, ["02 Jan", "07 Jan"]),
    ],
)
def test_time_ticks_fall_on_round_times_and_read_apart(
    span_ms: int, first_labels: list[str]
) -> None:
    axis = time_axis(NOON_MS, NOON_MS + span_ms, 8)
    labels = [tick.label for tick in axis.ticks]
    assert labels[:2] == first_labels
    assert len(labels) == len(set(labels)) <= 9


def test_count_axes_are_cut_in_ones_twos_and_fives_and_reach_the_highest() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    numbers = random.Random(seed)
    for _ in range(300):
        high = int(10 ** numbers.uniform(0, 9))
        axis = count_axis(high, 5)
        step = axis.ticks[1].value - axis.ticks[0].value
        assert str(int(step)).rstrip("0") in {"1", "2", "5"}
        assert axis.high >= high
        assert len(axis.ticks) <= 7
        assert nice_step(high, 5) == step


def test_duration_axes_hold_their_values_and_are_labelled_in_units() -> None:
    axis = duration_axis(7, 20_000)
    assert [tick.label for tick in axis.ticks] == ["10 ms", "100 ms", "1 s", "10 s"]
    assert axis.position(7) >= 0
    assert axis.position(20_000) <= 1
    assert axis.position(10) < axis.position(100) < axis.position(1000)


@pytest.mark.parametrize(
    ("value_ms", "words"),
    [
        (None, "not known"),
        (0, "0 ms"),
        (999, "999 ms"),
        (1_500, "1.5 s"),
        (60_000, "1 min"),
        (200_000, "3 min 20 s"),
        (7_500_000, "2 h 5 min"),
        (100_000_000, "1 d 4 h"),
    ],
)
def test_durations_are_written_in_the_unit_that_suits_them(
    value_ms: int | None, words: str
) -> None:
    assert duration(value_ms) == words


def test_ranges_are_written_short() -> None:
    dash = "\N{EN DASH}"
    assert ranges([(3, 3), (7, 9)]) == f"3, 7{dash}9"
    assert ranges([(n, n) for n in range(1, 40, 2)], 2) == "1, 3 and 18 more ranges"


def test_a_curve_keeps_its_peak_its_ends_and_its_bound() -> None:
    curve = Curve(higher)
    for at_ms in range(100_000):
        curve.add(at_ms, 7777 if at_ms == 43_210 else at_ms % 100)
    points = curve.all()
    assert len(points) <= POINTS_MAX
    assert max(points, key=lambda point: point[1]) == (43_210, 7777)
    assert points[0][0] == 0
    assert points[-1][0] > 99_000


def test_a_timeline_stays_small_over_weeks() -> None:
    timeline = Timeline()
    for second in range(20_000):
        at_ms = NOON_MS + 1000 * second
        timeline.take_record(Record(b"abcd", second + 1, at_ms, at_ms, at_ms, 1, 0, b""))
        timeline.take_progress(
            Progress(at_ms, 1, ((b"abcd", second, 0, 0, 0),), ((5, 1),), ((9, 1),), 3)
        )
    assert len(timeline.sampled[b"abcd"].all()) <= POINTS_MAX
    assert len(timeline.backlog.all()) <= POINTS_MAX
    assert len(timeline.latencies) <= LATENCY_BINS_MAX
    assert sum(one.durable.total() for one in timeline.latencies) == 20_000


def test_an_absurd_number_costs_one_page() -> None:
    numbers = SeqNumbers()
    numbers.set(2**30 - 1, 5)
    numbers.set(1, 7)
    assert list(numbers.items()) == [(1, 7), (2**30 - 1, 5)]
    assert numbers.get(2) == 0


def test_a_message_says_the_same_as_its_record_in_json_and_in_cbor() -> None:
    data = bytes.fromhex("85070019038400a2657374617465f663766f6cfa4141999a")  # vol 12.1, state null
    record = Record(b"abcd", 4, NOON_MS + 9, NOON_MS, NOON_MS + 3, 1, 0, data)
    when = {"t_ms": NOON_MS + 1, "t_err_ms": 2, "t_source": "link"}
    said = {
        **when,
        "t": "2026-01-01T12:00:00.001Z",
        "rx": "2026-01-01T12:00:00.009Z",
        "boot": 7,
        "values": {"vol": 12.1, "state": None},
    }
    carried = {
        **when,
        "rx_ms": NOON_MS + 9,
        "record": [7, 0, 900, 0, {"state": None, "vol": 12.100000381469727}],
    }
    expected = digest_of_record(record)
    assert digest_of_message(said, 0) == digest_of_message(carried, 0) == expected != UNREADABLE
    assert digest_of_message(said, 1) != expected
    assert digest_of_message(said | {"values": {"vol": 12.2, "state": None}}, 0) != expected
    assert digest_of_message(said | {"values": {"vol": 12.1, "state": 0}}, 0) != expected


def test_a_pause_in_deliveries_is_drawn_level_and_not_as_a_slope() -> None:
    points = [(0.0, 10.0), (1000.0, 20.0), (21_000.0, 30.0)]
    assert held(points) == [(0.0, 10.0), (1000.0, 20.0), (20_000.0, 20.0), (21_000.0, 30.0)]
