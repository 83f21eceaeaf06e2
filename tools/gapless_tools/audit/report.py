"""evidence.html: one file that can be read, printed and handed on; no script, no request.

It shows what evidence.json says, and the curves that are too long for that. Each section is a
function of the evidence; the order of the document stands in `report_html`.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files
from typing import Any

from gapless_tools.audit.evidence import Audited
from gapless_tools.audit.markup import Markup, element, join
from gapless_tools.audit.report_account import account_section, knowledge_section, sum_line
from gapless_tools.audit.report_events import (
    conflicts_section,
    latency_section,
    losses_section,
    outages_section,
    runs_section,
)
from gapless_tools.audit.report_plots import plots_section
from gapless_tools.audit.report_verdict import (
    asked_section,
    checks_section,
    verdict_box,
    wrong_section,
)

Section = tuple[str, Callable[[Audited, dict[str, Any]], Markup]]

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

WHAT_IS_WRONG: Section = ("What is wrong", wrong_section)
SECTIONS: tuple[Section, ...] = (
    ("What was asked", asked_section),
    ("What was checked", checks_section),
    ("The account", account_section),
    ("How far it can be known", knowledge_section),
    ("The course of events", plots_section),
    ("Outages of the broker", outages_section),
    ("What was lost, and why", losses_section),
    ("Conflicts and faults", conflicts_section),
    ("Runs of the gateway", runs_section),
    ("Latencies", latency_section),
)


def report_html(audited: Audited, evidence: dict[str, Any], evidence_text: str) -> str:
    """The whole document. `evidence_text` is evidence.json as written: its digest is printed."""
    css = files("gapless_tools.audit").joinpath("report.css").read_text("utf-8")
    title = f"Evidence of delivery: {evidence['gateway']}, {evidence['verdict_words']}"
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        # Not even a device with a hostile name could make this page run or fetch something.
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">'),
        # The empty icon keeps a browser from asking a server for one.
        Markup('<link rel="icon" href="data:,">'),
        element("title", title),
        element("style", Markup(css)),
    )
    sections = SECTIONS if not evidence["reasons"] else (WHAT_IS_WRONG, *SECTIONS)
    numbered = [
        element(
            "section",
            element("h2", element("span", str(number), cls="no"), name),
            section(audited, evidence),
        )
        for number, (name, section) in enumerate(sections, 1)
    ]
    body = element(
        "body",
        element(
            "div",
            _header(evidence),
            element("main", verdict_box(evidence), sum_line(evidence["totals"]), join(numbered)),
            _footer(evidence, evidence_text),
            cls="sheet",
        ),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _header(evidence: dict[str, Any]) -> Markup:
    period = f"{_short(evidence['from'])} to {_short(evidence['to'])} (UTC)"
    return element(
        "header",
        element(
            "div",
            element("p", "Gapless", cls="brand"),
            element("h1", "Evidence of delivery"),
        ),
        element(
            "p",
            "Gateway ",
            element("b", evidence["gateway"]),
            ", log ",
            element("code", evidence["log_id"]),
            Markup("<br>"),
            period,
            cls="subject",
        ),
        cls="top",
    )


def _short(moment: str | None) -> str:
    return "not known" if moment is None else moment[:19].replace("T", " ")


def _footer(evidence: dict[str, Any], evidence_text: str) -> Markup:
    return element(
        "footer",
        element(
            "p",
            f"Judged by {evidence['tool']} at {_short(evidence['generated'])} UTC. "
            "The same facts for machines are in evidence.json, SHA-256 ",
            element("code", sha256(evidence_text.encode()).hexdigest()),
            ".",
        ),
        element(
            "p",
            "Anyone who holds the state directory and the capture can repeat this: ",
            element("code", _command(evidence)),
        ),
    )


def _command(evidence: dict[str, Any]) -> str:
    words = ["gapless audit", *(one["state_dir"] for one in evidence["books"])]
    if evidence["capture"] is not None:
        words += ["--capture", evidence["capture"]["file"]]
    return " ".join(words)
