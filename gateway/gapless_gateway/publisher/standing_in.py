"""What is told in the place of records that are gone from the log, in their order.

A Gone may hold numbers of many streams, in many states. Each piece of one state is announced on
its own: declared lost, or kept aside. What the consumer has already is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gapless_gateway.publisher.parts import StreamView
from gapless_gateway.wal.entries import Gone, Lost


@dataclass(slots=True)
class SetAside:
    """The seqs first..last of a stream are quarantined; said where they stood."""

    stream: bytes
    first: int
    last: int
    rx_ms: int


def pieces_of(
    gone: Gone,
    streams: Mapping[bytes, StreamView],
    delivered_through: Mapping[bytes, int],
    at_ms: int,
) -> list[Lost | SetAside]:
    """The announcements for a Gone all of whose numbers are declared, in the order of each stream.

    `at_ms`: what they say as their time; when the records came in is gone with them.
    """
    pieces: list[Lost | SetAside] = []
    for stream, told_first, last in gone.ranges:
        view = streams.get(stream)
        first = max(told_first, delivered_through.get(stream, 0) + 1)
        if view is None or last < first:
            continue
        found: list[Lost | SetAside] = [
            Lost(stream, a, b, reason, at_most, True, at_ms, 0)
            for a, b, (reason, at_most) in view.lost.within(first, last)
        ]
        aside = view.quarantined.within(first, last).union(view.requeued.within(first, last))
        found += [SetAside(stream, a, b, at_ms) for a, b in aside]
        pieces += sorted(found, key=lambda one: one.first)
    return pieces
