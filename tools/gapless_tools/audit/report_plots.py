"""The report's pictures, each with its heading and the meaning of its lines."""

from __future__ import annotations

from typing import Any

from gapless_gateway.account.stream_account import StreamAccount
from gapless_tools.audit.books import Books
from gapless_tools.audit.evidence import Audited
from gapless_tools.audit.markup import Markup, element, join
from gapless_tools.audit.plots import backlog_plot, device_plot, latency_plot, legend

DEVICES_DRAWN_MAX = 24

BACKLOG_LEGEND = (
    ("waiting", "records stored and not yet delivered"),
    ("outage", "outage: the broker was away, or its backlog was draining"),
    ("moment", "the gateway was started again"),
)
DEVICE_LEGEND = (
    ("sampled", "sampled"),
    ("delivered", "delivered"),
    ("lost", "declared lost"),
    ("lost at-most", "lost at most: some of these may never have been used"),
    ("outage", "outage"),
)
LATENCY_LEGEND = (
    ("p50", "median"),
    ("p99", "99th percentile"),
    ("outage", "outage"),
)


def plots_section(audited: Audited, _: dict[str, Any]) -> Markup:
    """All pictures of all books."""
    return join(part for books in audited.books for part in _pictures(books))


def _pictures(books: Books) -> list[Markup]:
    parts = [
        _figure(
            "Backlog",
            "Records that wait at the gateway. They pile up while the broker is away, and drain "
            "when it is back.",
            backlog_plot(books),
            BACKLOG_LEGEND,
        )
    ]
    # What lost something comes first, so that it is drawn however many devices there are.
    streams = sorted(
        books.account.streams.values(), key=lambda one: (not one.lost, one.device, one.stream)
    )
    for position, stream in enumerate(streams[:DEVICES_DRAWN_MAX]):
        words = (
            "Each number at the moment of its sample, and at the moment when it was delivered. "
            "The line breaks where numbers are lost."
            if position == 0
            else ""
        )
        shown = tuple(one for one in DEVICE_LEGEND if one[0] not in _absent(books, stream))
        parts.append(_figure(stream.device, words, device_plot(books, stream), shown))
    if len(streams) > DEVICES_DRAWN_MAX:
        parts.append(
            element("p", f"{len(streams) - DEVICES_DRAWN_MAX} more devices are not drawn.")
        )
    bins = books.timeline.latencies
    for name, title in (("durable", "Sample to disk"), ("delivered", "Sample to delivery")):
        parts.append(
            _figure(
                title,
                "Time from the sample until the gateway had it on its disk."
                if name == "durable"
                else "Time from the sample until it was delivered.",
                latency_plot(books, name, bins),
                LATENCY_LEGEND,
            )
        )
    return parts


def _absent(books: Books, stream: StreamAccount) -> set[str]:
    """What a device's picture does not show and its legend need not explain."""
    drawn = {"lost at-most" if at_most else "lost" for _, _, (_, at_most) in stream.lost}
    if books.account.outages:
        drawn.add("outage")
    return {"lost", "lost at-most", "outage"} - drawn


def _figure(
    title: str, words: str, picture: Markup | None, lines: tuple[tuple[str, str], ...]
) -> Markup:
    caption = element(
        "figcaption", title, element("span", f" {words}", cls="soft") if words else None
    )
    if picture is None:
        return element("figure", caption, element("p", "The log holds no data for this picture."))
    return element("figure", caption, picture, legend(lines))
