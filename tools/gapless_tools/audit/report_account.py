"""The report's account: the sum of all streams, each stream, and how far each is known."""

from __future__ import annotations

from typing import Any

from gapless_tools.audit.evidence import Audited
from gapless_tools.audit.markup import Markup, element, join, table
from gapless_tools.audit.scales import whole
from gapless_tools.audit.summary import count_of

STATES = (
    ("delivered", "delivered"),
    ("pending_device", "pending at the device"),
    ("pending_gateway", "pending at the gateway"),
    ("quarantined", "quarantined"),
    ("lost", "declared lost"),
    ("lost_at_most", "lost at most"),
)
UNEXPLAINED = ("unexplained", "unexplained")


def sum_line(totals: dict[str, int]) -> Markup:
    """produced = delivered + pending + quarantined + lost + lost at most, as a line of figures."""
    states = [one for one in STATES if totals[one[0]] or one[0] in {"delivered", "lost"}]
    if totals["unexplained"]:
        states.append(UNEXPLAINED)
    items = [_figure("", "produced", totals["produced"])]
    for position, (key, name) in enumerate(states):
        items.append(_figure("+" if position else "=", name, totals[key]))
    return element("ul", *items, cls="sum", aria_label="The account of all streams")


def _figure(sign: str, name: str, value: int) -> Markup:
    return element(
        "li",
        element("span", sign, cls="sign") if sign else None,
        element(
            "span",
            element("span", name, cls="name"),
            element("span", whole(value), cls="figure"),
        ),
    )


def account_section(_: Audited, evidence: dict[str, Any]) -> Markup:
    """One row a stream, and their sum."""
    streams, totals = evidence["streams"], evidence["totals"]
    columns = [*STATES, UNEXPLAINED]
    accounts = table(
        "Sequence numbers by state. In every row, the number produced is the sum of the columns "
        "after it; each is counted from sets of numbers, never by subtraction.",
        ("Device", "Produced", *(name.capitalize() for _, name in columns)),
        [
            (
                one["device"] or "not known",
                whole(one["produced"]),
                *(whole(_state(one, key)) for key, _ in columns),
            )
            for one in streams
        ],
        numeric=range(1, len(columns) + 2),
        foot=("All", whole(totals["produced"]), *(whole(totals[key]) for key, _ in columns)),
    )
    repeats = table(
        "Repeats. A board repeats what was not acknowledged; the gateway repeats what may have "
        "been lost with a broker, and says so in the message.",
        (
            "Device",
            "Suppressed at the gateway",
            "Too old to compare",
            "Sent again, flagged",
            "Sent again, unflagged",
            "Missing at the consumer",
        ),
        [
            (
                one["device"] or "not known",
                whole(one["duplicates_suppressed"]),
                whole(one["duplicates_unverifiable"]),
                whole(one["redelivered"]),
                _or_not_judged(one["duplicates_unflagged"]),
                _or_not_judged(one["missing_at_consumer"]),
            )
            for one in streams
        ],
        numeric=range(1, 6),
    )
    return join([accounts, repeats])


def _state(stream: dict[str, Any], key: str) -> int:
    if key == "quarantined":
        return count_of(stream["quarantined"])
    if key in {"lost", "lost_at_most"}:
        return count_of([one for one in stream["lost"] if one["at_most"] == (key != "lost")])
    value: int = stream[key]
    return value


def _or_not_judged(value: int | None) -> str:
    return "not judged" if value is None else whole(value)


def knowledge_section(_: Audited, evidence: dict[str, Any]) -> Markup:
    """What these books can know of each stream, and what nobody can."""
    words = element(
        "p",
        "Nobody can account for what nobody heard of. Of each device, everything up to the number "
        "in the second column is accounted for here; what it used after its last contact is not "
        "part of this evidence.",
    )
    streams = table(
        "Streams, and how far they are known",
        ("Device", "Known through", "Starts after", "Last heard (UTC)", "Stream", "Board's own id"),
        [
            (
                one["device"] or "not known",
                whole(one["known_through"]),
                whole(one["base"]),
                _moment(one["last_heard"]),
                Markup(element("code", one["stream"]) + (" (closed)" if one["closed"] else "")),
                element("code", one["uid"]),
            )
            for one in evidence["streams"]
        ],
        numeric=(1, 2),
    )
    notes = []
    for one in evidence["books"]:
        if not one["ends_cleanly"]:
            notes.append(
                f"The log of {one['gateway']} does not end with a clean stop: the gateway was "
                "still running when it was read, or had been killed."
            )
        if one["torn_tail_bytes"]:
            notes.append(
                f"The last {whole(one['torn_tail_bytes'])} bytes of the log of {one['gateway']} "
                "are a batch that was never finished and never acknowledged to a board."
            )
        if one["contents_comparable_from_lsn"] > 1:
            notes.append(
                f"Older segments of the log of {one['gateway']} were retired after delivery. Their "
                "numbers are accounted for by the ledger; their contents can be compared no more."
            )
    if evidence["capture"] is not None and evidence["capture"]["after_the_books_end"]:
        notes.append(
            f"{whole(evidence['capture']['after_the_books_end'])} numbers in the capture came in "
            "after the books were read, and were not judged."
        )
    return join([words, streams, *(element("p", note) for note in notes)])


def _moment(moment: str | None) -> str:
    return "never" if moment is None else moment[:19].replace("T", " ")
