"""What one stream looks like in a consumer's capture, gathered message by message.

A transmission is known by its `tx`. The same tx twice is the broker's own duplicate (QoS 1 lets
it); another tx of the same seq is ours and has to be flagged as a redelivery. So each seq may have
one unflagged tx, and it has to be the lowest of all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gapless_gateway.account.intervals import IntervalSet
from gapless_tools.audit.numbers import SeqNumbers

_TX_RUN_SHIFT = 40
TX_RUN_MAX = (1 << 24) - 1

# Ranges with these reasons are declared about numbers that others may already have overtaken.
REASON_QUARANTINED = "quarantined"
REASON_ELSEWHERE = "elsewhere"
OUT_OF_TURN = frozenset(
    {
        REASON_QUARANTINED,
        REASON_ELSEWHERE,
        "quota",
        "corruption",
        "replaced",
        "retired",
        "discarded",
    }
)


def tx_number(run: int, number: int) -> int:
    """A transmission as one number that rises with every one. Raises ValueError."""
    if not (0 < run <= TX_RUN_MAX and 0 < number < 1 << _TX_RUN_SHIFT):
        raise ValueError(f"{run}-{number} is no transmission number")
    return (run << _TX_RUN_SHIFT) + number


@dataclass(slots=True)
class Transmissions:
    """Which transmissions of each seq arrived, and what is wrong with them."""

    first_tx: SeqNumbers = field(default_factory=SeqNumbers)  # the unflagged one
    flagged: dict[int, set[int]] = field(default_factory=dict)
    broker_duplicates: int = 0
    redelivered: int = 0
    unflagged_duplicates: list[int] = field(default_factory=list)  # seqs

    def take(self, seq: int, tx: int, redelivery: bool) -> bool:
        """Note one copy. True when it is a first transmission that was not seen before."""
        if redelivery:
            known = self.flagged.setdefault(seq, set())
            self.broker_duplicates += tx in known
            self.redelivered += tx not in known
            known.add(tx)
            return False
        first = self.first_tx.get(seq)
        if first == tx:
            self.broker_duplicates += 1
        elif first:
            self.unflagged_duplicates.append(seq)
        else:
            self.first_tx.set(seq, tx)
        return not first

    def unflagged_after_flagged(self) -> list[int]:
        """The seqs whose unflagged transmission came after a flagged one: it lied."""
        return [
            seq
            for seq, flagged in self.flagged.items()
            if (first := self.first_tx.get(seq)) and min(flagged) < first
        ]


@dataclass(slots=True)
class StreamCapture:
    """All of one stream in a capture."""

    device: str
    stream: str
    records: IntervalSet = field(default_factory=IntervalSet)
    lost: IntervalSet = field(default_factory=IntervalSet)  # declared, for any reason of the log
    quarantined: IntervalSet = field(default_factory=IntervalSet)
    of_records: Transmissions = field(default_factory=Transmissions)
    of_ranges: Transmissions = field(default_factory=Transmissions)
    arrived_out_of_order: list[int] = field(default_factory=list)
    differing: list[int] = field(default_factory=list)  # seqs whose content is not the log's
    wrong_ranges: list[str] = field(default_factory=list)  # LOST other than the log has them
    unknown: IntervalSet = field(default_factory=IntervalSet)  # in the capture, not in the log
    beyond: IntervalSet = field(default_factory=IntervalSet)  # taken in after the books end
    _latest: dict[str, tuple[int, int]] = field(default_factory=dict)  # topic -> (tx, seq)

    def take_record(self, seq: int, tx: int, redelivery: bool, *, event: bool) -> None:
        """One copy of one record."""
        self.records.add(seq, seq)
        if self.of_records.take(seq, tx, redelivery):
            self._arrived("event" if event else "data", seq, tx)

    def take_range(self, first: int, last: int, reason: str, tx: int, redelivery: bool) -> None:
        """One copy of a declared range."""
        if reason == REASON_QUARANTINED:
            self.quarantined.add(first, last)
        elif reason != REASON_ELSEWHERE:
            self.lost.add(first, last)
        if reason not in OUT_OF_TURN and self.of_ranges.take(first, tx, redelivery):
            self._arrived("lost", first, tx)

    def _arrived(self, topic: str, seq: int, tx: int) -> None:
        """Order within a topic, as the broker promises it, of first transmissions.

        Sent in order and arrived out of order is the broker's doing: then tx falls with the seq.
        """
        latest_tx, latest_seq = self._latest.get(topic, (0, 0))
        if seq < latest_seq and tx < latest_tx:
            self.arrived_out_of_order.append(seq)
        self._latest[topic] = max((latest_tx, latest_seq), (tx, seq))
