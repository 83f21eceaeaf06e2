"""What the demo does when: checked before anything starts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gapless_gateway.errors import UserError

DEVICES_MAX = 16
DURATION_MIN_S = 20.0
# Rhythms that differ, so that the account of one board cannot stand in for that of another.
PERIODS_MS = (100, 250, 400)
NAMES = ("pump-1", "valve-2", "tank-3")


@dataclass(frozen=True, slots=True)
class Plan:
    """Moments of one demo, in seconds after the first board was started."""

    devices: int
    duration_s: float
    outage_at_s: float
    outage_length_s: float

    @property
    def broker_killed_at_s(self) -> float:
        """When the broker gets SIGKILL."""
        return self.outage_at_s

    @property
    def board_killed_at_s(self) -> float:
        """When one board is reset, a quarter into the outage."""
        return self.outage_at_s + self.outage_length_s * 0.25

    @property
    def gateway_killed_at_s(self) -> float:
        """When the gateway gets SIGKILL, half-way through the outage."""
        return self.outage_at_s + self.outage_length_s * 0.5

    @property
    def broker_back_at_s(self) -> float:
        """When the broker is started again."""
        return self.outage_at_s + self.outage_length_s

    def boards(self) -> list[tuple[str, int]]:
        """Return (device id, sampling period in ms) of each board."""
        return [
            (
                NAMES[i] if i < len(NAMES) else f"board-{i + 1}",
                PERIODS_MS[i % len(PERIODS_MS)],
            )
            for i in range(self.devices)
        ]


def make_plan(devices: int, duration_s: float, outage: str | None) -> Plan:
    """Check the demo's options; an outage is "AT:LENGTH" in seconds, None for the middle third.

    Raises UserError for a plan in which the outage could not be seen to begin and to end.
    """
    if not 1 <= devices <= DEVICES_MAX:
        raise UserError(f"--devices {devices}: the demo runs 1 to {DEVICES_MAX} boards.")
    if duration_s < DURATION_MIN_S:
        raise UserError(
            f"--duration {duration_s:g}: an outage and a drain need {DURATION_MIN_S:g} s or more."
        )
    at_s, length_s = _outage(outage, duration_s)
    if at_s < 5 or length_s < 4 or at_s + length_s > duration_s - 5:
        raise UserError(
            f"--outage {at_s:g}:{length_s:g}: let it begin 5 s or later, last 4 s or longer, and "
            f"end 5 s or more before --duration {duration_s:g}, so that it can be seen to drain."
        )
    return Plan(devices, duration_s, at_s, length_s)


def _outage(outage: str | None, duration_s: float) -> tuple[float, float]:
    if outage is None:
        return round(duration_s / 3, 1), round(duration_s / 3, 1)
    found = re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", outage)
    if found is None:
        raise UserError(f"--outage {outage}: write AT:LENGTH in seconds, for example 20:15.")
    return float(found[1]), float(found[2])
