"""One unsigned 64-bit number per seq, eight bytes each: an audit of millions fits in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

_PAGE_SEQS = 4096


class SeqNumbers:
    """A number per seq, 0 where there is none.

    Memory follows the seqs that have one, in pages, so a single absurd seq costs one page.
    """

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        self._pages: dict[int, array[int]] = {}

    def get(self, seq: int) -> int:
        """The number of `seq`, or 0."""
        page = self._pages.get(seq // _PAGE_SEQS)
        return 0 if page is None else page[seq % _PAGE_SEQS]

    def set(self, seq: int, number: int) -> None:
        """Give `seq` its number, 0 <= number < 2**64."""
        page = self._pages.get(seq // _PAGE_SEQS)
        if page is None:
            page = self._pages[seq // _PAGE_SEQS] = array("Q", bytes(8 * _PAGE_SEQS))
        page[seq % _PAGE_SEQS] = number

    def items(self) -> Iterator[tuple[int, int]]:
        """All (seq, number) that are not 0, by seq."""
        for index in sorted(self._pages):
            for at, number in enumerate(self._pages[index]):
                if number:
                    yield index * _PAGE_SEQS + at, number
