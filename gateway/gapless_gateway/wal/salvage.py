"""What may be put in the place of durable entries that cannot be read any more.

Only what is derivable exactly: between the last seq of a stream before the damage and its first
one behind it lie the seqs that are gone. If those of all streams are as many as the LSNs that are
gone, then each of these LSNs held one of them, and one LOST(corruption) of a single seq goes into
the place of each. In every other case something else was lost too, and nothing is made up.
"""

from __future__ import annotations

from collections.abc import Mapping

from gapless_gateway.wal.entries import (
    REASON_CORRUPTION,
    Elsewhere,
    Lost,
    Record,
    decode_payload,
)
from gapless_gateway.wal.segment import RawEntry

_KINDS_OF_SEQS = {Record.KIND, Lost.KIND, Elsewhere.KIND}
SALVAGE_ENTRIES_MAX = 1_000_000  # more cannot lie in one segment


def first_seqs(raw_entries: list[RawEntry]) -> dict[bytes, int]:
    """The first seq of every stream that appears in these entries."""
    found: dict[bytes, int] = {}
    for raw in raw_entries:
        if raw.kind in _KINDS_OF_SEQS:
            entry = decode_payload(raw.kind, raw.payload)
            if isinstance(entry, Record):
                found.setdefault(entry.stream, entry.seq)
            elif isinstance(entry, Lost | Elsewhere):
                found.setdefault(entry.stream, entry.first)
    return found


def derive_lost(
    lsn: int,
    next_lsn: int,
    *,
    durable: Mapping[bytes, int],
    behind: Mapping[bytes, int],
    rx_ms: int,
    outage: int,
) -> list[Lost] | None:
    """One LOST for each LSN of lsn..next_lsn-1, or None if that cannot be derived exactly.

    `durable`: the last seq of every stream before the damage; `behind`: the first behind it.
    """
    if any(stream not in durable for stream in behind):
        return None  # its session is among what is gone
    missing = sum(max(first - durable[stream] - 1, 0) for stream, first in behind.items())
    if missing != next_lsn - lsn or missing > SALVAGE_ENTRIES_MAX:
        return None
    return [
        Lost(stream, seq, seq, REASON_CORRUPTION, False, True, rx_ms, outage)
        for stream, first in sorted(behind.items())
        for seq in range(durable[stream] + 1, first)
    ]
