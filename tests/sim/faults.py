"""The kinds of fault that a history may have, and what a profile of them is.

A history draws which kinds are on; a step that would do one that is off does nothing, so that a
history can be told again without it.
"""

from __future__ import annotations

import random

POWER_CUT = "power cut"
KILL = "kill"
WRITE_ERROR = "write error"
SYNC_ERROR = "sync error"
FULL_DISK = "full disk"
BIT_ROT = "bit rot"
LOST_ACKS = "lost acks"
RESET = "board reset"
WIPE = "board wiped"
ELSEWHERE = "other gateway"
BROKER_AWAY = "broker away"
REFUSED = "refused records"
QUOTA = "drop oldest"
RESTART = "clean restart"

KINDS = (
    POWER_CUT,
    KILL,
    WRITE_ERROR,
    SYNC_ERROR,
    FULL_DISK,
    BIT_ROT,
    LOST_ACKS,
    RESET,
    WIPE,
    ELSEWHERE,
    BROKER_AWAY,
    REFUSED,
    QUOTA,
    RESTART,
)
KIND_CHANCE = 0.55
ROTS_MAX = 3  # bits that flip in one history
# Damage of the ledger refuses the start for now (docs/wal-format.md): leave it whole.
LEDGER_ROTS = False


def draw(rng: random.Random) -> frozenset[str]:
    """A profile."""
    return frozenset(kind for kind in KINDS if rng.random() < KIND_CHANCE)
