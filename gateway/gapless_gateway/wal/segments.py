"""Which segments there are: their first LSNs, oldest first, for both threads of the log."""

from __future__ import annotations

import threading
from bisect import bisect_right


class Segments:
    """The segments on disk. There is always one, the newest, which grows."""

    def __init__(self, first_lsns: list[int]) -> None:
        """`first_lsns`: at least one, oldest first."""
        self._lock = threading.Lock()
        self._first_lsns = first_lsns

    @property
    def oldest(self) -> int:
        """First LSN of the oldest."""
        return self._first_lsns[0]

    @property
    def newest(self) -> int:
        """First LSN of the newest."""
        return self._first_lsns[-1]

    def older(self) -> list[int]:
        """First LSNs of all but the newest."""
        with self._lock:
            return self._first_lsns[:-1]

    def holding(self, lsn: int) -> int:
        """First LSN of the segment that `lsn` is in, or would be in."""
        with self._lock:
            return self._first_lsns[bisect_right(self._first_lsns, lsn) - 1]

    def around(self, first_lsn: int) -> tuple[int | None, int | None]:
        """First LSNs of the segments before and behind one; None: there is none."""
        with self._lock:
            at = self._first_lsns.index(first_lsn)
            before = self._first_lsns[at - 1] if at else None
            behind = self._first_lsns[at + 1] if at + 1 < len(self._first_lsns) else None
        return before, behind

    def is_below(self, resume_lsn: int) -> bool:
        """Whether the oldest ends below `resume_lsn`, and is not the newest."""
        with self._lock:
            return len(self._first_lsns) > 1 and self._first_lsns[1] <= resume_lsn

    def begin(self, first_lsn: int) -> None:
        """A new one grows from here on."""
        with self._lock:
            self._first_lsns.append(first_lsn)

    def forget_oldest(self) -> None:
        """The oldest is about to be unlinked: nobody looks for it any more."""
        with self._lock:
            del self._first_lsns[0]
