"""The evidence in a few lines of plain text, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

HEADINGS = ("device", "produced", "delivered", "pending", "quarant.", "lost", "at most", "unexpl.")
REASONS_SHOWN_MAX = 20


def summary_lines(evidence: dict[str, Any]) -> Iterator[str]:
    """The verdict, why, and the account as a table that adds up."""
    yield f"{evidence['verdict_words']}   (scope: {evidence['scope']})"
    for reason in evidence["reasons"][:REASONS_SHOWN_MAX]:
        who = " or ".join(reason["culprits"])
        where = f"{reason['device']}: " if reason["device"] else ""
        yield f"  {who}: {where}{reason['words']}"
    if len(evidence["reasons"]) > REASONS_SHOWN_MAX:
        yield f"  and {len(evidence['reasons']) - REASONS_SHOWN_MAX} more reasons (evidence.json)"
    rows = [HEADINGS, *(tuple(map(str, account_row(one))) for one in evidence["streams"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    yield ""
    for name, *numbers in rows:
        cells = [n.rjust(width) for n, width in zip(numbers, widths[1:], strict=True)]
        yield "  ".join([name.ljust(widths[0]), *cells]).rstrip()
    yield ""


def account_row(stream: dict[str, Any]) -> tuple[Any, ...]:
    """The account of a stream in the order of HEADINGS: produced is the sum of what follows it."""
    lost = count_of([one for one in stream["lost"] if not one["at_most"]])
    at_most = count_of([one for one in stream["lost"] if one["at_most"]])
    return (
        stream["device"],
        stream["produced"],
        stream["delivered"],
        stream["pending_device"] + stream["pending_gateway"],
        count_of(stream["quarantined"]),
        lost,
        at_most,
        stream["unexplained"],
    )


def count_of(ranges: list[dict[str, Any]]) -> int:
    """How many numbers are in these ranges."""
    return sum(one["last"] - one["first"] + 1 for one in ranges)
