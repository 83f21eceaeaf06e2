"""Sets and maps of integers, kept as ranges.

A stream of a million records without a loss is one range here, so the account stays small however
long it runs. Ranges are closed, (first, last), both ends included; they are kept sorted and apart:
neighbours that touch (and, in a map, say the same) are one range.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

Range = tuple[int, int]
V = TypeVar("V")


class IntervalSet:
    """A set of integers as sorted, closed ranges that neither overlap nor touch."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def add(self, first: int, last: int) -> None:
        """Put first..last in. An empty range (last < first) adds nothing."""
        if last < first:
            return
        lasts = self._lasts
        if lasts and first == lasts[-1] + 1:  # the next record of a stream: by far the usual case
            lasts[-1] = last
            return
        left = bisect_left(lasts, first - 1)  # the first range that touches or lies beyond
        right = bisect_right(self._firsts, last + 1)  # the first range wholly beyond
        if left < right:
            first = min(first, self._firsts[left])
            last = max(last, lasts[right - 1])
        self._firsts[left:right] = [first]
        lasts[left:right] = [last]

    def remove(self, first: int, last: int) -> None:
        """Take first..last out, as far as they are in."""
        if last < first:
            return
        left = bisect_left(self._lasts, first)
        right = bisect_right(self._firsts, last)
        if left >= right:
            return
        kept: list[Range] = []
        if self._firsts[left] < first:
            kept.append((self._firsts[left], first - 1))
        if self._lasts[right - 1] > last:
            kept.append((last + 1, self._lasts[right - 1]))
        self._firsts[left:right] = [one for one, _ in kept]
        self._lasts[left:right] = [one for _, one in kept]

    def contains(self, number: int) -> bool:
        """Whether `number` is in the set."""
        at = bisect_left(self._lasts, number)
        return at < len(self._lasts) and self._firsts[at] <= number

    __contains__ = contains

    def covers(self, first: int, last: int) -> bool:
        """Whether all of first..last is in the set (true for an empty range)."""
        if last < first:
            return True
        at = bisect_left(self._lasts, first)
        return at < len(self._lasts) and self._firsts[at] <= first and last <= self._lasts[at]

    def range_at(self, number: int) -> Range | None:
        """The whole range that `number` lies in, or None."""
        at = bisect_left(self._lasts, number)
        if at < len(self._lasts) and self._firsts[at] <= number:
            return self._firsts[at], self._lasts[at]
        return None

    def within(self, first: int, last: int) -> IntervalSet:
        """The part of the set that lies in first..last, as a new set."""
        part = IntervalSet()
        left = bisect_left(self._lasts, first)
        right = bisect_right(self._firsts, last)
        if left < right and first <= last:
            part._firsts = self._firsts[left:right]
            part._lasts = self._lasts[left:right]
            part._firsts[0] = max(part._firsts[0], first)
            part._lasts[-1] = min(part._lasts[-1], last)
        return part

    def union(self, other: IntervalSet) -> IntervalSet:
        """What is in either, as a new set."""
        result = self.copy()
        for first, last in other:
            result.add(first, last)
        return result

    def difference(self, other: IntervalSet) -> IntervalSet:
        """What is in this one and not in `other`, as a new set."""
        result = self.copy()
        for first, last in other:
            result.remove(first, last)
        return result

    def intersection(self, other: IntervalSet) -> IntervalSet:
        """What is in both, as a new set."""
        result = IntervalSet()
        for first, last in other:
            for one in self.within(first, last):
                result.add(*one)
        return result

    def count(self) -> int:
        """How many integers are in the set."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def copy(self) -> IntervalSet:
        """An independent set of the same integers."""
        result = IntervalSet()
        result._firsts = self._firsts.copy()
        result._lasts = self._lasts.copy()
        return result

    def ranges(self) -> list[Range]:
        """All ranges, in order."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def __iter__(self) -> Iterator[Range]:
        return iter(self.ranges())

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IntervalSet):
            return NotImplemented
        return self._firsts == other._firsts and self._lasts == other._lasts

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"IntervalSet({self.ranges()})"


class IntervalMap(Generic[V]):
    """A value for each integer of some closed ranges; neighbours with equal values are one."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[tuple[int, int, V]] = ()) -> None:
        self._items: list[tuple[int, int, V]] = []
        for first, last, value in items:
            self.assign(first, last, value)

    def assign(self, first: int, last: int, value: V) -> None:
        """Give first..last this value, whatever they had."""
        if last < first:
            return
        left, right = self._span(first - 1, last + 1)
        replaced: list[tuple[int, int, V]] = []
        after: list[tuple[int, int, V]] = []
        for a, b, old in self._items[left:right]:
            if old == value:
                first, last = min(first, a), max(last, b)
                continue
            if a < first:
                replaced.append((a, min(b, first - 1), old))
            if b > last:
                after.append((max(a, last + 1), b, old))
        self._items[left:right] = [*replaced, (first, last, value), *after]

    def fill(self, first: int, last: int, value: V) -> None:
        """Give this value to those of first..last that have none yet: the first word stands."""
        for a, b in IntervalSet([(first, last)]).difference(self.keys()):
            self.assign(a, b, value)

    def remove(self, first: int, last: int) -> None:
        """Take first..last out, as far as they are in."""
        if last < first:
            return
        left, right = self._span(first, last)
        kept: list[tuple[int, int, V]] = []
        for a, b, value in self._items[left:right]:
            if a < first:
                kept.append((a, first - 1, value))
            if b > last:
                kept.append((last + 1, b, value))
        self._items[left:right] = kept

    def get(self, number: int) -> V | None:
        """The value at `number`, or None where there is none."""
        left, right = self._span(number, number)
        return self._items[left][2] if left < right else None

    def within(self, first: int, last: int) -> list[tuple[int, int, V]]:
        """The (first, last, value) that lie in first..last, clipped to it."""
        left, right = self._span(first, last)
        return [(max(a, first), min(b, last), value) for a, b, value in self._items[left:right]]

    def items(self) -> list[tuple[int, int, V]]:
        """All (first, last, value), in order."""
        return list(self._items)

    def keys(self) -> IntervalSet:
        """The integers that have a value."""
        return IntervalSet((first, last) for first, last, _ in self._items)

    def _span(self, first: int, last: int) -> tuple[int, int]:
        """The slice of the items that overlap first..last."""
        left = bisect_left(self._items, first, key=_last_of)
        return left, bisect_right(self._items, last, lo=left, key=_first_of)

    def __iter__(self) -> Iterator[tuple[int, int, V]]:
        return iter(self.items())

    def __bool__(self) -> bool:
        return bool(self._items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IntervalMap):
            return NotImplemented
        return self._items == other._items

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"IntervalMap({self._items})"


def _first_of(item: tuple[int, int, object]) -> int:
    return item[0]


def _last_of(item: tuple[int, int, object]) -> int:
    return item[1]
