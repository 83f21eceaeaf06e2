"""`python -m tests.sim [HISTORIES]`: as many as you like; `--replay SEED`: one, in its words."""

from __future__ import annotations

import sys
import time

from tests.sim.histories import Outcome, base_seed, histories_wanted, play_many

TELL_EVERY_S = 10.0


def main(arguments: list[str]) -> int:
    """Play, and say what happened. The exit status is 1 if a promise was broken."""
    if arguments[:1] == ["--replay"]:
        outcome = play_many(int(arguments[1]), 1)
        print(outcome)
        return int(bool(outcome.failures))
    told_s = time.monotonic()

    def tell(outcome: Outcome) -> None:
        nonlocal told_s
        if time.monotonic() - told_s > TELL_EVERY_S:
            told_s = time.monotonic()
            print(f"{outcome.histories} histories, {outcome.took_s:.0f} s", flush=True)

    outcome = play_many(base_seed(), int(arguments[0]) if arguments else histories_wanted(), tell)
    print(outcome)
    return int(bool(outcome.failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
