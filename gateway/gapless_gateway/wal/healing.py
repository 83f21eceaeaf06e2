"""A damaged segment made whole again: what can be read stays, Gone stands in for the rest.

Which numbers are gone is derived, never guessed:

- Of a segment that others follow: the account in the next segment's header says what was in the
  log by then. What it has beyond the account before this segment, and what cannot be read in it,
  stood where the damage is. So even a segment that is missing altogether is known number by number.
- Of the newest segment: between the last number of a stream before the damage and its first one
  behind it lie the numbers that are gone, and so do those that the cursor, or a Progress behind it,
  says were delivered, and those that a HELLO behind it says were acked here.
  What was gone from its very end no one here can know; the boards tell it with their next HELLO.

Nothing here touches a disk but to read. docs/wal-format.md, "Damage", has it in prose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gapless_gateway.account.account import Account
from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.wal.entries import (
    GONE_CORRUPTION,
    GONE_RANGES_MAX,
    RECORD_FIXED,
    Elsewhere,
    Gone,
    Lost,
    Progress,
    Record,
    Session,
    decode_payload,
)
from gapless_gateway.wal.format import (
    SegmentHeader,
    crc_seed,
    encode_entry,
    encode_segment_header,
)
from gapless_gateway.wal.segment import RawEntry, SegmentScan

SCAN_ENTRIES = 1024

Numbers = dict[bytes, IntervalSet]  # stream -> seqs


@dataclass(slots=True)
class ReadableRun:
    """Entries that stand together and can all be read: the bytes [offset, end_offset)."""

    offset: int
    end_offset: int
    first_batch: int = 0
    last_batch: int = 0
    told: Numbers = field(default_factory=dict)  # of records, LOST and Gone
    first_told: dict[bytes, int] = field(default_factory=dict)  # stream -> the first of these
    elsewhere: Numbers = field(default_factory=dict)
    bases: dict[bytes, int] = field(default_factory=dict)  # of the streams that a Session names
    held: Numbers = field(default_factory=dict)  # at the board, says a HELLO: they come behind it
    # stream -> the number up to which the log had it all, as a HELLO that was acked here or a
    # Progress says
    witnessed: dict[bytes, int] = field(default_factory=dict)


@dataclass(slots=True)
class Gap:
    """The LSNs [lsn, next_lsn) cannot be read."""

    lsn: int
    next_lsn: int
    offset: int
    why: str
    ranges: list[tuple[bytes, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class SegmentReading:
    """A whole segment, read as far as it can be."""

    pieces: list[ReadableRun | Gap] = field(default_factory=list)
    end_lsn: int = 0  # of what the pieces take up, exclusive
    torn_bytes: int = 0
    torn_why: str = ""

    @property
    def gaps(self) -> list[Gap]:
        """What cannot be read."""
        return [one for one in self.pieces if isinstance(one, Gap)]

    @property
    def runs(self) -> list[ReadableRun]:
        """What can be read."""
        return [one for one in self.pieces if isinstance(one, ReadableRun)]

    def add_gap(self, next_lsn: int, offset: int, why: str) -> None:
        """The LSNs from the end of what there is up to `next_lsn` are gone."""
        if next_lsn > self.end_lsn:
            self.pieces.append(Gap(self.end_lsn, next_lsn, offset, why))
            self.end_lsn = next_lsn


def read_segment(scan: SegmentScan, *, next_first_lsn: int | None) -> SegmentReading:
    """Read a segment from its front, over every damage.

    `next_first_lsn`: where the segment behind it begins; None: it is the newest, and may have a
    torn tail. Raises OSError.
    """
    reading = SegmentReading(end_lsn=scan.header.first_lsn)
    while True:
        _read_run(scan, reading)
        if scan.stopped is None:
            break
        damage = scan.damage()
        if next_first_lsn is None and damage.torn and damage.offset:
            reading.torn_bytes, reading.torn_why = damage.torn_bytes, damage.why
            break
        if damage.next_lsn is None:
            break
        reading.add_gap(damage.next_lsn, damage.offset, damage.why)
        scan.go_on_behind(damage)
    if next_first_lsn is not None:
        reading.add_gap(next_first_lsn, scan.offset, scan.stopped or "it ends too early")
    return reading


def _read_run(scan: SegmentScan, reading: SegmentReading) -> None:
    run = ReadableRun(scan.offset, scan.offset)
    while raw_entries := scan.take(SCAN_ENTRIES):
        for raw in raw_entries:
            run.first_batch = run.first_batch or raw.batch_first_lsn
            _note_numbers(run, raw, scan.header.log_id)
        run.last_batch = raw_entries[-1].batch_first_lsn
    run.end_offset = scan.offset
    if run.end_offset > run.offset:
        reading.pieces.append(run)
        reading.end_lsn = scan.lsn


def _note_numbers(run: ReadableRun, raw: RawEntry, log_id: bytes) -> None:
    if raw.kind == Record.KIND:
        stream, seq = RECORD_FIXED.unpack_from(raw.payload)[:2]
        _tell(run, stream, seq, seq)
    elif raw.kind in (Lost.KIND, Gone.KIND, Elsewhere.KIND, Session.KIND, Progress.KIND):
        entry = decode_payload(raw.kind, raw.payload)
        if isinstance(entry, Lost):
            _tell(run, entry.stream, entry.first, entry.last)
        elif isinstance(entry, Elsewhere):
            run.elsewhere.setdefault(entry.stream, IntervalSet()).add(entry.first, entry.last)
        elif isinstance(entry, Session):
            run.bases.setdefault(entry.stream, entry.base)
            run.held[entry.stream] = IntervalSet((a, b) for a, b in entry.held)
            if entry.acked_by == log_id:
                _witness(run, entry.stream, entry.acked)
        elif isinstance(entry, Progress):
            for stream, delivered_through, *_ in entry.streams:
                _witness(run, stream, delivered_through)
        elif isinstance(entry, Gone):
            for stream, first, last in entry.ranges:
                _tell(run, stream, first, last)


def _tell(run: ReadableRun, stream: bytes, first: int, last: int) -> None:
    run.told.setdefault(stream, IntervalSet()).add(first, last)
    run.first_told.setdefault(stream, first)


def _witness(run: ReadableRun, stream: bytes, through: int) -> None:
    run.witnessed[stream] = max(run.witnessed.get(stream, 0), through)


def assign_by_accounts(reading: SegmentReading, before: Numbers, after: Numbers) -> None:
    """Say what stood in each gap of an older segment, from what was known on both sides of it."""
    readable = told_by(reading)
    if not reading.gaps:
        return
    for stream, numbers in after.items():
        missing = numbers
        for one in (before, readable):
            missing = missing.difference(one.get(stream, IntervalSet()))
        for first, last in missing:
            _gap_of(reading, stream, first, last).ranges.append((stream, first, last))


def _gap_of(reading: SegmentReading, stream: bytes, first: int, last: int) -> Gap:
    """The gap in which these numbers stood: behind the lower ones and before the higher ones.

    The first of several that it may be: what lies lower may have been sent, so nobody will declare
    lost what somebody has.
    """
    start, end = -1, len(reading.pieces)
    for at, piece in enumerate(reading.pieces):
        if not isinstance(piece, ReadableRun):
            continue
        told = piece.told.get(stream, IntervalSet())
        lower = told.union(piece.elsewhere.get(stream, IntervalSet()))
        through = max([piece.witnessed.get(stream, 0), *(b for _, b in told)])
        if through > last or piece.witnessed.get(stream, 0) >= last:
            end = at
            break
        held = piece.held.get(stream, IntervalSet())
        if held.contains(first) or (lower and lower.ranges()[0][0] < first):
            start = at
    inside = [one for one in reading.pieces[start + 1 : end] if isinstance(one, Gap)]
    ahead = [one for one in reading.pieces[:end] if isinstance(one, Gap)]
    return (inside or ahead[-1:] or reading.gaps)[0]


def assign_by_neighbours(
    reading: SegmentReading, before: Account, delivered_through: Mapping[bytes, int]
) -> None:
    """Say what stood in each gap of the newest segment, from what stands around it."""
    durable = {stream: known.durable for stream, known in before.streams.items()}
    elsewhere = union(
        {stream: known.elsewhere.keys() for stream, known in before.streams.items()},
        *(run.elsewhere for run in reading.runs),
    )
    for index, piece in enumerate(reading.pieces):
        if isinstance(piece, ReadableRun):
            for stream, base in piece.bases.items():
                durable.setdefault(stream, base)
            for stream, numbers in piece.told.items():
                if numbers:
                    highest = numbers.ranges()[-1][1]
                    durable[stream] = max(durable.get(stream, 0), highest)
            continue
        rest = reading.pieces[index + 1 :]
        is_last_gap = not any(isinstance(one, Gap) for one in rest)
        next_run = rest[0] if rest and isinstance(rest[0], ReadableRun) else ReadableRun(0, 0)
        for stream, through in list(durable.items()):
            behind = _first_behind(rest, stream, through + 1)
            if behind is not None:
                last = behind - 1
            else:
                last = next_run.witnessed.get(stream, 0)
                if is_last_gap:
                    last = max(last, delivered_through.get(stream, 0))
            gone = IntervalSet([(through + 1, last)])
            gone = gone.difference(elsewhere.get(stream, IntervalSet()))
            piece.ranges += [(stream, a, b) for a, b in gone]
            durable[stream] = max(through, last)


def told_by(reading: SegmentReading) -> Numbers:
    """All numbers that the readable entries of a segment answer for."""
    return union(*(run.told for run in reading.runs), *(run.elsewhere for run in reading.runs))


def numbers_of(account: Account) -> Numbers:
    """All that an account answers for, stream by stream."""
    return {
        stream: known.stored.union(known.lost.keys()).union(known.elsewhere.keys())
        for stream, known in account.streams.items()
    }


def _first_behind(pieces: Iterable[ReadableRun | Gap], stream: bytes, start: int) -> int | None:
    """The number, not below `start`, with which a stream goes on in these pieces.

    Not the lowest: one that came out of quarantine stands again behind higher ones.
    """
    for piece in pieces:
        if isinstance(piece, ReadableRun) and stream in piece.told:
            if piece.first_told[stream] >= start:
                return piece.first_told[stream]
            numbers = piece.told[stream]
            beyond = numbers.within(start, numbers.ranges()[-1][1]).ranges() if numbers else []
            if beyond:
                return beyond[0][0]
    return None


def union(*several: Mapping[bytes, IntervalSet]) -> Numbers:
    """The numbers of all of these, stream by stream."""
    result: Numbers = {}
    for one in several:
        for stream, numbers in one.items():
            result[stream] = result.get(stream, IntervalSet()).union(numbers)
    return result


def gone_entries(gap: Gap, cause: str = GONE_CORRUPTION) -> list[tuple[int, Gone]]:
    """(LSN, entry) of what stands in for a gap: one, or as many as its ranges need."""
    span = gap.next_lsn - gap.lsn
    ranges = tuple(gap.ranges)
    chunks = [ranges[at : at + GONE_RANGES_MAX] for at in range(0, len(ranges), GONE_RANGES_MAX)]
    chunks = chunks or [()]
    if len(chunks) > span:  # more ranges than LSNs cannot have stood there
        raise ValueError(f"{len(ranges)} ranges cannot have stood in {span} entries")
    entries = [(gap.lsn + at, Gone(gap.lsn + at, cause, one)) for at, one in enumerate(chunks[:-1])]
    last_lsn = gap.lsn + len(chunks) - 1
    return [*entries, (last_lsn, Gone(gap.next_lsn - 1, cause, chunks[-1]))]


def rewritten(
    source: SegmentScan | SegmentHeader, reading: SegmentReading, *, cause: str = GONE_CORRUPTION
) -> tuple[bytes, list[tuple[int, Gone]]]:
    """The bytes of the segment that takes this one's place, and the (LSN, Gone) in it.

    `source`: the file that can be read in part, or just a header where there is none. The header
    is written anew in today's format, with the same account. Raises OSError.
    """
    header = source if isinstance(source, SegmentHeader) else source.header
    seed = crc_seed(header.log_id)
    parts, gone, batch = [encode_segment_header(header)], [], 0
    for index, piece in enumerate(reading.pieces):
        if isinstance(piece, ReadableRun):
            assert isinstance(source, SegmentScan)
            parts.append(source.read(piece.offset, piece.end_offset - piece.offset))
            batch = piece.last_batch
            continue
        following = reading.pieces[index + 1 :]
        next_batch = _first_batch(following, piece.lsn)
        batch = max(batch, min(piece.lsn, next_batch))
        for lsn, entry in gone_entries(piece, cause):
            parts.append(encode_entry(lsn, batch, entry, seed))
            gone.append((lsn, entry))
    return b"".join(parts), gone


def _first_batch(pieces: list[ReadableRun | Gap], otherwise: int) -> int:
    first = pieces[0] if pieces else None
    return first.first_batch if isinstance(first, ReadableRun) else otherwise
