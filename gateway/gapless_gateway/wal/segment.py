"""One segment file: the writer that adds batches to it, and the one scan that reads it.

Everything that reads segments (recovery, the publisher's reads, verify, inspect, the audit, the
ledger) goes through `SegmentScan`.

Where a scan stops before the end of the file, something is damaged. Which kind it is, is decided
by what stands behind it. A batch is written only after the one before it was synced, and every
entry carries the first LSN of its batch. So a valid entry of a *later batch* behind the damage
proves that the damaged bytes had been durable: corruption. Without one the damage lies inside
the last batch, which was never acked: a torn tail.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from gapless_gateway.wal.disk import Disk, DiskFile, NoRoom, append_whole, is_full
from gapless_gateway.wal.entries import EntryMalformed, Gone, decode_payload
from gapless_gateway.wal.format import (
    ENTRY_BYTES_MAX,
    ENTRY_HEADER,
    ENTRY_HEADER_BYTES,
    HEADER_FIXED_BYTES,
    SegmentHeader,
    crc_seed,
    decode_fixed_header,
    decode_snapshot,
    entry_is_valid,
    segment_name,
)

READ_BYTES = ENTRY_BYTES_MAX  # how much of a segment is in memory at a time: any entry fits


class RawEntry(NamedTuple):
    """An entry that passed its CRC, its payload still in bytes."""

    lsn: int
    batch_first_lsn: int
    kind: int
    payload: bytes
    offset: int  # of its first byte in the segment


@dataclass(frozen=True, slots=True)
class Damage:
    """Where a scan could not go on: the bytes [offset, end_offset) of the segment."""

    offset: int
    end_offset: int  # where the next valid entry begins, or the end of the file
    lsn: int  # the first LSN that cannot be read
    next_lsn: int | None  # LSN of the next valid entry, None if there is none
    next_batch: int  # the batch of that entry; 0 if there is none
    torn: bool  # inside the last batch: never acked
    torn_bytes: int  # from offset to the end of the file
    why: str


class SegmentWriter:
    """The segment that grows. Not thread-safe; one batch at a time."""

    def __init__(self, file: DiskFile, size: int) -> None:
        self._file = file
        self.size = size

    @classmethod
    def create(cls, disk: Disk, directory: Path, content: bytes, first_lsn: int) -> SegmentWriter:
        """Put a segment in its place, synced with its directory, and leave it open to append.

        It gets its name only when its bytes are durable, so a segment with a torn header never
        comes from a crash.
        """
        path = directory / segment_name(first_lsn)
        temporary = path.with_name(path.name + ".new")
        file = disk.create(temporary)
        try:
            try:
                file.write(content)
                file.fdatasync()
            except OSError as error:
                if not is_full(error):
                    raise
                disk.unlink(temporary)  # nothing was built on it
                raise NoRoom(error.errno, error.strerror) from error
            disk.rename(temporary, path)
            disk.fsync_directory(directory)
        except BaseException:
            file.close()
            raise
        return cls(file, len(content))

    @classmethod
    def renew(
        cls, disk: Disk, directory: Path, content: bytes, first_lsn: int, *, in_place: bool
    ) -> SegmentWriter:
        """Make sure that a segment is on the disk and not only in the page cache: write it anew.

        On a disk without room for a second copy, and if `in_place` (`content` begins as the file
        does and may just be shorter), the same bytes are written over themselves and synced.
        """
        try:
            return cls.create(disk, directory, content, first_lsn)
        except NoRoom:
            if not in_place:
                raise
        file = disk.open(directory / segment_name(first_lsn))
        try:
            file.write_at(0, content)
            file.truncate(len(content))
            file.fdatasync()
        except BaseException:
            file.close()
            raise
        return cls(file, len(content))

    def append(self, batch: bytes) -> None:
        """One write, one sync. When it returns the batch is durable.

        Raises NoRoom if the disk is full: then nothing of the batch is in the file. Any other
        OSError leaves it unknown what the file holds.
        """
        append_whole(self._file, self.size, batch)
        self.size += len(batch)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class SegmentScan:
    """Reads one segment from its front, a piece at a time.

    Raises HeaderDamagedError, FormatTooNewError and OSError from the constructor; after it only
    OSError. Damage among the entries is a value: `take` returns fewer entries and `stopped` says
    why.
    """

    def __init__(
        self,
        disk: Disk,
        path: Path,
        *,
        with_snapshot: bool = True,
        header: SegmentHeader | None = None,
    ) -> None:
        """`header`: what the header of a file whose own cannot be read was. The scan then begins

        as one that met damage at byte 0, which ends with the first valid entry.
        """
        self.path = path
        self._file = disk.open_reader(path)
        self.stopped: str | None = None
        try:
            if header is None:
                self.header, self.header_bytes = self._read_header(with_snapshot)
            else:
                self.header, self.header_bytes = header, 0
        except BaseException:
            self._file.close()
            raise
        self._seed = crc_seed(self.header.log_id)
        self.offset = self.header_bytes  # of the next entry
        self.lsn = self.header.first_lsn  # of the next entry
        self.batch_first_lsn = 0  # of the last entry read
        self._buffer = b""
        self._buffer_offset = self.offset
        self.start_again()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def size(self) -> int:
        """How long the file is now, in bytes."""
        return self._file.size()

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file as they are."""
        return self._file.read(offset, length)

    def take(self, limit: int, end: int | None = None) -> list[RawEntry]:
        """Up to `limit` entries, none that reaches beyond byte `end` of the file.

        An empty list: the end, or `stopped` says what is wrong with the bytes at `offset`.
        """
        taken: list[RawEntry] = []
        while len(taken) < limit and self.stopped is None:
            if not self._take_from_buffer(taken, limit, end) and not self._refill(end):
                break
        return taken

    def skip_to(self, lsn: int, end: int | None = None) -> bool:
        """Read on until the next entry is `lsn`, or the Gone that takes up `lsn`.

        False: the end or damage came before it.
        """
        while self.lsn < lsn:
            taken = self.take(min(lsn - self.lsn, 1024), end)
            if not taken:
                return False
            while self.lsn > lsn:  # a Gone takes up many LSNs: back to the one that holds `lsn`
                self._step_back(taken.pop())
                if self.lsn <= lsn:
                    return True
        return True

    def start_again(self) -> None:
        """Go back to where the scan began."""
        self.offset, self.lsn, self.batch_first_lsn = self.header_bytes, self.header.first_lsn, 0
        self.forget_buffer()
        self.stopped = None if self.header_bytes else "its header is damaged"

    def _step_back(self, raw: RawEntry) -> None:
        self.offset, self.lsn, self.batch_first_lsn = raw.offset, raw.lsn, raw.batch_first_lsn
        self.forget_buffer()

    def damage(self) -> Damage:
        """What stands at `offset`, after a scan that was `stopped`, judged by what follows it."""
        assert self.stopped is not None
        data = self._file.read(self.offset)
        # Behind a damaged header nothing need be missing; else at least one entry is.
        after_lsn = self.lsn if self.offset else self.lsn - 1
        found = _next_valid(data, 0, after_lsn, self._seed)
        next_offset, next_lsn = found if found is not None else (len(data), None)
        torn, next_batch = True, 0
        while found is not None and torn:
            offset, lsn = found
            _, length, _, batch_first_lsn, _ = ENTRY_HEADER.unpack_from(data, offset)
            torn = batch_first_lsn <= self.lsn
            next_batch = next_batch or batch_first_lsn
            found = _next_valid(data, offset + length, lsn, self._seed)
        return Damage(
            offset=self.offset,
            end_offset=self.offset + next_offset,
            lsn=self.lsn,
            next_lsn=next_lsn,
            next_batch=next_batch,
            torn=torn,
            torn_bytes=len(data),
            why=self.stopped,
        )

    def forget_buffer(self) -> None:
        """Look at the file anew from `offset` on: it may have grown."""
        self.stopped = None
        self._buffer, self._buffer_offset = b"", self.offset

    def go_on_behind(self, damage: Damage) -> None:
        """Take up the scan at the next valid entry behind `damage`."""
        assert damage.next_lsn is not None
        self.offset, self.lsn = damage.end_offset, damage.next_lsn
        self.batch_first_lsn = 0  # whatever the next entry says
        self.forget_buffer()

    def _read_header(self, with_snapshot: bool) -> tuple[SegmentHeader, int]:
        header, length = decode_fixed_header(self._file.read(0, HEADER_FIXED_BYTES))
        if with_snapshot:
            rest = self._file.read(HEADER_FIXED_BYTES, length - HEADER_FIXED_BYTES)
            header = replace(header, snapshot=decode_snapshot(rest, header))
        return header, length

    def _take_from_buffer(self, taken: list[RawEntry], limit: int, end: int | None) -> bool:
        """Take what is whole in the buffer; False when more bytes are needed."""
        buffer, position = self._buffer, self.offset - self._buffer_offset
        stop = len(buffer) if end is None else min(len(buffer), end - self._buffer_offset)
        view, lsn, seed, batch = memoryview(buffer), self.lsn, self._seed, self.batch_first_lsn
        unpack, crc32 = ENTRY_HEADER.unpack_from, zlib.crc32
        more_needed = False
        while len(taken) < limit:
            if position + ENTRY_HEADER_BYTES > stop:
                more_needed = True
                break
            crc, length, found_lsn, found_batch, kind = unpack(buffer, position)
            if not ENTRY_HEADER_BYTES <= length <= ENTRY_BYTES_MAX:
                self.stopped = "the length of an entry is impossible"
                break
            if position + length > stop:
                more_needed = True
                break
            if crc32(view[position + 4 : position + length], seed) != crc:
                self.stopped = "an entry fails its CRC"
                break
            if found_lsn != lsn:
                self.stopped = f"LSN {lsn} was due and {found_lsn} stands there"
                break
            if not batch <= found_batch <= lsn or found_batch == 0:
                self.stopped = f"batch {found_batch} stands behind batch {batch}"
                break
            payload = buffer[position + ENTRY_HEADER_BYTES : position + length]
            following = lsn + 1
            if kind == Gone.KIND:
                last_lsn = _last_lsn_of(payload)
                if last_lsn < lsn:
                    self.stopped = "what stands in the place of entries that are gone is malformed"
                    break
                following = last_lsn + 1
            batch = found_batch
            taken.append(RawEntry(lsn, batch, kind, payload, self._buffer_offset + position))
            position += length
            lsn = following
        self.offset, self.lsn, self.batch_first_lsn = self._buffer_offset + position, lsn, batch
        return not more_needed

    def _refill(self, end: int | None) -> bool:
        """Read the next piece of the file; False at the end of it (or at `end`)."""
        length = READ_BYTES if end is None else min(READ_BYTES, end - self.offset)
        data = self._file.read(self.offset, length) if length > 0 else b""
        unread_before = len(self._buffer) - (self.offset - self._buffer_offset)
        self._buffer, self._buffer_offset = data, self.offset
        if len(data) > unread_before:
            return True
        if data:
            self.stopped = "the last entry is cut short"
        return False


