"""HTML and SVG from function calls: what is text is escaped, what is markup is not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


class Markup(str):
    """Text that is already HTML or SVG."""

    __slots__ = ()


Child = str | Markup | None

CELL_LETTERS_MAX = 24  # a cell up to this length is not broken either: a moment, a device id
ROWS_ON_ONE_PAGE_MAX = 20  # a table of so few rows is not torn apart when it is printed
KEY_LETTERS_MAX = 32  # a row's name up to this length is never broken: a device id is no longer


def element(name: str, *children: Child, **attributes: str | float | None) -> Markup:
    """One element. `cls` is class, `_` in a name is `-`; an attribute that is None is left out."""
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            shown = "class" if key == "cls" else key.rstrip("_").replace("_", "-")
            words.append(f'{shown}="{escape(number(value))}"')
    inner = "".join(map(text, children))
    opening = " ".join(words)
    return Markup(f"<{opening}>{inner}</{name}>")


def text(child: Child) -> str:
    """A child as markup; plain text is escaped."""
    if child is None:
        return ""
    return child if isinstance(child, Markup) else escape(child, quote=False)


def number(value: str | float) -> str:
    """An attribute's value; coordinates need no more than a tenth of a unit."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def join(children: Iterable[Child], between: str = "") -> Markup:
    """Children one after another."""
    return Markup(between.join(map(text, children)))


def table(
    caption: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[Child]],
    *,
    numeric: Iterable[int] = (),
    foot: Sequence[Child] | None = None,
) -> Markup:
    """A table whose first column names the row. `numeric`: the columns of numbers, from 0.

    The roles are written out because a phone shows each row as a block of its own, and a block
    would lose them.
    """
    right = set(numeric)

    rows = list(rows)
    keys = all(len(cells[0] or "") <= KEY_LETTERS_MAX for cells in rows)

    def name_of_row(content: Child) -> Markup:
        cls = "key" if keys else "sentence"
        return element("th", content, scope="row", role="rowheader", cls=cls)

    def cell(column: int, content: Child) -> Markup:
        if column == 0:
            return name_of_row(content)
        short = len(content or "") <= CELL_LETTERS_MAX
        cls = "num" if column in right else "short" if short else None
        return element(
            "td", element("span", content), role="cell", cls=cls, data_label=headings[column]
        )

    def row(cells: Sequence[Child]) -> Markup:
        return element("tr", *(cell(i, content) for i, content in enumerate(cells)), role="row")

    head = element(
        "tr",
        *(
            element("th", name, scope="col", role="columnheader", cls="num" if i in right else None)
            for i, name in enumerate(headings)
        ),
        role="row",
    )
    return element(
        "table",
        element("caption", caption),
        element("thead", head, role="rowgroup"),
        element("tbody", *map(row, rows), role="rowgroup"),
        element("tfoot", row(foot), role="rowgroup") if foot is not None else None,
        role="table",
        cls="on-one-page" if len(rows) <= ROWS_ON_ONE_PAGE_MAX else None,
    )
