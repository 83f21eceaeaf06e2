"""The ledger: one hash-chained summary per retired segment, in one file.

An entry is synced before its segment is unlinked. The number of entries and the hash of the
newest stand in the header of every segment that is begun later, so that a ledger that was cut
short or rewritten is found. When it grows long its older part is replaced by one span
(ledger_compaction.py). docs/wal-format.md has the bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gapless_gateway.wal.disk import Disk, DiskFile, append_whole, renew_file, write_new_file
from gapless_gateway.wal.errors import WalDamaged, WalTooNew
from gapless_gateway.wal.format import crc_seed
from gapless_gateway.wal.ledger_format import (
    FORMAT_COMPACTED,
    LEDGER_HEADER_BYTES,
    NO_HASH,
    ChainedEntry,
    Compaction,
    RetiredSegment,
    RetiredSpan,
    decode_ledger_entry,
    decode_ledger_header,
    encode_ledger_entry,
    encode_ledger_header,
    entry_hash,
    frame_ledger_entry,
    framed_bytes,
    payload_at,
)

__all__ = [
    "NO_HASH",
    "Ledger",
    "LedgerContent",
    "RetiredSegment",
    "entry_hash",
    "parse_ledger",
    "read_ledger",
    "rewrite_ledger_file",
    "write_ledger_file",
]


@dataclass(frozen=True, slots=True)
class LedgerContent:
    """What a ledger file holds."""

    log_id: bytes | None  # None: the header is torn
    entries: list[ChainedEntry]  # behind the span, if there is one
    hashes: list[bytes]  # hashes[i] is the hash of entries[i]
    valid_bytes: int
    trailing_bytes: int  # behind the last valid entry
    span: RetiredSpan | None = None
    fault: str | None = None  # why the span is not the one that was written, in words
    ends: list[int] = field(default_factory=list)  # entries[i] ends before this byte of the file
    span_end: int = LEDGER_HEADER_BYTES  # where entries[0] begins

    @property
    def count(self) -> int:
        """How many entries were ever chained: the index of the newest one."""
        return self._spanned + len(self.entries)

    @property
    def head(self) -> tuple[int, bytes]:
        """(count, hash of the newest entry): what a segment that is begun now anchors."""
        if self.hashes:
            return self.count, self.hashes[-1]
        return self.count, self.span.last_hash if self.span is not None else NO_HASH

    @property
    def retired(self) -> list[RetiredSegment]:
        """The entries of single segments, oldest first: all that no span stands for."""
        return [entry for entry in self.entries if isinstance(entry, RetiredSegment)]

    @property
    def summaries(self) -> list[RetiredSpan | RetiredSegment]:
        """Everything that has a summary, in the order of the log."""
        return [*([self.span] if self.span is not None else []), *self.retired]

    @property
    def retired_count(self) -> int:
        """How many segments were ever retired."""
        in_span = self.span.summary["segments"] if self.span is not None else 0
        return int(in_span) + len(self.retired)

    @property
    def retired_through(self) -> int:
        """The newest LSN that was retired; 0: none was."""
        return self.summaries[-1].last_lsn if self.summaries else 0

    def hash_at(self, count: int) -> bytes | None:
        """The head's hash when there were `count` entries; None: not known, or not yet there."""
        if count == 0:
            return NO_HASH
        if self.span is not None and count == self._spanned:
            return self.span.last_hash
        at = count - self._spanned - 1
        return self.hashes[at] if 0 <= at < len(self.hashes) else None

    def is_behind_a_span(self, count: int) -> bool:
        """Whether `hash_at(count)` was known once, before a compaction replaced that entry."""
        return 0 < count < self._spanned

    @property
    def _spanned(self) -> int:
        return self.span.last_index if self.span is not None else 0


