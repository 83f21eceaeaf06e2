"""How far a receipt may reach."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless_tools import capture_progress
from gapless_tools.capture_messages import parse_line, render_line
from gapless_tools.capture_progress import CaptureProgress
from tests.support.published import (
    DEVICE,
    STATUS_TOPIC,
    STREAM,
    lost,
    record,
    status,
    topic,
)


class Fed:
    """Progress that is fed with published messages."""

    def __init__(self, base: int | None = 0) -> None:
        self.progress = CaptureProgress()
        if base is not None:
            self.status(base)

    def status(self, base: int) -> set[bytes]:
        return self._feed(STATUS_TOPIC, status((DEVICE, STREAM, base)))

    def record(self, seq: int, **changed: object) -> set[bytes]:
        return self._feed(topic("data"), record(seq, **changed))

    def lost(self, first: int, last: int, **changed: object) -> set[bytes]:
        return self._feed(topic("lost"), lost(first, last, **changed))

    def _feed(self, topic_name: str, payload: bytes) -> set[bytes]:
        line = render_line(1, topic_name, payload, retain=False)
        return self.progress.note(parse_line(1, line))

    @property
    def through(self) -> int | None:
        receipt = self.progress.receipt(STREAM)
        return None if receipt is None else receipt[1]


def test_a_gap_is_never_stepped_over() -> None:
    fed = Fed()
    for seq in (1, 2, 3, 5, 6):
        fed.record(seq)
    assert fed.through == 3
    assert fed.progress.streams[STREAM].missing == 1
    fed.record(4)
    assert fed.through == 6


def test_it_begins_at_the_base_and_not_before_the_base_is_known() -> None:
    fed = Fed(base=None)
    assert fed.record(31) == {STREAM}
    assert fed.through is None
    assert fed.status(30) == {STREAM}
    assert fed.through == 31
    assert Fed(base=30).through == 30


@pytest.mark.parametrize("reason", ["overflow", "quarantined", "elsewhere"])
def test_a_declared_range_fills_its_gap(reason: str) -> None:
    fed = Fed()
    fed.record(1)
    fed.record(5)
    fed.lost(2, 4, reason=reason)
    assert fed.through == 5


def test_a_repeat_is_counted_and_moves_nothing() -> None:
    fed = Fed()
    fed.record(1)
    fed.record(1, tx="2-1", redelivery=True)
    fed.lost(2, 3)
    fed.lost(2, 3)
    assert (fed.through, fed.progress.repeated, fed.progress.conflicts) == (3, 2, 0)


def test_other_bytes_for_a_seq_are_a_conflict() -> None:
    fed = Fed()
    fed.record(1)
    fed.record(1, values={"temperature": 0})
    assert (fed.progress.repeated, fed.progress.conflicts) == (0, 1)


@pytest.mark.parametrize(("reason", "conflicts"), [("overflow", 1), ("quarantined", 0)])
def test_a_record_and_a_loss_of_one_seq_contradict_unless_it_may_come_later(
    reason: str, conflicts: int
) -> None:
    fed = Fed()
    fed.lost(1, 2, reason=reason)
    fed.record(2)
    assert fed.progress.conflicts == conflicts
    fed = Fed()
    fed.record(2)
    fed.lost(1, 2, reason=reason)
    assert fed.progress.conflicts == conflicts


def test_digests_are_kept_for_a_bounded_number_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_progress, "DIGESTS_PER_STREAM_MAX", 10)
    fed = Fed()
    for seq in range(1, 100):
        fed.record(seq)
    assert len(fed.progress.streams[STREAM]._digests) == 10
    fed.record(99, values={})
    fed.record(1, values={})  # too old to compare here
    assert (fed.progress.conflicts, fed.progress.repeated) == (1, 1)


@given(
    base=st.integers(0, 20),
    steps=st.lists(
        st.one_of(
            st.tuples(st.integers(1, 40), st.just(0)),
            st.tuples(st.integers(1, 40), st.integers(0, 6)),
        ),
        max_size=40,
    ),
)
def test_through_is_what_counting_one_by_one_gives(base: int, steps: list[tuple[int, int]]) -> None:
    fed, here = Fed(base), set()
    for first, length in steps:
        if length:
            fed.lost(first, first + length - 1)
            here.update(range(first, first + length))
        else:
            fed.record(first)
            here.add(first)
        expected = base
        while expected + 1 in here:
            expected += 1
        assert fed.through == expected
