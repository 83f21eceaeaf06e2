"""The report's events: outages, losses, conflicts, runs of the gateway, latencies, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gapless_tools.audit.evidence import Audited
from gapless_tools.audit.markup import Markup, element, join, table
from gapless_tools.audit.reasons import REASON_SENTENCES
from gapless_tools.audit.scales import duration, moment, ranges, whole

ROWS_SHOWN_MAX = 200


def outages_section(audited: Audited, _: dict[str, Any]) -> Markup:
    """Every outage that the books still hold one by one."""
    rows = []
    for books in audited.books:
        for one in books.account.outages:
            drained_in_s = books.drained_in_s(one)
            lasted_ms = None if one.ended_ms is None else one.ended_ms - one.began_ms
            rows.append(
                (
                    str(one.id),
                    one.cause or "not known",
                    moment(one.began_ms).removesuffix(" UTC"),
                    "still lasting" if lasted_ms is None else duration(lasted_ms),
                    whole(one.peak_pending),
                    "not known" if drained_in_s is None else duration(drained_in_s * 1000),
                )
            )
    if not rows:
        return element("p", "The broker was never away.")
    return _cut_table(
        "From the loss of the broker until the last record of the backlog was delivered. "
        "Meanwhile records were kept on the gateway's disk.",
        (
            "Outage",
            "Cause",
            "Began (UTC)",
            "Lasted, with its drain",
            "Peak of the backlog, records",
            "Drained in",
        ),
        rows,
        numeric=(3, 4, 5),
    )


def losses_section(_: Audited, evidence: dict[str, Any]) -> Markup:
    """Every LOST range with its reason, and what was quarantined."""
    lost = [
        (
            stream["device"],
            ranges([(one["first"], one["last"])]),
            ("at most " if one["at_most"] else "") + whole(one["last"] - one["first"] + 1),
            one["reason"],
            REASON_SENTENCES.get(one["reason"], "")
            + (" Some of these numbers may never have been used." if one["at_most"] else ""),
        )
        for stream in evidence["streams"]
        for one in stream["lost"]
    ]
    parts: list[Markup] = []
    if lost:
        parts.append(
            _cut_table(
                "Declared, numbered, delivered to the consumer as such",
                ("Device", "Numbers", "How many", "Reason", "What that means"),
                lost,
                numeric=(2,),
            )
        )
    else:
        parts.append(element("p", "Nothing was lost."))
    quarantined = [
        (stream["device"], ranges([(one["first"], one["last"]) for one in stream["quarantined"]]))
        for stream in evidence["streams"]
        if stream["quarantined"]
    ]
    if quarantined:
        parts.append(
            _cut_table(
                "Quarantined: the broker refuses them for good; they are kept at the gateway",
                ("Device", "Numbers"),
                quarantined,
            )
        )
    return join(parts)


def conflicts_section(audited: Audited, _: dict[str, Any]) -> Markup:
    """Numbers with two stories, and boards that are not who they say."""
    conflicts, faults = [], []
    for books in audited.books:
        for one in books.conflicts:
            stream = books.account.streams.get(one.stream)
            device = stream.device if stream is not None else one.stream.hex()
            conflicts.append((device, whole(one.seq), moment(one.at_ms), one.what))
        faults += [
            (one.device or "not known", moment(one.at_ms), one.port, one.what, one.words)
            for one in books.faults
        ]
    if not conflicts and not faults:
        return element("p", "None was seen.")
    parts: list[Markup] = []
    if conflicts:
        parts.append(
            _cut_table(
                "The same number with another content; the first bytes stand",
                ("Device", "Number", "Seen", "What"),
                conflicts,
                numeric=(1,),
            )
        )
    if faults:
        parts.append(
            _cut_table(
                "Refused at the port; not part of the account",
                ("Device", "Seen", "Port", "What", "In words"),
                faults,
            )
        )
    return join(parts)


def runs_section(audited: Audited, _: dict[str, Any]) -> Markup:
    """Every start of the gateway that is still in the log."""
    rows = [
        (
            str(run.run),
            moment(run.at_ms).removesuffix(" UTC"),
            _how(run.run, run.previous_clean),
            whole(run.torn_bytes),
            f"{run.version} on {run.runtime}",
        )
        for books in audited.books
        for run in books.runs
    ]
    retired = [
        (
            str(one.run),
            moment(one.at_ms).removesuffix(" UTC"),
            "recovery",
            whole(one.torn_bytes),
            "",
        )
        for books in audited.books
        for one in books.account.recoveries
        if one.run not in {run.run for run in books.runs}
    ]
    if not rows and not retired:
        return element("p", "The log that is left begins after the last start of the gateway.")
    return _cut_table(
        "A recovery is a start after a run that did not end cleanly. What is cut from the end of "
        "the log then was never acknowledged to any board.",
        ("Run", "Began (UTC)", "How", "Bytes cut", "Gateway"),
        retired + rows,
        numeric=(3,),
    )


def _how(run: int, previous_clean: bool) -> str:
    if run == 1:
        return "first start"
    return "after a clean stop" if previous_clean else "recovery"


def latency_section(_: Audited, evidence: dict[str, Any]) -> Markup:
    """Median and 99th percentile over everything."""
    latencies = evidence["latency_ms"]
    if latencies["durable"]["p50"] is None and latencies["delivered"]["p50"] is None:
        return element("p", "The log holds no measured latencies.")
    names = (
        ("durable", "Sample to the gateway's disk"),
        ("delivered", "Sample to delivery, outages included"),
    )
    return table(
        "Measured for every dated record; upper bounds, too large by less than a quarter",
        ("From and to", "Half of all within", "99 % within"),
        [
            (words, duration(latencies[name]["p50"]), duration(latencies[name]["p99"]))
            for name, words in names
        ],
        numeric=(1, 2),
    )


def _cut_table(
    caption: str,
    headings: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    *,
    numeric: tuple[int, ...] = (),
) -> Markup:
    """A table that stays readable: the first rows, and a line that says how many there are."""
    whole_table = table(caption, headings, rows[:ROWS_SHOWN_MAX], numeric=numeric)
    more = len(rows) - ROWS_SHOWN_MAX
    if more <= 0:
        return whole_table
    return join([whole_table, element("p", f"{whole(more)} more are in evidence.json.")])
