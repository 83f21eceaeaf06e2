"""Short histories that are told from beginning to end, so that each call of the disk can fail once.

Each takes a world without steps of its own and plays one thing through. A crash on the way is
survived: the gateway is started again and the story goes on.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.sim import faults
from tests.sim.rotting import offsets_of, rot
from tests.sim.world import Plan, World

Story = Callable[[World], None]


def rotations_and_retired_segments(world: World) -> None:
    _live(world, rounds=5)


def records_kept_when_their_segment_goes(world: World) -> None:
    for board in world.boards:
        board.produce(3, random.Random(1), refuse=False)
    rng = _AlwaysLow(2)
    world.boards[0].produce(2, rng, refuse=True)
    _live(world, rounds=5)


def oldest_segments_dropped_for_room(world: World) -> None:
    _live(world, rounds=7, broker=False)
    _live(world, rounds=1)


def disk_full_for_a_while(world: World) -> None:
    _live(world, rounds=2)
    world.disk.others_bytes += max(0, world.disk.free_bytes - 600)
    _live(world, rounds=2)
    world.disk.others_bytes = 0
    _live(world, rounds=1)


def damage_repaired_and_asked_for_again(world: World) -> None:
    world.held_back = {world.boards[0].name}
    _live(world, rounds=4, broker=False)
    held = {(world.boards[0].stream, seq) for seq in world.boards[0].outbox}
    segments = sorted(path for path in world.disk.names if path.suffix == ".wal")
    for path in dict.fromkeys((segments[0], segments[-1])):
        data = bytes(world.disk.names[path].durable)
        offsets = offsets_of(held, world.truth, data)
        if offsets:
            rot(world.disk, world.truth, path, offsets[0] + 40, 3)
    world.died = faults.KILL
    world.crash()
    world.held_back.clear()
    _live(world, rounds=2)


STORIES: tuple[Story, ...] = (
    rotations_and_retired_segments,
    records_kept_when_their_segment_goes,
    oldest_segments_dropped_for_room,
    disk_full_for_a_while,
    damage_repaired_and_asked_for_again,
)
_NEEDS: dict[Story, frozenset[str]] = {
    records_kept_when_their_segment_goes: frozenset({faults.REFUSED}),
    oldest_segments_dropped_for_room: frozenset({faults.QUOTA}),
    disk_full_for_a_while: frozenset({faults.FULL_DISK}),
}
# One board each, small segments, and the settings that the story needs: a quota, a small disk.
_SEED = 2
_SEEDS = {
    oldest_segments_dropped_for_room: 4,
    disk_full_for_a_while: 18,
    damage_repaired_and_asked_for_again: 6,
}


def world_of(story: Story, seed: int = 0) -> World:
    """A world for a story; `seed` varies what a power cut keeps."""
    world = World(Plan(_SEEDS.get(story, _SEED), (), _NEEDS.get(story, frozenset())))
    world.rng.seed(seed)
    return world


def tell(world: World, story: Story) -> int:
    """The story, then the end in which everything drains. Raises BrokenPromise.

    Returns how many calls of the disk, as it was at first, the story without its end had.
    """
    disk = world.disk
    with world.loop.running():
        story(world)
        calls = disk.calls
        world.drain()
    return calls


class _AlwaysLow(random.Random):
    """Makes every record one that the broker refuses."""

    def random(self) -> float:
        return 0.0


def _live(world: World, *, rounds: int, broker: bool = True) -> None:
    rng = random.Random(7)

    def do(doing: Callable[[], None]) -> None:
        world._guarded(doing)
        while world.gateway is None:
            world._guarded(lambda: world.start_gateway(rng))
            if world.gateway is None:
                world.disk.others_bytes = 0  # its owner makes room

    for _ in range(rounds):
        world.clock.now_ms += 400
        for board in world.boards:
            board.produce(4, rng, refuse=False)
            board.uptime_ms += 400
            if not board.linked:
                do(lambda board=board: world._greet(board))  # type: ignore[misc]
                do(lambda: world.gateway.commit(whole=True))
            do(lambda board=board: world._send(board, random.Random(1), 9))  # type: ignore[misc]
        do(lambda: world.gateway.commit(whole=True))
        if broker:
            do(lambda: world.gateway.connect(world.broker))
            do(lambda: world.broker.take(50))
            do(lambda: world.broker.acknowledge(50, rng))
        # The cursor first: whatever a crash takes then stands in no Progress yet.
        do(lambda: world.gateway.keep_books(whole=True))
        do(lambda: world.gateway.period())  # noqa: PLW0108  it may be another one by then
        do(lambda: world.gateway.commit(whole=True))
        do(lambda: world.gateway.look(whole=True))