class Ledger:
    """The ledger of a log that is open for writing. Belongs to the thread that retires."""

    def __init__(self, disk: Disk, path: Path, log_id: bytes, content: LedgerContent) -> None:
        """Opens a file that `write_ledger_file` or `rewrite_ledger_file` has just made."""
        self.path = path
        self._disk = disk
        self._file: DiskFile = disk.open(path)
        self._seed = crc_seed(log_id)
        self._adopt(content)

    def _adopt(self, content: LedgerContent) -> None:
        # (entries, hash of the newest): replaced as one, since a rotation reads both.
        self.head = content.head
        self.retired_through = content.retired_through  # LSN
        self.size = content.valid_bytes
        self.held = len(content.entries) + (content.span is not None)  # entries in the file

    def append(self, retired: RetiredSegment) -> None:
        """Add an entry and sync it. Raises NoRoom (then nothing of it is there), OSError."""
        count, head_hash = self.head
        assert retired.index == count + 1
        payload = encode_ledger_entry(retired)
        entry = frame_ledger_entry(head_hash, payload, self._seed)
        append_whole(self._file, self.size, entry)
        self.head = (count + 1, entry_hash(head_hash, payload))
        self.retired_through = retired.last_lsn
        self.size += framed_bytes(payload)
        self.held += 1

    def replace(self, data: bytes) -> bool:
        """Put a file with these bytes in the place of this one, so that a crash leaves either.

        False: it could not be written, and the one that was there stays in use, unharmed. Raises
        OSError if it has its name and the directory cannot be synced: after a power cut the old
        one may be back, so nothing can be built on either.
        """
        temporary = self.path.with_name(self.path.name + ".new")
        try:
            file = self._disk.create(temporary)
            try:
                file.write(data)
                file.fdatasync()
                self._disk.rename(temporary, self.path)
            except OSError:
                file.close()
                raise
        except OSError:
            with contextlib.suppress(OSError):  # it takes space, and means nothing
                self._disk.unlink(temporary)
            return False
        old, self._file = self._file, file
        old.close()
        self._disk.fsync_directory(self.path.parent)
        self._adopt(parse_ledger(data, self.path))
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_ledger(disk: Disk, path: Path) -> LedgerContent:
    """Read a ledger as far as it is valid. Raises OSError, WalTooNew, WalDamaged (no ledger)."""
    return parse_ledger(disk.read(path), path)


def parse_ledger(data: bytes, path: Path) -> LedgerContent:
    """What the bytes of a ledger hold; `path` is for words. Raises WalTooNew, WalDamaged."""
    if len(data) < LEDGER_HEADER_BYTES:
        return LedgerContent(None, [], [], 0, len(data))
    header = decode_ledger_header(data)
    if header is None or header[0] == 0:
        raise WalDamaged(f"{path} does not begin as a ledger does; restore it from a copy")
    file_format, log_id = header
    if file_format > FORMAT_COMPACTED:
        raise WalTooNew(
            f"{path} has format {file_format} and this Gapless knows up to {FORMAT_COMPACTED}; "
            "install a newer Gapless"
        )
    compacted, seed = file_format == FORMAT_COMPACTED, crc_seed(log_id)
    entries: list[ChainedEntry] = []
    hashes: list[bytes] = []
    ends: list[int] = []
    span, span_payload = None, b""
    count, head, offset = 0, NO_HASH, LEDGER_HEADER_BYTES
    span_end = offset
    while (payload := payload_at(data, offset, head, seed)) is not None:
        entry = decode_ledger_entry(payload)
        if isinstance(entry, RetiredSpan) and compacted and not count:
            span, span_payload = entry, payload
            count, head = entry.last_index, entry.last_hash
            span_end = offset + framed_bytes(payload)
        elif (
            isinstance(entry, RetiredSegment) or (isinstance(entry, Compaction) and compacted)
        ) and entry.index == count + 1:
            count, head = count + 1, entry_hash(head, payload)
            entries.append(entry)
            hashes.append(head)
            ends.append(offset + framed_bytes(payload))
        else:
            break
        offset += framed_bytes(payload)
    fault = _fault_of_span(span, span_payload, entries) if compacted else None
    trailing = len(data) - offset
    return LedgerContent(
        log_id, entries, hashes, offset, trailing, span, fault, ends, span_end=span_end
    )


def write_ledger_file(disk: Disk, path: Path, log_id: bytes) -> LedgerContent:
    """Put an empty ledger in its place, synced."""
    header = encode_ledger_header(log_id)
    write_new_file(disk, path, header)
    return LedgerContent(log_id, [], [], len(header), 0)


def rewrite_ledger_file(disk: Disk, path: Path, content: LedgerContent) -> None:
    """Put the valid part of a ledger in its own place, synced: the page cache is not trusted."""
    renew_file(disk, path, disk.read(path, 0, content.valid_bytes))


def _fault_of_span(
    span: RetiredSpan | None, payload: bytes, entries: Sequence[ChainedEntry]
) -> str | None:
    """The newest Compaction vouches for the span: both were written in one piece."""
    voucher = next((one for one in reversed(entries) if isinstance(one, Compaction)), None)
    if span is None:
        return "the span that it has to begin with cannot be read"
    if voucher is None:
        return "the entry that vouches for its span cannot be read"
    told = (voucher.first_index, voucher.last_index, voucher.span_sha256)
    if told != (span.first_index, span.last_index, hashlib.sha256(payload).digest()):
        return f"its span is not the one that entry {voucher.index} vouches for"
    return None
