"""evidence.json: what an audit found, for machines, in the form of evidence.schema.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from gapless_gateway.account.histogram import Histogram
from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.account.stream_account import StreamAccount
from gapless_gateway.wal.entries import reason_word
from gapless_tools.audit.books import Books
from gapless_tools.audit.capture_check import (
    CaptureReading,
    delivered_but_missing,
    sent_out_of_order,
)
from gapless_tools.audit.findings import CHECKS, Check, Findings
from gapless_tools.audit.scales import rfc3339
from gapless_tools.audit.verdict import Verdict

EVIDENCE_FORMAT = 1
SCOPE_BOOKS = "books"
SCOPE_CAPTURE = "books and capture"


@dataclass(frozen=True, slots=True)
class Audited:
    """All that an audit read and judged; evidence and report are written from it."""

    books: Sequence[Books]
    capture: CaptureReading | None
    findings: Findings
    verdict: Verdict
    generated_ms: int
    require_complete: bool = False


@cache
def evidence_schema() -> dict[str, Any]:
    """The published JSON schema of evidence.json."""
    text = files("gapless_tools.audit").joinpath("evidence.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def evidence_of(audited: Audited) -> dict[str, Any]:
    """The evidence as an object for JSON. Of several books the last named speaks at the top."""
    books, verdict = audited.books, audited.verdict
    last = books[-1]
    return {
        "evidence": EVIDENCE_FORMAT,
        "verdict": verdict.word,
        "complete": verdict.complete,
        "verdict_words": verdict.words,
        "culprits": list(verdict.culprits),
        "reasons": [
            {
                "check": finding.check,
                "culprits": list(finding.culprits),
                "device": finding.device,
                "stream": finding.stream,
                "count": finding.count,
                "words": finding.words,
            }
            for finding in audited.findings.items
        ],
        "scope": SCOPE_BOOKS if audited.capture is None else SCOPE_CAPTURE,
        "generated": rfc3339(audited.generated_ms),
        "tool": f"gapless {version('gapless')}",
        "runtime": {
            "gateway": last.runtime,
            "boards": sorted({one for book in books for one in book.board_runtimes.values()}),
        },
        "gateway": last.gateway,
        "log_id": last.account.log_id.hex(),
        "from": _moment(min((b.from_ms for b in books if b.from_ms is not None), default=None)),
        "to": _moment(max((b.to_ms for b in books if b.to_ms is not None), default=None)),
        "checks": [_check(check, audited) for check in CHECKS],
        "books": [_books(one, audited.capture) for one in books],
        "capture": None if audited.capture is None else _capture(audited.capture),
        "totals": _totals(books),
        "streams": [
            _stream(one, stream, audited.capture)
            for one in books
            for stream in one.account.streams.values()
        ],
        "outages": [outage for one in books for outage in _outages(one)],
        "recoveries": [recovery for one in books for recovery in _recoveries(one)],
        "latency_ms": _latencies(books),
    }


def _check(check: Check, audited: Audited) -> dict[str, Any]:
    found = audited.findings.of(check.name)
    judged = audited.capture is not None or not check.needs_capture
    result = "fail" if found else "pass" if judged else "not judged"
    return {"name": check.name, "title": check.title, "result": result, "findings": len(found)}


def _books(books: Books, reading: CaptureReading | None) -> dict[str, Any]:
    # The log does not say what counts as delivered; the retained status in the capture does.
    mode = None if reading is None else reading.delivered_when.get(books.gateway)
    return {
        "state_dir": str(books.state_dir),
        "gateway": books.gateway,
        "log_id": books.account.log_id.hex(),
        "from": _moment(books.from_ms),
        "to": _moment(books.to_ms),
        "runs": books.account.run,
        "ends_cleanly": books.ends_cleanly,
        "delivered_when": mode,
        "segments": books.segments,
        "entries": books.entries,
        "gone_entries": books.gone_entries,
        "torn_tail_bytes": books.torn_tail_bytes,
        "ledger_entries": books.ledger_entries,
        "ledger_head": books.ledger_head.hex(),
        "segments_retired": books.segments_retired,
        "contents_comparable_from_lsn": books.first_lsn,
    }


def _capture(reading: CaptureReading) -> dict[str, Any]:
    streams = reading.streams.values()
    both = [part for one in streams for part in (one.of_records, one.of_ranges)]
    return {
        "file": str(reading.path),
        "messages": reading.messages,
        "from": _moment(reading.from_ms),
        "to": _moment(reading.to_ms),
        "redelivered": sum(part.redelivered for part in both),
        "broker_duplicates": sum(part.broker_duplicates for part in both),
        "after_the_books_end": sum(one.beyond.count() for one in streams),
        "unreadable_lines": reading.bad_lines,
    }


def _totals(books: Sequence[Books]) -> dict[str, int]:
    balances = [one.account.balance() for one in books]
    names = (
        "produced",
        "delivered",
        "pending_device",
        "pending_gateway",
        "quarantined",
        "lost",
        "lost_at_most",
        "unexplained",
    )
    return {name: sum(getattr(balance, name) for balance in balances) for name in names}


def _stream(books: Books, stream: StreamAccount, reading: CaptureReading | None) -> dict[str, Any]:
    balance = stream.balance()
    row: dict[str, Any] = {
        "device": stream.device,
        "uid": stream.uid.hex(),
        "stream": stream.stream.hex(),
        "gateway": books.gateway,
        "log_id": books.account.log_id.hex(),
        "base": stream.base,
        "known_through": stream.known_through,
        "last_heard": _moment(stream.last_heard_ms or None),
        "closed": stream.closed,
        "produced": balance.produced,
        "delivered": balance.delivered,
        "delivered_through": stream.delivered_through,
        "pending_device": balance.pending_device,
        "pending_gateway": balance.pending_gateway,
        "quarantined": _ranges(stream.quarantined),
        "lost": [
            {"first": first, "last": last, "reason": reason_word(reason), "at_most": at_most}
            for first, last, (reason, at_most) in stream.lost
        ],
        "elsewhere": [
            {"first": first, "last": last, "log_id": log_id.hex()}
            for first, last, log_id in stream.elsewhere
        ],
        "unexplained": balance.unexplained,
        "duplicates_suppressed": stream.suppressed,
        "redelivered": stream.redelivered,
        "duplicates_unverifiable": stream.unverifiable,
        "duplicates_unflagged": None,
        "order_violations": stream.order_violations,
        "conflicts": stream.conflicts,
        "missing_at_consumer": None,
    }
    if reading is not None:
        captured = reading.of(books, stream)
        both = (captured.of_records, captured.of_ranges)
        row["duplicates_unflagged"] = sum(
            len(part.unflagged_duplicates) + len(part.unflagged_after_flagged()) for part in both
        )
        row["order_violations"] += len(sent_out_of_order(captured))
        row["order_violations"] += len(captured.arrived_out_of_order)
        row["missing_at_consumer"] = delivered_but_missing(stream, captured).count()
    return row


def _outages(books: Books) -> list[dict[str, Any]]:
    return [
        {
            "id": one.id,
            "gateway": books.gateway,
            "began": _moment(one.began_ms),
            "ended": _moment(one.ended_ms),
            "cause": one.cause,
            "peak_pending": one.peak_pending,
            "drained_in_s": books.drained_in_s(one),
        }
        for one in books.account.outages
    ]


def _recoveries(books: Books) -> list[dict[str, Any]]:
    return [
        {
            "run": one.run,
            "gateway": books.gateway,
            "at": _moment(one.at_ms),
            "torn_bytes": one.torn_bytes,
            "note": one.note,
        }
        for one in books.account.recoveries
    ]


def _latencies(books: Sequence[Books]) -> dict[str, dict[str, int | None]]:
    durable, delivered = Histogram(), Histogram()
    for one in books:
        durable.merge(one.account.durable_latency.items())
        delivered.merge(one.account.delivered_latency.items())
    return {
        name: {"p50": histogram.quantile(0.5), "p99": histogram.quantile(0.99)}
        for name, histogram in (("durable", durable), ("delivered", delivered))
    }


def _ranges(numbers: IntervalSet) -> list[dict[str, int]]:
    return [{"first": first, "last": last} for first, last in numbers]


def _moment(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)


def evidence_text(evidence: dict[str, Any]) -> str:
    """The bytes of evidence.json, as text."""
    return json.dumps(evidence, indent=2, ensure_ascii=False) + "\n"


def write_whole(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it: there never is half of it."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
