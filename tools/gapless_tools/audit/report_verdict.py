"""The report's head: the verdict, what was asked, what was checked, and what was found wrong."""

from __future__ import annotations

from typing import Any

from gapless_tools.audit.evidence import SCOPE_CAPTURE, Audited
from gapless_tools.audit.findings import CULPRIT_WORDS
from gapless_tools.audit.markup import Markup, element, join, table
from gapless_tools.audit.scales import whole
from gapless_tools.audit.verdict import PASS

REASONS_SHOWN_MAX = 100

_TICK = '<circle cx="24" cy="24" r="21"/><path d="M14 25 l7 7 l14 -15"/>'
_CROSS = '<circle cx="24" cy="24" r="21"/><path d="M16 16 l16 16 M32 16 l-16 16"/>'

_RESULTS = {
    "pass": ("pass", "\N{CHECK MARK} pass"),
    "fail": ("fail", "\N{BALLOT X} FAIL"),
    "not judged": ("open", "\N{EN DASH} not judged"),
}
_MODES = {
    "puback": "Acknowledged by the broker (PUBACK).",
    "receipt": "Acknowledged by the consumer itself, with a receipt.",
    None: "Acknowledged by the broker or by the consumer; the log does not say which.",
}


def verdict_box(evidence: dict[str, Any]) -> Markup:
    """The verdict, in its exact words and in a plain sentence."""
    passed = evidence["verdict"] == PASS
    icon = Markup(
        f'<svg viewBox="0 0 48 48" aria-hidden="true">{_TICK if passed else _CROSS}</svg>'
    )
    return element(
        "div",
        icon,
        element(
            "div",
            element("p", evidence["verdict_words"], cls="word"),
            element("p", _in_plain_words(evidence), cls="plain"),
        ),
        cls="verdict pass" if passed else "verdict fail",
    )


def _in_plain_words(evidence: dict[str, Any]) -> str:
    totals = evidence["totals"]
    produced, devices = totals["produced"], len({one["device"] for one in evidence["streams"]})
    subject = f"{whole(produced)} sequence numbers of {_count(devices, 'device')}"
    if evidence["verdict"] != PASS:
        doubt = any(len(one["culprits"]) > 1 for one in evidence["reasons"])
        who = (" or " if doubt else " and ").join(CULPRIT_WORDS[c] for c in evidence["culprits"])
        return (
            f"Of {subject}, not everything is as it has to be: "
            f"{_count(len(evidence['reasons']), 'finding')}, listed below. "
            f"The evidence points to {who}."
        )
    seen = (
        " The consumer's capture was compared with the log, value for value."
        if evidence["scope"] == SCOPE_CAPTURE
        else " Only the gateway's own log was looked at, no consumer's capture."
    )
    if evidence["complete"]:
        return f"All {subject} are accounted for, and every one of them was delivered.{seen}"
    parts = [f"{whole(totals['delivered'])} were delivered"]
    if totals["lost"] or totals["lost_at_most"]:
        parts.append(
            f"{whole(totals['lost'])} are declared lost, with the reason, and "
            f"{whole(totals['lost_at_most'])} more may never have been used"
        )
    pending = totals["pending_device"] + totals["pending_gateway"]
    if pending:
        parts.append(f"{whole(pending)} are still on their way")
    if totals["quarantined"]:
        parts.append(f"{whole(totals['quarantined'])} are kept aside, refused by the broker")
    return f"All {subject} are accounted for: {'; '.join(parts)}. None is unexplained.{seen}"


def _count(number: int, noun: str) -> str:
    return f"{whole(number)} {noun}" + ("" if number == 1 else "s")


def asked_section(audited: Audited, evidence: dict[str, Any]) -> Markup:
    """The question, the scope, and what was read to answer it."""
    capture = evidence["capture"]
    facts = [
        (
            "Question",
            "Is every sequence number that the gateway has ever heard of accounted for, exactly "
            "once: delivered, pending, quarantined, or declared lost with its reason?",
        ),
        (
            "Scope",
            "The gateway's books, and a consumer's capture compared with them."
            if capture is not None
            else "The gateway's books alone. What a consumer received was not looked at.",
        ),
    ]
    for one in evidence["books"]:
        facts.append(
            (
                "Books",
                f"{one['state_dir']}: gateway {one['gateway']}, log {one['log_id']}, "
                f"{_count(one['entries'], 'entry').replace('entrys', 'entries')} in "
                f"{_count(one['segments'], 'segment')}, "
                f"{_count(one['segments_retired'], 'retired segment')} in the ledger.",
            )
        )
        facts.append(("Delivered means", _MODES[one["delivered_when"]]))
    if capture is not None:
        facts.append(
            (
                "Capture",
                f"{capture['file']}: {_count(capture['messages'], 'message')}, of which "
                f"{whole(capture['redelivered'])} were flagged as repeated by the gateway and "
                f"{whole(capture['broker_duplicates'])} repeated by the broker.",
            )
        )
    if audited.require_complete:
        facts.append(("Demanded", "Complete delivery: anything lost or pending counts as failed."))
    boards = ", ".join(evidence["runtime"]["boards"]) or "not known"
    facts.append(("Runs on", f"Gateway: {evidence['runtime']['gateway']}. Boards: {boards}."))
    return element(
        "dl",
        join(Markup(element("dt", name) + element("dd", words)) for name, words in facts),
        cls="facts",
    )


def wrong_section(_: Audited, evidence: dict[str, Any]) -> Markup:
    """Every finding with its culprit."""
    reasons = evidence["reasons"]
    shown = reasons[:REASONS_SHOWN_MAX]
    more = len(reasons) - len(shown)
    return table(
        "Each finding, and who answers for it"
        + (f" (the first {len(shown)}; {more} more are in evidence.json)" if more else ""),
        ("Where", "What", "How many", "Who"),
        [
            (
                one["device"] or "the gateway",
                one["words"],
                whole(one["count"]),
                " or ".join(CULPRIT_WORDS[culprit] for culprit in one["culprits"]),
            )
            for one in shown
        ],
        numeric=(2,),
    )


def checks_section(_: Audited, evidence: dict[str, Any]) -> Markup:
    """Every check with its result."""
    return table(
        "Each check looks for one way in which the promise can be broken.",
        ("Check", "Result"),
        [(one["title"], _result(one["result"])) for one in evidence["checks"]],
    )


def _result(result: str) -> Markup:
    cls, words = _RESULTS[result]
    return element("span", words, cls=f"result {cls}")
