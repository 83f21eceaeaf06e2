"""The log keeps what it acknowledged, through anything: thousands of histories from one seed.

GAPLESS_SEED and GAPLESS_HISTORIES change where they begin and how many there are.
"""

from __future__ import annotations

from tests.sim import faults
from tests.sim.histories import base_seed, histories_wanted, play_many
from tests.sim.shrinking import failure_of
from tests.sim.small_world import small_world
from tests.sim.world import World, plan_of

# A start may be refused for a damaged format number, or for a header and its copy both damaged.
REFUSALS_FOR_DAMAGE_SHARE_MAX = 0.02
# What has to have come about in a thousand histories, or they prove less than they say.
FACTS = ("segments dropped", "segments retired", "records asked for again", "quarantined")


def test_no_history_breaks_a_promise() -> None:
    outcome = play_many(base_seed(), histories_wanted())
    print(outcome)
    assert not outcome.failures, str(outcome)
    refused = outcome.tally.refusals["WalTooNew"] + outcome.tally.refusals["WalDamaged"]
    assert refused <= max(1, REFUSALS_FOR_DAMAGE_SHARE_MAX * outcome.histories)
    if outcome.histories >= 1000:
        for kind in set(faults.KINDS) - {faults.REFUSED, faults.QUOTA}:
            assert outcome.tally.faults[kind] > 0, f"no history had: {kind}"
        for fact in (
            "segments dropped",
            "segments retired",
            "records asked for again",
            "quarantined",
        ):
            assert outcome.tally.facts[fact] > 0, f"no history had: {fact}"


def test_a_seed_tells_the_same_history_every_time() -> None:
    def told(seed: int) -> tuple[list[str], list[str]]:
        world = World(plan_of(seed)).play()
        return world.truth.events, world.disk.trace

    with small_world():
        for seed in range(base_seed(), base_seed() + 10):
            assert told(seed) == told(seed), seed


def test_a_world_without_faults_has_nothing_to_declare() -> None:
    with small_world():
        for seed in range(20):
            plan = plan_of(seed)
            plan = type(plan)(seed, plan.steps, frozenset())
            assert failure_of(plan) is None, seed
