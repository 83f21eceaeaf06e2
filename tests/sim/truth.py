"""What really happened: the world writes it down as it goes, the invariants hold the gateway to it.

Numbers are (stream, seq).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gapless_gateway.wal.entries import Entry

Number = tuple[bytes, int]


class BrokenPromise(AssertionError):
    """An invariant does not hold. The first word of the message is its name."""

    def __init__(self, name: str, words: str) -> None:
        super().__init__(f"{name}: {words}")
        self.name = name


def promise(holds: bool, name: str, words: str) -> None:
    """Raise BrokenPromise unless it holds."""
    if not holds:
        raise BrokenPromise(name, words)


@dataclass
class Truth:
    """See the module."""

    log_id: bytes = b""
    made: dict[Number, bytes] = field(default_factory=dict)  # the record's bytes
    forgotten: dict[Number, str] = field(default_factory=dict)  # by its board, and why
    elsewhere: set[Number] = field(default_factory=set)  # acked by another gateway
    told: set[Number] = field(default_factory=set)  # a board was told that these are durable
    told_through: dict[bytes, int] = field(default_factory=dict)  # stream -> as of the last ack
    refused: set[Number] = field(default_factory=set)  # by the broker, for good
    published: set[Number] = field(default_factory=set)  # as records; some never got there
    # LSN -> all entries that were ever appended with it: after a torn tail they are given again.
    appended: dict[int, list[Entry]] = field(default_factory=dict)
    durable_lsn: int = 0  # the highest that a commit returned
    hit_numbers: set[Number] = field(default_factory=set)  # of entries in which a bit flipped
    hit_losts: set[Number] = field(default_factory=set)  # of these, the numbers of LOST entries
    # Refused for good, and the Quarantined entry went bad or was cut off: it counts as delivered.
    unquarantined: set[Number] = field(default_factory=set)
    may_be_gone: set[int] = field(default_factory=set)  # the LSNs of these
    # LSNs of the last batch of the log that stand behind a hit in it: taken for a torn tail.
    may_be_cut: set[int] = field(default_factory=set)
    cut: set[Number] = field(default_factory=set)  # numbers that were cut off for that reason
    damaged_headers: set[Path] = field(default_factory=set)
    damaged_formats: set[Path] = field(default_factory=set)
    damaged_kept: bool = False
    cursor_hits: int = 0
    dropped_lsns: set[int] = field(default_factory=set)  # first LSNs of segments dropped for room
    events: list[str] = field(default_factory=list)

    def note(self, words: str) -> None:
        self.events.append(words)
