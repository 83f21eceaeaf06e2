"""A record's true moment lies within the bound it is dated with."""

from __future__ import annotations

import random

import cbor2
from hypothesis import given
from hypothesis import strategies as st

from gapless_gateway.account.dating import BOOTS_MAX, PAIRS_MAX, ClockModel, Dating, uptime_ms
from gapless_gateway.wal.entries import (
    T_SOURCE_LINK,
    T_SOURCE_NONE,
    T_SOURCE_UNSYNCED,
    TIME_UNKNOWN,
    TimePair,
)

STREAM = b"strm"
BOOTED_MS = 1_700_000_000_000


class DriftingBoard:
    """A board whose clock runs at a rate that wanders, within a bound."""

    def __init__(self, seed: int, drift_ppm: int) -> None:
        self.random = random.Random(seed)
        self.drift_ppm = drift_ppm
        self.utc_ms = float(BOOTED_MS)
        self.board_ms = 0.0

    def let_pass(self, board_ms: float) -> None:
        rate = 1 + self.random.uniform(-self.drift_ppm, self.drift_ppm) / 1e6
        self.board_ms += board_ms
        self.utc_ms += board_ms / rate

    def pair(self) -> tuple[int, int, int]:
        """A pair as an exchange gives it: the two ways take their own, unequal time."""
        before, after = self.random.expovariate(1 / 20), self.random.expovariate(1 / 200)
        lo, hi = self.utc_ms - before, self.utc_ms + after
        return int(self.board_ms), int(lo) - 1, int(hi) + 2


@given(st.integers(0, 2**32), st.integers(2, 60), st.sampled_from([0, 20, 100]))
def test_the_true_moment_lies_in_the_bound(seed: int, exchanges: int, drift_ppm: int) -> None:
    board = DriftingBoard(seed, drift_ppm)
    model = ClockModel()
    moments: list[tuple[int, float]] = []
    for _ in range(exchanges):
        board.let_pass(board.random.choice([50, 5_000, 3_600_000]) * board.random.random())
        moments.append((int(board.board_ms), board.utc_ms))
        if board.random.random() < 0.7:
            model.add(*board.pair())
    for uptime, utc_ms in moments:
        bound = model.date(uptime)
        if bound is not None:
            assert bound[0] - 2 <= utc_ms <= bound[1] + 2, (seed, uptime)
    assert model.contradictions == 0
    assert len(model.pairs) <= PAIRS_MAX


def test_the_bound_grows_with_the_distance() -> None:
    model = ClockModel(drift_ppm_max=100)
    model.add(1_000_000, 5_000_000, 5_000_010)
    assert model.date(1_000_000) == (5_000_000, 5_000_010)
    near, far = model.date(1_010_000), model.date(2_000_000)
    assert near is not None
    assert far is not None
    assert 10 < near[1] - near[0] <= 14
    assert 210 <= far[1] - far[0] <= 214


def test_between_two_pairs_both_sides_count() -> None:
    one, both = ClockModel(), ClockModel()
    for model in (one, both):
        model.add(0, 10_000_000, 10_000_004)
    both.add(10_000_000, 20_000_000, 20_000_004)
    alone, between = one.date(8_000_000), both.date(8_000_000)
    assert alone is not None
    assert between is not None
    assert between[1] - between[0] < alone[1] - alone[0]


@given(st.integers(0, 2**32))
def test_few_pairs_are_kept_and_the_first_last_and_tightest_are_among_them(seed: int) -> None:
    board, model = DriftingBoard(seed, 100), ClockModel()
    taken = []
    for _ in range(200):
        board.let_pass(60_000)
        pair = board.pair()
        if model.add(*pair):
            taken.append(pair)
    assert len(model.pairs) <= PAIRS_MAX
    kept = [tuple(pair) for pair in model.pairs]
    assert {taken[0], taken[-1]} <= set(kept)
    assert min(hi - lo for _, lo, hi in kept) == min(hi - lo for _, lo, hi in taken)


def test_a_pair_that_tells_nothing_new_is_not_worth_an_entry() -> None:
    model = ClockModel()
    assert model.add(1_000, 5_000, 5_010)
    assert not model.add(1_010, 5_010, 5_020)
    assert model.add(1_020, 5_023, 5_024)


def test_a_clock_that_was_stepped_is_noticed_and_the_newer_pair_holds() -> None:
    model = ClockModel()
    model.add(1_000, 5_000, 5_010)
    assert model.add(2_000, 60_000, 60_010)
    assert model.contradictions == 1
    assert model.date(2_000) == (60_000, 60_010)


