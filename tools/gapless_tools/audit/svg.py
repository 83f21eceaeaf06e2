"""The frame of a plot: axes, grid, shaded spans and marks, as SVG that takes its colours from CSS.

Every plot is drawn twice, for a page and for a phone, because letters that are scaled with a
picture become too small to read. CSS shows one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from gapless_tools.audit.markup import Markup, element, join
from gapless_tools.audit.scales import Axis

_ids = count(1)

LETTER_WIDTH = 7.4  # of a label, at most, in units of the picture; print has the larger letters


@dataclass(frozen=True, slots=True)
class Size:
    """The picture's width and height, and the room beside the plotting area."""

    cls: str
    width: float
    height: float
    left: float
    right: float = 12
    top: float = 30
    bottom: float = 26
    time_ticks_max: int = 8


def page_size(height: float) -> Size:
    """For a page and for paper."""
    return Size("on-page", 880, height, 58)


def phone_size(height: float) -> Size:
    """For a phone."""
    return Size("on-phone", 360, height, 54, time_ticks_max=3)


Point = tuple[float, float]


class Plot:
    """One picture with a time axis; things are drawn in the order in which they are added."""

    def __init__(self, size: Size, x: Axis, y: Axis, y_title: str) -> None:
        self.size, self.x, self.y = size, x, y
        self._y_title = y_title
        self._parts: list[Markup] = []
        self._hatch = f"hatch-{next(_ids)}"
        self._left, self._top = size.left, size.top
        self._right, self._bottom = size.width - size.right, size.height - size.bottom

    def at(self, x: float, y: float) -> Point:
        """Where a value stands in the picture."""
        return (
            self._left + self.x.position(x) * (self._right - self._left),
            self._bottom - self.y.position(y) * (self._bottom - self._top),
        )

    def span(self, from_x: float, to_x: float, label: str) -> None:
        """Shade a span of time, from top to bottom, with its name above."""
        left, right = self.at(from_x, self.y.low)[0], self.at(to_x, self.y.low)[0]
        width = max(right - left, 2)
        height = self._bottom - self._top
        box = {"x": left, "y": self._top, "width": width, "height": height}
        self._parts.append(element("rect", cls="outage", **box))
        self._parts.append(element("rect", fill=f"url(#{self._hatch})", **box))
        self._label(left + width / 2, self._top - 6, label, "label")

    def moment(self, at_x: float, label: str) -> None:
        """A vertical line at a moment, named at its foot."""
        x = self.at(at_x, self.y.low)[0]
        self._parts.append(element("line", cls="moment", x1=x, x2=x, y1=self._top, y2=self._bottom))
        if label:
            self._label(x, self._bottom - 7, label, "label moment-label", beside=True)

    def line(self, points: Sequence[Point], cls: str) -> None:
        """A line through values."""
        if points:
            self._parts.append(element("polyline", cls=f"line {cls}", points=self._path(points)))

    def dot(self, point: Point) -> None:
        """A value that has no neighbour to draw a line to."""
        x, y = self.at(*point)
        self._parts.append(element("circle", cls="dot", cx=x, cy=y, r=2.5))

    def area(self, points: Sequence[Point], cls: str) -> None:
        """The area between values and the foot of the plot."""
        if points:
            closed = [(points[0][0], self.y.low), *points, (points[-1][0], self.y.low)]
            self._parts.append(element("polygon", cls=f"area {cls}", points=self._path(closed)))

    def band(self, lower: Sequence[Point], upper: Sequence[Point], cls: str) -> None:
        """The area between two lines."""
        if lower and upper:
            around = [*lower, *reversed(upper)]
            self._parts.append(element("polygon", cls=f"area {cls}", points=self._path(around)))

    def box(self, low: Point, high: Point, label: str, cls: str) -> None:
        """A range of both axes, at least large enough to be seen, with its name beside it."""
        (left, bottom), (right, top) = self.at(*low), self.at(*high)
        width, height = max(right - left, 4), max(bottom - top, 4)
        left, top = left - (width - (right - left)) / 2, bottom - height
        self._parts.append(element("rect", cls=cls, x=left, y=top, width=width, height=height))
        # Of a line that rises, there is room below on the right, and above on the left.
        fits = left + width + 7 + len(label) * LETTER_WIDTH <= self.size.width
        y = min(top + height + 14, self._bottom - 4) if fits else max(top - 7, self._top + 10)
        self._label(left + width, y, label, "label lost-label", beside=True)

    def mark(self, point: Point, label: str) -> None:
        """A point with its name."""
        x, y = self.at(*point)
        self._parts.append(element("circle", cls="mark", cx=x, cy=y, r=3.5))
        self._label(x, y + 4, label, "label", beside=True)

    def svg(self, title: str, description: str) -> Markup:
        """The whole picture; `description` says in words what it shows."""
        name = f"plot-{next(_ids)}"
        hatch = element(
            "pattern",
            element("path", d="M-2,2 l4,-4 M0,8 l8,-8 M6,10 l4,-4", cls="hatch"),
            id=self._hatch,
            width=8,
            height=8,
            patternUnits="userSpaceOnUse",
        )
        return element(
            "svg",
            element("title", title, id=f"{name}-title"),
            element("desc", description, id=f"{name}-desc"),
            element("defs", hatch),
            self._grid(),
            join(self._parts),
            self._frame(),
            cls=f"plot {self.size.cls}",
            viewBox=f"0 0 {self.size.width:g} {self.size.height:g}",
            role="img",
            aria_labelledby=f"{name}-title",
            aria_describedby=f"{name}-desc",
        )

    def _grid(self) -> Markup:
        lines = []
        for tick in self.y.ticks:
            y = self.at(self.x.low, tick.value)[1]
            lines.append(element("line", cls="grid", x1=self._left, x2=self._right, y1=y, y2=y))
        return join(lines)

    def _frame(self) -> Markup:
        foot = element(
            "line", cls="axis", x1=self._left, x2=self._right, y1=self._bottom, y2=self._bottom
        )
        return join([foot, *self._y_labels(), *self._x_labels()])

    def _y_labels(self) -> Iterable[Markup]:
        for tick in self.y.ticks:
            y = self.at(self.x.low, tick.value)[1] + 4
            yield element("text", tick.label, cls="tick", x=self._left - 7, y=y, text_anchor="end")
        yield element("text", self._y_title, cls="axis-title", x=0, y=self._top - 18)

    def _x_labels(self) -> Iterable[Markup]:
        for tick in self.x.ticks:
            x = self.at(tick.value, self.y.low)[0]
            yield element("line", cls="axis", x1=x, x2=x, y1=self._bottom, y2=self._bottom + 4)
            half = len(tick.label) * LETTER_WIDTH / 2
            shown = min(max(x, half), self.size.width - half)
            yield element(
                "text", tick.label, cls="tick", x=shown, y=self._bottom + 18, text_anchor="middle"
            )

    def _label(self, x: float, y: float, words: str, cls: str, *, beside: bool = False) -> None:
        """A name at a point: in the middle of it, or beside it where there is room."""
        width = len(words) * LETTER_WIDTH
        anchor = "middle"
        if beside:
            right = x + 7 + width <= self.size.width
            x, anchor = (x + 7, "start") if right else (x - 7, "end")
        else:
            x = min(max(x, width / 2), self.size.width - width / 2)
        self._parts.append(element("text", words, cls=cls, x=x, y=y, text_anchor=anchor))

    def _path(self, points: Sequence[Point]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