def _last_lsn_of(payload: bytes) -> int:
    """The last LSN that a Gone takes up; 0 if it cannot be read."""
    try:
        gone = decode_payload(Gone.KIND, payload)
    except EntryMalformed:
        return 0
    last_lsn = gone.last_lsn if isinstance(gone, Gone) else 0
    return last_lsn if isinstance(last_lsn, int) else 0


def _next_valid(data: bytes, start: int, after_lsn: int, seed: int) -> tuple[int, int] | None:
    """Offset and LSN of the first valid entry from `start` on whose LSN is above `after_lsn`.

    Mostly it stands at `start`. Else it is searched by the upper five bytes of its LSN, which
    take one value, or two, among the entries that the rest of a segment can hold.
    """
    if entry_is_valid(data, start, len(data), seed):
        lsn = ENTRY_HEADER.unpack_from(data, start)[2]
        if lsn > after_lsn:
            return start, lsn
    entries_max = (len(data) - start) // ENTRY_HEADER_BYTES + 1
    best: tuple[int, int] | None = None
    for prefix in {(after_lsn + ahead).to_bytes(8, "big")[:5] for ahead in (1, entries_max)}:
        position = data.find(prefix, start + 8)
        while position >= 0 and (best is None or position - 8 < best[0]):
            offset = position - 8
            if entry_is_valid(data, offset, len(data), seed):
                lsn = ENTRY_HEADER.unpack_from(data, offset)[2]
                if lsn > after_lsn:
                    best = (offset, lsn)
            position = data.find(prefix, position + 1)
    return best