@given(st.integers(0, 2**32), st.sampled_from([0, 20, 100]), st.integers(0, 100))
def test_moments_of_one_stretch_are_bound_as_if_each_were_the_only_one(
    seed: int, drift_ppm: int, drift_ppm_max: int
) -> None:
    board = DriftingBoard(seed, drift_ppm)
    model = ClockModel(drift_ppm_max)
    for _ in range(60):
        board.let_pass(board.random.choice([50, 5_000, 600_000]) * board.random.random())
        if board.random.random() < 0.5:
            model.add(*board.pair())
        if not model.pairs:
            continue
        at_ms = board.random.randrange(int(board.board_ms) + 20_000)
        first_ms, last_ms, lo_ms, hi_ms = model.stretch(at_ms)
        assert first_ms <= at_ms <= last_ms
        ends = {max(first_ms, 0), min(last_ms, at_ms + 1_000_000), at_ms}
        for moment_ms in map(int, ends):
            alone = ClockModel(drift_ppm_max)
            alone.pairs = list(model.pairs)
            assert alone.date(moment_ms) == (moment_ms + lo_ms, moment_ms + hi_ms)
            assert model.date(moment_ms) == alone.date(moment_ms)


def pair(boot: int, uptime: int, lo: int, hi: int, *, synced: bool = True) -> TimePair:
    return TimePair(STREAM, boot, uptime, lo, hi, synced)


def test_what_cannot_be_dated_has_no_lower_bound() -> None:
    dating = Dating()
    assert dating.bounds(STREAM, 1, 500, rx_ms=9_000) == (None, 9_000)
    dating.add(pair(3, 1_000, 8_000, 8_010))
    # Boot 3 began 1 s before its pair, so all of boot 1 was over by then; boot 4 says nothing.
    assert dating.bounds(STREAM, 1, 500, rx_ms=9_000) == (None, 7_011)
    assert dating.bounds(STREAM, 4, 500, rx_ms=9_000) == (None, 9_000)
    dated = dating.date(STREAM, 1, 500, rx_ms=9_000)
    assert (dated.t_lo_ms, dated.t_source) == (TIME_UNKNOWN, T_SOURCE_NONE)


def test_records_of_an_earlier_boot_use_that_boots_pairs() -> None:
    dating = Dating()
    dating.add(pair(1, 1_000, 8_000, 8_010))
    dating.add(pair(2, 1_000, 98_000, 98_010))
    assert dating.bounds(STREAM, 1, 1_000, rx_ms=99_000) == (8_000, 8_010)
    assert dating.bounds(STREAM, 2, 1_000, rx_ms=99_000) == (98_000, 98_010)


def test_nothing_is_made_after_it_was_received() -> None:
    dating = Dating()
    dating.add(pair(1, 1_000, 8_000, 8_500))
    assert dating.bounds(STREAM, 1, 1_000, rx_ms=8_200) == (8_000, 8_200)


def test_pairs_of_a_synchronised_clock_replace_the_others_and_are_not_joined_by_them() -> None:
    dating = Dating()
    assert dating.add(pair(1, 1_000, 50, 60, synced=False))
    assert dating.date(STREAM, 1, 1_000, rx_ms=100).t_source == T_SOURCE_UNSYNCED
    assert dating.add(pair(1, 1_000, 8_000, 8_010))
    assert not dating.add(pair(1, 1_000, 50, 51, synced=False))
    dated = dating.date(STREAM, 1, 1_000, rx_ms=9_000)
    assert (dated.t_lo_ms, dated.t_hi_ms, dated.t_source) == (8_000, 8_010, T_SOURCE_LINK)


def test_the_newest_boots_are_kept_and_survive_a_snapshot() -> None:
    dating = Dating()
    for boot in range(1, BOOTS_MAX + 4):
        dating.add(pair(boot, 1_000, 8_000 + boot * 1_000_000, 8_010 + boot * 1_000_000))
    assert dating.model(STREAM, 3) is None
    assert dating.model(STREAM, 4) is not None
    state = cbor2.loads(cbor2.dumps(dating.snapshot()))
    restored = Dating.restore(state)
    assert restored.snapshot() == dating.snapshot()
    assert restored.bounds(STREAM, 9, 77, 10**9) == dating.bounds(STREAM, 9, 77, 10**9)


def test_wraps_of_the_ticks_are_unfolded() -> None:
    assert uptime_ms(0, 5) == 5
    assert uptime_ms(2, 5) == 2 * 2**30 + 5
