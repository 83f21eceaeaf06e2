"""A crash at every single system call of short histories that have everything in them.

After each the gateway starts again, the story goes on to its end, and every promise is checked at
every start and at the end (invariants.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.sim import faults
from tests.sim.short_histories import (
    STORIES,
    Story,
    damage_repaired_and_asked_for_again,
    disk_full_for_a_while,
    oldest_segments_dropped_for_room,
    records_kept_when_their_segment_goes,
    rotations_and_retired_segments,
    tell,
    world_of,
)
from tests.sim.small_world import small_world
from tests.sim.truth import BrokenPromise
from tests.sim.world import World

pytestmark = pytest.mark.usefixtures("_quiet")
EIO = 5
HOW = ("none", "all", "random", "kill", "fail")


@pytest.fixture
def _quiet() -> Iterator[None]:
    """Without the gateway's own words about hundreds of crashes."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def told(story: Story) -> World:
    world = world_of(story)
    tell(world, story)
    return world


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_the_story_has_in_it_what_its_name_says(story: Story) -> None:
    with small_world():
        world = told(story)
    facts = world.tally.facts
    trace = world.disk.trace
    if story is rotations_and_retired_segments:
        assert facts["segments retired"] >= 2
        assert any("fdatasync ledger" in call for call in trace)
    elif story is records_kept_when_their_segment_goes:
        assert any(call.startswith("rename records") for call in trace)
    elif story is oldest_segments_dropped_for_room:
        assert any(
            reason == "quota"
            for one in world.consumer.streams.values()
            for reason in one.lost.values()
        )
    elif story is disk_full_for_a_while:
        assert world.disk.refused_for_room > 0
    elif story is damage_repaired_and_asked_for_again:
        assert any(call.startswith("create 0000") and ".wal.1" in call for call in trace)
        assert facts["records asked for again"] > 0


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
@pytest.mark.parametrize("how", HOW)
def test_a_crash_at_every_call_breaks_no_promise(story: Story, how: str) -> None:
    with small_world():
        calls, call = 1_000_000, 0
        while call < calls:
            call += 1
            world = world_of(story, call)
            if how == "fail":
                world.disk.fail_at = {call: EIO}
            else:
                world.disk.power_cut_at = call
                world.died = faults.KILL if how == "kill" else ""
                world.keep = None if how == "kill" else how
            disk = world.disk
            try:
                story_calls = tell(world, story)
            except BrokenPromise as broken:
                where = f"{how} at call {call} ({disk.trace[min(call, disk.calls) - 1]})"
                last = "\n".join(world.truth.events[-20:])
                pytest.fail(f"{where}: {broken}\n{last}")
            if story_calls < call:
                calls = 0  # the story has no such call any more
    assert call > 30
