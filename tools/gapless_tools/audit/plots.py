"""The plots of a report: backlog, numbers of each device, latencies; each over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gapless_gateway.account.account import OutageAccount
from gapless_gateway.account.histogram import Histogram
from gapless_gateway.account.stream_account import StreamAccount
from gapless_gateway.wal.entries import reason_word
from gapless_tools.audit.books import Books
from gapless_tools.audit.markup import Markup, element
from gapless_tools.audit.scales import (
    count_axis,
    duration,
    duration_axis,
    moment,
    time_axis,
    whole,
)
from gapless_tools.audit.svg import Plot, Point, Size, page_size, phone_size
from gapless_tools.audit.timeline import PROGRESS_INTERVAL_MAX_MS, LatencyBin

LATENCY_BINS_SHOWN_MAX = 60
POINTS_SHOWN_MAX = 800
LOSSES_DRAWN_MAX = 200
LOSSES_NAMED_MAX = 6  # in one picture; more are drawn without their names

Latency = tuple[float, float, float]  # moment, median, 99th percentile, all in ms


def backlog_plot(books: Books) -> Markup | None:
    """Records that wait at the gateway, with the outages shaded; None without data."""
    points = _thinned(books.timeline.backlog.all())
    if not points:
        return None
    peak = max(points, key=lambda point: point[1])
    times = _span_of(books)

    def draw(size: Size) -> Markup:
        x = time_axis(*times, size.time_ticks_max)
        plot = Plot(size, x, count_axis(peak[1], 4), "records waiting at the gateway")
        _draw_outages(plot, books)
        plot.area(points, "waiting")
        plot.line(points, "waiting")
        _draw_runs(plot, books, named=True)
        if peak[1]:
            plot.mark(peak, f"peak {whole(peak[1])}")
        return plot.svg(
            "Backlog over time",
            f"Records waiting at the gateway from {moment(times[0])} to {moment(times[1])}. "
            f"The peak is {whole(peak[1])} at {moment(int(peak[0]))}. {_outages_in_words(books)}",
        )

    return _both(draw, 220)


def device_plot(books: Books, stream: StreamAccount) -> Markup | None:
    """The numbers of one device: when each was sampled and when it was delivered, gaps drawn."""
    sampled = _thinned(books.timeline.sampled[stream.stream].all()) if _has(books, stream) else []
    curve = books.timeline.delivered.get(stream.stream)
    delivered = held(_thinned(curve.all())) if curve is not None else []
    if not sampled:
        return None
    times = _span_of(books)
    losses = stream.lost.items()[:LOSSES_DRAWN_MAX]

    def draw(size: Size) -> Markup:
        x = time_axis(*times, size.time_ticks_max)
        plot = Plot(size, x, count_axis(stream.claimed, 4, low=stream.base), "sequence number")
        _draw_outages(plot, books)
        _draw_runs(plot, books, named=False)
        _draw_sampled(plot, sampled, [(first, last) for first, last, _ in losses])
        plot.line(delivered, "delivered")
        for index, (first, last, (reason, at_most)) in enumerate(losses):
            low, high = _around(sampled, first, last, times)
            name = f"lost: {reason_word(reason)}" + (" (at most)" if at_most else "")
            named = name if index < LOSSES_NAMED_MAX else ""
            plot.box((low, first), (high, last), named, "lost at-most" if at_most else "lost")
        return plot.svg(f"Numbers of {stream.device} over time", _device_words(stream))

    return _both(draw, 200)


def latency_plot(books: Books, name: str, bins: Sequence[LatencyBin]) -> Markup | None:
    """Median and 99th percentile over time, of `durable` or `delivered`; None without data."""
    pieces = _quantiles(bins, name)
    if not pieces:
        return None
    medians = [value for piece in pieces for _, value, _ in piece]
    highs = [value for piece in pieces for _, _, value in piece]
    y = duration_axis(min(medians), max(highs))
    times = _span_of(books)

    def draw(size: Size) -> Markup:
        x = time_axis(*times, size.time_ticks_max)
        plot = Plot(size, x, y, "latency, logarithmic")
        _draw_outages(plot, books)
        for piece in pieces:
            _draw_latency(plot, piece)
        return plot.svg(
            f"Latency from sample to {name}, over time",
            f"The median lies between {duration(min(medians))} and {duration(max(medians))}; "
            f"the 99th percentile reaches {duration(max(highs))}.",
        )

    return _both(draw, 200)


def _both(draw: Callable[[Size], Markup], height: float) -> Markup:
    return Markup(draw(page_size(height)) + draw(phone_size(height)))


def _has(books: Books, stream: StreamAccount) -> bool:
    return stream.stream in books.timeline.sampled


def _span_of(books: Books) -> tuple[int, int]:
    from_ms = books.from_ms or 0
    return from_ms, max(books.to_ms or 0, from_ms + 1000)


def _thinned(points: Sequence[tuple[int, int]]) -> list[Point]:
    """At most about POINTS_SHOWN_MAX points: of each group the lowest and the highest."""
    every = -(-len(points) * 2 // POINTS_SHOWN_MAX)
    if every <= 2:
        return [(float(at_ms), float(value)) for at_ms, value in points]
    shown: list[Point] = []
    for start in range(0, len(points), every):
        group = points[start : start + every]
        ends = {min(group, key=lambda p: p[1]), max(group, key=lambda p: p[1])}
        shown += [(float(at_ms), float(value)) for at_ms, value in sorted(ends)]
    return shown


def held(points: Sequence[Point]) -> list[Point]:
    """Keep a curve level over a pause, up to the interval in which its next point was witnessed.

    A straight line across an outage would show deliveries that there were not.
    """
    level: list[Point] = []
    for at_ms, value in points:
        if level and at_ms - level[-1][0] > PROGRESS_INTERVAL_MAX_MS:
            level.append((at_ms - PROGRESS_INTERVAL_MAX_MS / 2, level[-1][1]))
        level.append((at_ms, value))
    return level


def _draw_outages(plot: Plot, books: Books) -> None:
    for outage in books.account.outages:
        began, ended = _outage_span(outage, books)
        plot.span(began, ended, f"outage {outage.id}")


def _outage_span(outage: OutageAccount, books: Books) -> tuple[int, int]:
    return outage.began_ms, outage.ended_ms or _span_of(books)[1]


def _outages_in_words(books: Books) -> str:
    words = [
        f"Outage {one.id} from {moment(one.began_ms)} to {moment(one.ended_ms)}."
        for one in books.account.outages
    ]
    return " ".join(words) or "There was no outage."


def _draw_runs(plot: Plot, books: Books, *, named: bool) -> None:
    for run in books.runs:
        if run.run > 1:
            plot.moment(run.at_ms, f"gateway run {run.run}" if named else "")


def _draw_sampled(plot: Plot, sampled: Sequence[Point], losses: list[tuple[int, int]]) -> None:
    """The line breaks where numbers are lost: nothing is drawn that is not there."""
    start = 0
    for first, last in losses:
        before = next((i for i, (_, seq) in enumerate(sampled) if seq >= first), len(sampled))
        plot.line(sampled[start:before], "sampled")
        start = next((i for i, (_, seq) in enumerate(sampled) if seq > last), len(sampled))
    plot.line(sampled[start:], "sampled")


def _around(
    sampled: Sequence[Point], first: int, last: int, times: tuple[int, int]
) -> tuple[float, float]:
    """The moments of the samples before and after a range that is lost."""
    before = [at_ms for at_ms, seq in sampled if seq < first]
    after = [at_ms for at_ms, seq in sampled if seq > last]
    low = before[-1] if before else float(times[0])
    return low, max(after[0] if after else low, low)


def _device_words(stream: StreamAccount) -> str:
    balance = stream.balance()
    losses = "; ".join(
        f"{whole(first)} to {whole(last)} lost, {reason_word(reason)}"
        + (", at most" if at_most else "")
        for first, last, (reason, at_most) in stream.lost.items()[:LOSSES_NAMED_MAX]
    )
    return (
        f"Numbers {whole(stream.base + 1)} to {whole(stream.claimed)} of {stream.device}; "
        f"{whole(balance.delivered)} delivered. {losses or 'None is lost'}."
    )


def _draw_latency(plot: Plot, piece: Sequence[Latency]) -> None:
    medians = [(at_ms, median) for at_ms, median, _ in piece]
    highs = [(at_ms, high) for at_ms, _, high in piece]
    if len(piece) == 1:
        plot.dot(medians[0])
        plot.dot(highs[0])
    plot.band(medians, highs, "latency")
    plot.line(highs, "p99")
    plot.line(medians, "p50")


def _quantiles(bins: Sequence[LatencyBin], name: str) -> list[list[Latency]]:
    """Median and 99th percentile of groups of bins; a new piece wherever nothing was measured."""
    every = -(-len(bins) // LATENCY_BINS_SHOWN_MAX) or 1
    pieces: list[list[Latency]] = []
    ended_ms = 0
    for start in range(0, len(bins), every):
        group = bins[start : start + every]
        merged = Histogram()
        for one in group:
            merged.merge(getattr(one, name).items())
        median, high = merged.quantile(0.5), merged.quantile(0.99)
        if median is None or high is None:
            continue
        if not pieces or group[0].from_ms > ended_ms:
            pieces.append([])
        ended_ms = group[-1].to_ms
        middle_ms = (group[0].from_ms + ended_ms) / 2
        pieces[-1].append((middle_ms, float(max(median, 1)), float(max(high, 1))))
    return pieces


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """What the lines of a plot mean: (class, words)."""
    items = []
    for cls, words in entries:
        sample = element(
            "svg",
            _legend_sample(cls),
            viewBox="0 0 30 12",
            width=30,
            height=12,
            aria_hidden="true",
        )
        items.append(element("li", sample, words))
    return element("ul", *items, cls="legend")


def _legend_sample(cls: str) -> Markup:
    if cls.startswith("lost"):
        return element("rect", cls=cls, x=4, y=1, width=22, height=10)
    if cls == "outage":
        return element("rect", cls="outage edge", x=4, y=1, width=22, height=10)
    return element("line", cls=f"line {cls}", x1=1, x2=29, y1=6, y2=6)
