"""The summaries of many segments as one: whenever it was merged, the same, and bounded."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import cbor2
import pytest

from gapless_gateway.wal.entries import (
    Conflict,
    Entry,
    Lost,
    Outage,
    Progress,
    Quarantined,
    Record,
    Run,
    encode_payload,
)
from gapless_gateway.wal.ledger import LedgerContent
from gapless_gateway.wal.ledger_compaction import LedgerLimits, compacted_ledger
from gapless_gateway.wal.ledger_format import RetiredSegment
from gapless_gateway.wal.merged_summary import Bounds, merge_summaries, thinned
from gapless_gateway.wal.segment import RawEntry
from gapless_gateway.wal.summary import PROGRESS_POINTS_MAX, SegmentSummary

STREAMS = [bytes([n]) * 4 for n in (1, 2, 3)]
SEEDS = range(40)


@dataclass
class Truth:
    """A random history in segments, and what is true of it."""

    summaries: list[dict[str, Any]] = field(default_factory=list)
    stored: dict[bytes, set[int]] = field(default_factory=dict)
    lost: dict[bytes, dict[int, tuple[int, bool]]] = field(default_factory=dict)
    points: list[list[Any]] = field(default_factory=list)


def history(seed: int, segments: int = 25) -> Truth:
    chance = random.Random(seed)
    truth, at_ms, lsn = Truth(), 1000, 1
    next_seq = dict.fromkeys(STREAMS, 1)
    for _ in range(segments):
        summary = SegmentSummary()
        for _ in range(chance.randrange(1, 12)):
            at_ms += chance.randrange(1, 50)
            stream = chance.choice(STREAMS[: chance.randrange(1, 4)])
            entry = _entry(chance, truth, stream, next_seq, at_ms)
            summary.add(RawEntry(lsn, lsn, entry.KIND, encode_payload(entry), 0))
            lsn += 1
        kept = cbor2.loads(cbor2.dumps(summary.to_map()))
        truth.summaries.append(kept)
        truth.points += kept["progress"]
    return truth


def _entry(
    chance: random.Random, truth: Truth, stream: bytes, next_seq: dict[bytes, int], at_ms: int
) -> Entry:
    seq = next_seq[stream]
    kind = chance.randrange(12)
    if kind < 6:
        next_seq[stream] = seq + 1
        truth.stored.setdefault(stream, set()).add(seq)
        return Record(stream, seq, at_ms, -1, -1, 0, 0, b"\x80")
    if kind < 8:
        last = seq + chance.randrange(3)
        next_seq[stream] = last + 1
        verdict = (chance.choice((1, 2)), chance.random() < 0.5)
        lost = truth.lost.setdefault(stream, {})
        lost |= dict.fromkeys(range(seq, last + 1), verdict)
        return Lost(stream, seq, last, *verdict, False, at_ms, 0)
    if kind == 8:
        return Run(at_ms, at_ms, "g", "v", "r", b"\x01" * 8, True, 0, "")
    if kind == 9:
        return Outage(at_ms, chance.random() < 0.5, at_ms, "", 0)
    if kind == 10:
        what = (Conflict(stream, seq, at_ms, "x", b""), Quarantined(stream, seq, at_ms, ""))
        return chance.choice(what)
    pending = chance.randrange(1000)
    through = ((stream, seq - 1, 0, 0, 0),)
    return Progress(at_ms, 1, through, ((chance.randrange(9), 2),), ((1, 1),), pending)


def merged_in_steps(summaries: list[dict[str, Any]], bounds: Bounds, seed: int) -> dict[str, Any]:
    """As compactions at random moments do: what there is, with one for all before it."""
    chance, left = random.Random(seed + 1000), list(summaries)
    merged: list[dict[str, Any]] = []
    while left:
        taken = chance.randrange(1, 8)
        merged = [merge_summaries([*merged, *left[:taken]], bounds)]
        merged = [cbor2.loads(cbor2.dumps(merged[0]))]
        del left[:taken]
    return merged[0]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bounds", [Bounds(), Bounds(ranges=3, events=2, points=5)])
def test_merged_at_random_moments_is_merged_at_once(seed: int, bounds: Bounds) -> None:
    summaries = history(seed).summaries
    at_once = cbor2.loads(cbor2.dumps(merge_summaries(summaries, bounds)))
    in_steps = merged_in_steps(summaries, bounds, seed)
    at_once.pop("progress"), in_steps.pop("progress")
    assert in_steps == at_once


@pytest.mark.parametrize("seed", SEEDS)
def test_every_number_is_listed_or_counted(seed: int) -> None:
    truth, bounds = history(seed), Bounds(ranges=2, events=3, points=4)
    merged = merged_in_steps(truth.summaries, bounds, seed)
    assert merged["segments"] == len(truth.summaries)
    rows = {row[0]: row for row in merged["streams"]}
    for stream in truth.stored.keys() | truth.lost.keys():
        stored, lost = truth.stored.get(stream, set()), truth.lost.get(stream, {})
        _, records, stored_ranges, lost_ranges, _, first, _, _, counted = rows[stream]
        through, numbers, lost_counts = counted or (0, 0, [])
        assert records == len(stored)
        assert first == min(stored, default=0)
        listed = {seq for a, b in stored_ranges for seq in range(a, b + 1)}
        assert listed == {seq for seq in stored if seq > through}
        listed_lost = {
            s: (why, most) for a, b, why, most, _ in lost_ranges for s in range(a, b + 1)
        }
        assert listed_lost == {seq: verdict for seq, verdict in lost.items() if seq > through}
        assert numbers == sum(seq <= through for seq in stored | lost.keys())
        for reason, at_most, count in lost_counts:
            of_these = [s for s, v in lost.items() if v == (reason, at_most) and s <= through]
            assert count == len(of_these)
        assert len(stored_ranges) <= bounds.ranges
        assert len(lost_ranges) <= bounds.ranges
    for name in ("runs", "outages", "conflicts", "quarantined"):
        everything = [one for summary in truth.summaries for one in summary[name]]
        assert merged[name] == everything[-bounds.events :]
    assert merged["from_ms"] == min(s["from_ms"] for s in truth.summaries)
    assert merged["to_ms"] == max(s["to_ms"] for s in truth.summaries)
    for kind in range(1, 13):
        assert merged["kinds"].get(kind, 0) == sum(s["kinds"].get(kind, 0) for s in truth.summaries)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_backlog_keeps_its_peak_its_end_and_its_order(seed: int) -> None:
    truth, bounds = history(seed, segments=60), Bounds(points=6)
    kept = merged_in_steps(truth.summaries, bounds, seed)["progress"]
    if not truth.points:
        return
    assert len(kept) <= bounds.points
    assert all(point in truth.points for point in kept)
    assert kept[-1] == truth.points[-1]
    assert max(point[1] for point in kept) == max(point[1] for point in truth.points)
    assert kept == sorted(kept, key=lambda point: point[0])


def test_thinning_is_even_over_time_however_dense_the_points_are() -> None:
    points = [[at_ms, 1, []] for at_ms in (*range(0, 1000, 100), *range(1000, 2000))]
    kept = thinned(points, 10)
    assert sum(point[0] < 1000 for point in kept) == pytest.approx(5, abs=1)
    assert thinned(points[:10], 10) == points[:10]


def test_what_was_counted_and_is_given_up_later_is_not_counted_twice() -> None:
    first = history(1).summaries[0] | {
        "streams": [[STREAMS[0], 9, [[1, 3], [5, 7], [9, 11]], [], 11]]
    }
    later = first | {"streams": [[STREAMS[0], 1, [[2, 3]], [[2, 2, 5, False, True]], 11]]}
    merged = merge_summaries([first], Bounds(ranges=1))
    again = merge_summaries([merged, later], Bounds(ranges=1))
    assert merged["streams"][0][-1] == [7, 6, []]
    assert again["streams"][0][-1] == [7, 6, [[5, False, 1]]]
    assert again["streams"][0][2:4] == [[[9, 11]], []], "only what lies above is listed"


def test_a_span_of_very_many_streams_in_very_many_pieces_stays_in_its_part() -> None:
    limits = LedgerLimits(entries=10, bytes=1 << 20)
    rows = [
        [n.to_bytes(4, "big"), 300, [[a, a] for a in range(1, 601, 2)], [], 600]
        for n in range(2000)
    ]
    through = [[row[0], 600] for row in rows]
    progress = [[at_ms, 5, through] for at_ms in range(PROGRESS_POINTS_MAX)]
    summary = history(1).summaries[0] | {"streams": rows, "progress": progress}
    entry = RetiredSegment(1, 1, 9, 100, bytes(32), 0, summary)
    content = LedgerContent(b"\x01" * 8, [entry], [bytes(32)], 24, 0, ends=[24])
    data = compacted_ledger(bytes(24), content, 1, limits, 0)
    assert len(data) < limits.bytes // 2
    assert len(data) > 2000 * 20, "each stream has its row"
