"""What arrived at the consumer, and whether it may have: judged apart from `gapless audit`.

A transmission is known by its `tx`. The same tx again is the broker's own duplicate. Another tx of
the same seq is a repeat of the gateway's, and has to carry `redelivery`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Tx = tuple[int, int]  # (run of the gateway, number within it)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message about the seqs from `first` to `last`. `reason`: they are declared lost."""

    first: int
    last: int
    tx: Tx
    redelivery: bool
    reason: str | None
    values: Mapping[str, Any] | None


@dataclass
class DeviceArrivals:
    """All that arrived of one device, in the order in which it arrived."""

    all: list[Arrival] = field(default_factory=list)
    streams: set[str] = field(default_factory=set)
    values: dict[int, list[Mapping[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    lost: dict[int, str] = field(default_factory=dict)  # seq -> reason
    first_arrivals: list[int] = field(default_factory=list)  # seqs, each once
    through: int = 0  # everything from 1 to here is there
    _seen: set[int] = field(default_factory=set)

    def take(self, message: Mapping[str, Any]) -> None:
        """One more message."""
        run, _, number = message["tx"].partition("-")
        first = message.get("first", message.get("seq"))
        last = message.get("last", first)
        arrival = Arrival(
            first,
            last,
            (int(run), int(number)),
            message["redelivery"],
            message.get("reason"),
            message.get("values"),
        )
        self.all.append(arrival)
        self.streams.add(message["stream"])
        if arrival.values is not None:
            self.values[first].append(arrival.values)
        for seq in range(first, last + 1):
            if arrival.reason is not None:
                self.lost[seq] = arrival.reason
            if seq not in self._seen:
                self._seen.add(seq)
                self.first_arrivals.append(seq)
        while self.through + 1 in self._seen:
            self.through += 1

    def order_faults(self) -> list[str]:
        """What arrived for the first time after a higher seq that was sent later."""
        faults, highest, highest_tx = [], 0, (0, 0)
        known: set[Tx] = set()
        for one in self.all:
            if one.redelivery or one.tx in known:
                continue
            known.add(one.tx)
            if one.first <= highest or one.tx < highest_tx:
                faults.append(f"{one.first} as {one.tx} after {highest} as {highest_tx}")
            highest, highest_tx = max(highest, one.last), max(highest_tx, one.tx)
        return faults

    def unflagged_repeats(self) -> list[str]:
        """The seqs of which two transmissions claim to be the first, or a later one does."""
        transmissions: dict[int, dict[Tx, bool]] = defaultdict(dict)
        for one in self.all:
            transmissions[one.first][one.tx] = one.redelivery
        return [
            f"{seq}: {sorted(sent.items())}"
            for seq, sent in transmissions.items()
            if any(not flagged for _, flagged in sorted(sent.items())[1:])
        ]

    def flagged(self) -> int:
        """How many messages carry `redelivery`."""
        return sum(one.redelivery for one in self.all)

    def brokers_own_duplicates(self) -> int:
        """How many messages came with a tx that had come before."""
        return len(self.all) - len({one.tx for one in self.all})


class Arrivals:
    """Follows the file of a capture while it grows."""

    def __init__(self, file: Path) -> None:
        self.devices: dict[str, DeviceArrivals] = defaultdict(DeviceArrivals)
        self._file = file
        self._offset = 0

    def update(self) -> None:
        """Take in the lines that have been completed since the last call."""
        if not self._file.exists():
            return
        with self._file.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                message = json.loads(line)["message"]
                if "tx" in message:
                    self.devices[message["device"]].take(message)

    def have_through(self, wanted: Mapping[str, int]) -> bool:
        """Whether everything up to these seqs has arrived by now."""
        self.update()
        return all(self.devices[one].through >= seq for one, seq in wanted.items())
