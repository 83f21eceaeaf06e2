"""The ledger: whether its chain is whole, anchored in the log, and agrees with the account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gapless_gateway.account.account import Account
from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.account.stream_account import SEQ_MAX
from gapless_gateway.wal.format import SegmentHeader
from gapless_gateway.wal.ledger import LedgerContent
from gapless_tools.audit.findings import US, Findings
from gapless_tools.audit.scales import ranges
from gapless_tools.audit.timeline import Timeline

if TYPE_CHECKING:
    from gapless_tools.audit.books import Books


def check_ledger(
    books: Books,
    ledger: LedgerContent | None,
    headers: Sequence[SegmentHeader],
    first_account: Account | None,
    findings: Findings,
) -> None:
    """Note every break of the chain, and every word of the ledger that the account denies.

    `headers`: of the segments that were read, oldest first; `first_account`: before the first.
    """
    if ledger is None:
        findings.add("ledger", (US,), f"{books.state_dir / 'ledger'} is missing")
        return
    books.ledger_entries, books.ledger_head = ledger.head
    books.segments_retired = ledger.retired_count
    if ledger.log_id != books.account.log_id:
        findings.add("ledger", (US,), "the ledger belongs to another log, or its head is damaged")
        return
    if ledger.fault is not None:
        findings.add("ledger", (US,), f"the ledger was changed: {ledger.fault}")
    anchored = _check_anchors(books, ledger, headers, findings)
    _check_continuity(ledger, headers, anchored, findings)
    _take_times(books, ledger)
    if first_account is not None:
        _check_against_account(books, ledger, headers[0].first_lsn, first_account, findings)


def _check_anchors(
    books: Books, ledger: LedgerContent, headers: Sequence[SegmentHeader], findings: Findings
) -> bool:
    """Every segment names the ledger's head at the time when it was begun."""
    for header in headers:
        count = header.ledger_count
        if books.in_use and ledger.is_behind_a_span(count):
            continue  # retired and compacted since its segment was read
        if ledger.hash_at(count) != header.ledger_hash:
            findings.add(
                "ledger",
                (US,),
                f"entry {count} of the ledger is anchored in the segment of LSN "
                f"{header.first_lsn}, and the ledger "
                + (
                    f"can be read up to entry {ledger.count} only: it was cut or changed"
                    if count > ledger.count
                    else "has another one there: it was rewritten"
                ),
            )
            return False
    return True


def _check_continuity(
    ledger: LedgerContent,
    headers: Sequence[SegmentHeader],
    anchored: bool,
    findings: Findings,
) -> None:
    """The ledger's entries follow each other, and the log follows the last of them."""
    due = 1
    for entry in ledger.summaries:
        if entry.first_lsn != due:
            words = f"an entry begins with LSN {entry.first_lsn}, {due} was due"
            findings.add("ledger", (US,), words)
        due = entry.last_lsn + 1
    if headers and headers[0].first_lsn > due and anchored:
        findings.add(
            "ledger",
            (US,),
            f"LSN {due} to {headers[0].first_lsn - 1} are neither in the log nor in the ledger",
        )


def take_retired(timeline: Timeline, ledger: LedgerContent, first_lsn: int) -> None:
    """Draw what the ledger kept of the segments before `first_lsn`: it comes before the log."""
    for entry in ledger.summaries:
        summary = entry.summary
        if entry.first_lsn >= first_lsn or summary["from_ms"] is None:
            continue
        for at_ms, pending, through in summary["progress"]:
            timeline.take_point(at_ms, pending, [(stream, seq) for stream, seq in through])
        for stream, _, stored, _, _, *of_span in summary["streams"]:
            if stored:
                first, from_ms, to_ms = stored[0][0], summary["from_ms"], summary["to_ms"]
                if of_span:  # a stream may have begun long after the span did, or ended before
                    first, from_ms, to_ms, _ = of_span
                timeline.take_sample(stream, from_ms, first)
                timeline.take_sample(stream, to_ms, stored[-1][1])


def _take_times(books: Books, ledger: LedgerContent) -> None:
    """When the retired part of the log began."""
    for entry in ledger.summaries:
        from_ms = entry.summary["from_ms"]
        if from_ms is not None:
            books.from_ms = from_ms if books.from_ms is None else min(books.from_ms, from_ms)


@dataclass(slots=True)
class _Told:
    """What the ledger says of a stream: every number above `through`, how many up to it."""

    numbers: IntervalSet = field(default_factory=IntervalSet)
    through: int = 0
    counted: int = 0

    def take(self, row: list[Any]) -> None:
        _, _, stored_ranges, lost_ranges, _, *of_span = row
        if of_span and of_span[-1] is not None:
            self.through, self.counted, _ = of_span[-1]
        for first, last, *_ in [*stored_ranges, *lost_ranges]:
            # What a span only counts may be given up later: it is in the count already.
            self.numbers.add(max(first, self.through + 1), last)


def _check_against_account(
    books: Books,
    ledger: LedgerContent,
    first_lsn: int,
    account: Account,
    findings: Findings,
) -> None:
    """What the ledger says was stored and lost, against the account before the oldest segment."""
    if books.in_use and ledger.span is not None and ledger.span.last_lsn >= first_lsn:
        return  # compacted while the log was read: the span stands for some of what was read
    told_of: dict[bytes, _Told] = {}
    for entry in ledger.summaries:
        if entry.first_lsn >= first_lsn:
            break  # retired a moment ago: it is still in the log that was read
        for row in entry.summary["streams"]:
            told_of.setdefault(row[0], _Told()).take(row)
    for stream, known in account.streams.items():
        told = told_of.get(stream, _Told())
        counted = known.stored.union(known.lost.keys())
        below = counted.within(0, told.through).count()
        above = counted.within(told.through + 1, SEQ_MAX)
        odd = told.numbers.difference(above).union(above.difference(told.numbers))
        words = []
        if below != told.counted:
            words.append(
                f"{told.counted} of the numbers up to {told.through}, of which the account has "
                f"{below}"
            )
        if odd:
            words.append(ranges(odd.ranges()))
        if words:
            findings.add(
                "ledger",
                (US,),
                f"ledger and account differ about {', and about '.join(words)}",
                device=known.device,
                stream=stream.hex(),
                count=odd.count() + abs(below - told.counted),
            )
