"""The ledger: whether its chain is whole, anchored in the log, and agrees with the account."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gapless_gateway.account.account import Account
from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.wal.format import SegmentHeader
from gapless_gateway.wal.ledger import NO_HASH, LedgerContent
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
    books.ledger_entries = len(ledger.entries)
    books.ledger_head = ledger.hashes[-1] if ledger.hashes else NO_HASH
    if ledger.log_id != books.account.log_id:
        findings.add("ledger", (US,), "the ledger belongs to another log, or its head is damaged")
        return
    anchored = _check_anchors(ledger, headers, findings)
    _check_continuity(ledger, headers, anchored, findings)
    _take_times(books, ledger)
    if first_account is not None:
        _check_against_account(ledger, headers[0].first_lsn, first_account, findings)


def _check_anchors(
    ledger: LedgerContent, headers: Sequence[SegmentHeader], findings: Findings
) -> bool:
    """Every segment names the ledger's head at the time when it was begun."""
    for header in headers:
        count = header.ledger_count
        head = NO_HASH if count == 0 else None
        if 0 < count <= len(ledger.hashes):
            head = ledger.hashes[count - 1]
        if head != header.ledger_hash:
            findings.add(
                "ledger",
                (US,),
                f"entry {count} of the ledger is anchored in the segment of LSN "
                f"{header.first_lsn}, and the ledger "
                + (
                    f"can be read up to entry {len(ledger.hashes)} only: it was cut or changed"
                    if count > len(ledger.hashes)
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
    for entry in ledger.entries:
        if entry.first_lsn != due:
            words = f"entry {entry.index} begins with LSN {entry.first_lsn}, {due} was due"
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
    for entry in ledger.entries:
        summary = entry.summary
        if entry.first_lsn >= first_lsn or summary["from_ms"] is None:
            continue
        for at_ms, pending, through in summary["progress"]:
            timeline.take_point(at_ms, pending, [(stream, seq) for stream, seq in through])
        for stream, _, stored, _, _ in summary["streams"]:
            if stored:
                timeline.take_sample(stream, summary["from_ms"], stored[0][0])
                timeline.take_sample(stream, summary["to_ms"], stored[-1][1])


def _take_times(books: Books, ledger: LedgerContent) -> None:
    """When the retired part of the log began."""
    for entry in ledger.entries:
        from_ms = entry.summary["from_ms"]
        if from_ms is not None:
            books.from_ms = from_ms if books.from_ms is None else min(books.from_ms, from_ms)


def _check_against_account(
    ledger: LedgerContent, first_lsn: int, account: Account, findings: Findings
) -> None:
    """What the ledger says was stored and lost, against the account before the oldest segment."""
    stored: dict[bytes, IntervalSet] = {}
    lost: dict[bytes, IntervalSet] = {}
    for entry in ledger.entries:
        if entry.first_lsn >= first_lsn:
            break  # retired a moment ago: it is still in the log that was read
        for stream, _, stored_ranges, lost_ranges, _ in entry.summary["streams"]:
            for first, last in stored_ranges:
                stored.setdefault(stream, IntervalSet()).add(first, last)
            for first, last, *_ in lost_ranges:
                lost.setdefault(stream, IntervalSet()).add(first, last)
    for stream, known in account.streams.items():
        told = stored.get(stream, IntervalSet()).union(lost.get(stream, IntervalSet()))
        counted = known.stored.union(known.lost.keys())
        odd = told.difference(counted).union(counted.difference(told))
        if odd:
            findings.add(
                "ledger",
                (US,),
                f"ledger and account differ about {ranges(odd.ranges())}",
                device=known.device,
                stream=stream.hex(),
                count=odd.count(),
            )
