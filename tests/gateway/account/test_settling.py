"""Every number that a board names no longer is settled once, and nothing else is."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless_gateway.account.intervals import IntervalMap, IntervalSet
from gapless_gateway.account.settling import ELSEWHERE, settle, settle_closed
from gapless_gateway.wal.entries import (
    REASON_GATEWAY_ROLLBACK,
    REASON_REPLACED,
    REASON_RESET,
)
from tests.support.account_story import LOG_ID, OTHER_LOG_ID, hello

RESET, ROLLBACK = REASON_RESET, REASON_GATEWAY_ROLLBACK


@dataclass
class Known:
    """What settling reads of a stream account."""

    durable: int = 10
    claimed: int = 10
    base: int = 0
    exact_through: int = 0
    doubtful: IntervalSet = field(default_factory=IntervalSet)
    elsewhere: IntervalMap[bytes] = field(default_factory=IntervalMap)
    unreadable_quarantined: IntervalMap[bool] = field(default_factory=IntervalMap)


@pytest.mark.parametrize(
    ("greeting", "known", "gaps"),
    [
        pytest.param(hello(11), Known(), (), id="nothing new"),
        pytest.param(hello(15, held=((11, 14),)), Known(), (), id="all held"),
        pytest.param(hello(15), Known(), ((11, 14, RESET, False),), id="all gone"),
        pytest.param(
            hello(20, held=((13, 14), (18, 18))),
            Known(),
            ((11, 12, RESET, False), (15, 17, RESET, False), (19, 19, RESET, False)),
            id="holes before, between and after",
        ),
        pytest.param(
            hello(15, held=((8, 14),)), Known(), (), id="still held though stored: not settled"
        ),
        pytest.param(
            hello(15, acked=12, acked_by=LOG_ID),
            Known(),
            ((11, 12, ROLLBACK, False), (13, 14, RESET, False)),
            id="this log acked what it does not have",
        ),
        pytest.param(
            hello(15, held=((11, 14),), acked=12, acked_by=LOG_ID),
            Known(),
            (),
            id="acked here and lost here, but the board still has it",
        ),
        pytest.param(
            hello(15, acked=10, acked_by=LOG_ID), Known(), ((11, 14, RESET, False),), id="reset"
        ),
        pytest.param(
            hello(15, acked=99, acked_by=LOG_ID),
            Known(),
            ((11, 14, ROLLBACK, False),),
            id="acked beyond next: only up to next",
        ),
        pytest.param(hello(15, acked=12), Known(), ((11, 14, RESET, False),), id="acked by nobody"),
        pytest.param(
            hello(20, exact=False),
            Known(claimed=13, exact_through=13),
            ((11, 13, RESET, False), (14, 19, RESET, True)),
            id="reserved numbers above the highest witnessed are at most lost",
        ),
        pytest.param(
            hello(20, exact=False, held=((18, 19),)),
            Known(),
            ((11, 17, RESET, True),),
            id="held numbers of the new boot do not witness those reserved before it",
        ),
        pytest.param(
            hello(25),
            Known(claimed=19, exact_through=10, doubtful=IntervalSet([(11, 19)])),
            ((11, 19, RESET, True), (20, 24, RESET, False)),
            id="the doubt of an earlier power cut outlives an exact reset",
        ),
        pytest.param(
            hello(30, exact=False),
            Known(claimed=24, exact_through=24, doubtful=IntervalSet([(11, 19)])),
            ((11, 19, RESET, True), (20, 24, RESET, False), (25, 29, RESET, True)),
            id="two power cuts with an exact reset between",
        ),
        pytest.param(
            hello(20, exact=False, acked=12, acked_by=LOG_ID),
            Known(),
            ((11, 12, ROLLBACK, False), (13, 19, RESET, True)),
            id="what was acked was used",
        ),
    ],
)
def test_the_gaps_that_a_hello_leaves(greeting: object, known: Known, gaps: object) -> None:
    settlement = settle(greeting, known, LOG_ID)  # type: ignore[arg-type]
    assert settlement.gaps == gaps
    assert settlement.elsewhere == ()
    assert settlement.base == 0
    assert settlement.expected == 11
    assert settlement.went_backwards is None


@pytest.mark.parametrize(
    ("greeting", "base", "gaps"),
    [
        pytest.param(hello(1), 0, (), id="a board that never numbered"),
        pytest.param(hello(5, held=((1, 4),)), 0, (), id="all still held"),
        pytest.param(hello(5, held=((3, 4),)), 0, ((1, 2, RESET, False),), id="lost before us"),
        pytest.param(hello(5, exact=False), 0, ((1, 4, RESET, True),), id="lost or never used"),
        pytest.param(
            hello(9, held=((5, 8),), acked=4, acked_by=OTHER_LOG_ID), 4, (), id="another gateway's"
        ),
        pytest.param(
            hello(9, held=((3, 3), (5, 8)), acked=4, acked_by=OTHER_LOG_ID),
            2,
            (),
            id="another gateway's, but it still holds something lower",
        ),
        pytest.param(hello(5, acked=9, acked_by=OTHER_LOG_ID), 4, (), id="acked beyond next"),
        pytest.param(
            hello(9, acked=4, acked_by=LOG_ID),
            0,
            ((1, 4, ROLLBACK, False), (5, 8, RESET, False)),
            id="this log was rolled back to before the stream",
        ),
    ],
)
def test_a_first_contact_opens_at_its_base(greeting: object, base: int, gaps: object) -> None:
    settlement = settle(greeting, None, LOG_ID)  # type: ignore[arg-type]
    assert (settlement.base, settlement.durable, settlement.gaps) == (base, base, gaps)


def test_what_another_log_acked_is_elsewhere_and_the_board_may_forget_it() -> None:
    settlement = settle(
        hello(20, held=((16, 19),), acked=14, acked_by=OTHER_LOG_ID), Known(), LOG_ID
    )
    assert settlement.elsewhere == ((11, 14, OTHER_LOG_ID),)
    assert settlement.gaps == ((15, 15, RESET, False),)
    assert (settlement.durable, settlement.expected) == (14, 15)
    assert settlement.skipped == settlement.gaps


def test_what_is_elsewhere_between_held_numbers_is_skipped_in_its_place() -> None:
    settlement = settle(hello(20, held=((11, 12),), acked=14, acked_by=OTHER_LOG_ID), Known(), b"")
    assert settlement.elsewhere == ((13, 14, OTHER_LOG_ID),)
    assert settlement.expected == 11
    assert settlement.skipped == ((13, 14, ELSEWHERE, False), (15, 19, RESET, False))


def test_what_is_known_to_be_elsewhere_stays_so_though_a_number_before_it_went_missing() -> None:
    known = Known(durable=1, claimed=3, elsewhere=IntervalMap([(3, 3, OTHER_LOG_ID)]))
    settlement = settle(hello(6, held=((5, 5),), acked=3, acked_by=LOG_ID), known, LOG_ID)
    assert settlement.gaps == (
        (2, 2, REASON_GATEWAY_ROLLBACK, False),
        (4, 4, REASON_RESET, False),
    )
    assert settlement.skipped == (
        (2, 2, REASON_GATEWAY_ROLLBACK, False),
        (3, 3, ELSEWHERE, False),
        (4, 4, REASON_RESET, False),
    )


def test_a_log_answers_for_the_one_it_was_restored_from() -> None:
    greeting = hello(15, acked=12, acked_by=b"old-log.")
    settlement = settle(greeting, Known(), LOG_ID, former_log_ids={b"old-log."})
    assert settlement.elsewhere == ()
    assert settlement.gaps[0] == (11, 12, ROLLBACK, False)


@pytest.mark.parametrize("next_seq", [1, 5, 10, 12])
def test_a_board_that_lost_its_numbering_is_told_so_and_nothing_is_settled(next_seq: int) -> None:
    settlement = settle(hello(next_seq), Known(claimed=12), LOG_ID)
    assert settlement.went_backwards is not None
    assert (settlement.gaps, settlement.elsewhere) == ((), ())


def test_a_stream_that_is_followed_by_another_leaves_nothing_open() -> None:
    known = Known(durable=10, claimed=20, doubtful=IntervalSet([(13, 15)]))
    assert settle_closed(known) == (
        (11, 12, REASON_REPLACED, False),
        (13, 15, REASON_REPLACED, True),
        (16, 20, REASON_REPLACED, False),
    )
    assert settle_closed(Known(durable=20, claimed=20)) == ()


@given(
    durable=st.integers(0, 20),
    above=st.integers(0, 10),
    fresh=st.integers(0, 20),
    held=st.lists(st.integers(1, 50), max_size=12),
    exact=st.booleans(),
    acked=st.integers(0, 60),
    acked_by=st.sampled_from([None, LOG_ID, OTHER_LOG_ID]),
    doubt=st.lists(st.integers(1, 50), max_size=5),
    first_contact=st.booleans(),
)
def test_settled_held_and_stored_cover_all_numbers_exactly_once(
    durable: int,
    above: int,
    fresh: int,
    held: list[int],
    exact: bool,
    acked: int,
    acked_by: bytes | None,
    doubt: list[int],
    first_contact: bool,
) -> None:
    claimed = durable + above
    next_seq = claimed + 1 + fresh
    held_set = IntervalSet((one, one) for one in held if one < next_seq)
    greeting = hello(next_seq, held=tuple(held_set), exact=exact, acked=acked, acked_by=acked_by)
    known = None if first_contact else Known(durable, claimed, doubtful=IntervalSet(
        (one, one) for one in doubt
    ))  # fmt: skip
    settlement = settle(greeting, known, LOG_ID)
    stored_through = settlement.base if known is None else durable
    times = dict.fromkeys(range(settlement.base + 1, next_seq), 0)
    for seq in times:
        times[seq] += seq <= stored_through
        times[seq] += held_set.contains(seq) and seq > stored_through
    spans = [*[one[:2] for one in settlement.gaps], *[one[:2] for one in settlement.elsewhere]]
    for first, last in spans:
        assert first <= last
        for seq in range(first, last + 1):
            times[seq] += 1
    assert all(count == 1 for count in times.values()), times
    assert settlement.expected > settlement.base
    assert list(settlement.gaps) == sorted(settlement.gaps)
    for first, last, reason, at_most in settlement.gaps:
        assert reason in {RESET, ROLLBACK}
        assert not (at_most and exact and not any(first <= one <= last for one in doubt))
