"""Which segments there should be, by what they say of each other; and which are damaged or missing.

Every header names the segment before it, so that reading the fixed part of each is enough.
"""

from __future__ import annotations

import contextlib

from gapless_gateway.wal.cursor import read_cursor, read_cursor_of
from gapless_gateway.wal.disk import Disk
from gapless_gateway.wal.errors import WalDamaged
from gapless_gateway.wal.format import (
    HEADER_FIXED_BYTES,
    FormatTooNewError,
    HeaderDamagedError,
    SegmentHeader,
    decode_fixed_header,
)
from gapless_gateway.wal.ledger import read_ledger
from gapless_gateway.wal.paths import StatePaths
from gapless_gateway.wal.repairing import NEW_LOG_REMEDY, Neighbours, SegmentRepair, too_new


class SegmentChain:
    """The segments of a log that is being opened."""

    def __init__(self, disk: Disk, paths: StatePaths, first_lsns: list[int]) -> None:
        """`first_lsns`: of the files that are there, oldest first; `suspects` adds to it.

        Raises WalTooNew, WalDamaged, OSError.
        """
        self._disk = disk
        self._paths = paths
        self._first_lsns = first_lsns
        # Without their accounts; None where it is damaged.
        self._headers = {one: self._fixed_header(one) for one in first_lsns}
        self.log_id = self._most_told()

    def _most_told(self) -> bytes:
        """The id that most of the files agree on: each of them may be the damaged one."""
        told = [header.log_id for header in self._headers.values() if header is not None]
        with contextlib.suppress(FileNotFoundError, HeaderDamagedError, FormatTooNewError):
            copy = self._disk.read(self._paths.header_copy, 0, HEADER_FIXED_BYTES)
            told.append(decode_fixed_header(copy)[0].log_id)
        with contextlib.suppress(FileNotFoundError):
            cursor = read_cursor(self._disk, self._paths.cursor)
            told += [cursor.log_id] if cursor is not None else []
        if not told:
            raise WalDamaged(
                f"no file in {self._paths.state_dir} says which log it belongs to; nothing was "
                f"changed; {NEW_LOG_REMEDY}"
            )
        return max(told, key=told.count)

    def suspects(self, repair: SegmentRepair) -> list[Neighbours]:
        """The segments, other than the newest, that are damaged or missing, oldest first.

        Every segment names the one before it, so none can be missing unseen; those that are are
        added to the list. Raises WalDamaged for a file that belongs elsewhere, OSError.
        """
        first_lsns, headers = self._first_lsns, self._headers
        self._check_that_they_belong()
        suspects = {one for one, header in headers.items() if header is None}
        for at, first_lsn in reversed(list(enumerate(list(first_lsns)))):
            header, previous = headers[first_lsn], first_lsns[at - 1] if at else 0
            named = header.previous_first_lsn if header is not None else None
            if named is None or named != previous:
                missing = self._missing_before(first_lsn, named, previous, repair)
                first_lsns[at:at] = missing
                suspects.update(missing)
        return [
            Neighbours(one, ([0, *first_lsns])[at], first_lsns[at + 1])
            for at, one in enumerate(first_lsns[:-1])
            if one in suspects
        ]

    def _check_that_they_belong(self) -> None:
        for first_lsn, header in self._headers.items():
            if header is None:
                continue
            path = self._paths.segment(first_lsn)
            if header.first_lsn != first_lsn:
                raise WalDamaged(
                    f"{path} says that it begins with LSN {header.first_lsn}, so it was renamed; "
                    "give it back its name"
                )
            if header.log_id != self.log_id:
                raise WalDamaged(
                    f"{path} belongs to another log ({header.log_id.hex()}) than the files beside "
                    f"it ({self.log_id.hex()}); move it out of this directory"
                )

    def _missing_before(
        self,
        first_lsn: int,
        named: int | None,
        previous: int,
        repair: SegmentRepair,
    ) -> list[int]:
        """First LSNs of the segments that are missing between `previous` and `first_lsn`.

        `named`: the segment that `first_lsn` says is before it; None: its header is damaged.
        """
        missing: set[int] = {named} if named else set()
        if previous:
            end_lsn = repair.end_of(previous)  # the segment behind it begins here
            if end_lsn is not None and end_lsn < first_lsn:
                missing.add(end_lsn)
        else:
            # Before the oldest: what was delivered may be gone, as what was retired is.
            cursor = read_cursor_of(self._disk, self._paths.cursor, self.log_id)
            delivered = cursor is not None and cursor.resume_lsn >= first_lsn
            if named is None or delivered or named <= self._retired_through():
                return []
        return sorted(one for one in missing if previous < one < first_lsn)

    def _retired_through(self) -> int:
        """The last LSN that the ledger says was retired; 0: none."""
        try:
            return read_ledger(self._disk, self._paths.ledger).retired_through
        except (FileNotFoundError, WalDamaged):
            return 0

    def _fixed_header(self, first_lsn: int) -> SegmentHeader | None:
        """The header of a segment without its account; None if it is damaged. Raises WalTooNew."""
        path = self._paths.segment(first_lsn)
        try:
            return decode_fixed_header(self._disk.read(path, 0, HEADER_FIXED_BYTES))[0]
        except FormatTooNewError as error:
            raise too_new(path, error) from None
        except HeaderDamagedError:
            return None
