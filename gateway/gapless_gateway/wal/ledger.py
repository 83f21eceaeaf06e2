"""The ledger: one hash-chained summary per retired segment, in one file that only grows.

An entry is synced before its segment is unlinked. The number of entries and the hash of the
newest stand in the header of every segment that is begun later, so that a ledger that was cut
short or rewritten is found. docs/wal-format.md has the bytes.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cbor2

from gapless_gateway.wal.disk import Disk, DiskFile, append_whole, renew_file, write_new_file
from gapless_gateway.wal.errors import WalDamaged, WalTooNew
from gapless_gateway.wal.format import crc_seed

LEDGER_MAGIC = b"GAPLLDG\n"
LEDGER_FORMAT = 1
NO_HASH = bytes(32)
KIND_SEGMENT = 1
LEDGER_ENTRY_BYTES_MAX = 16 * 1024 * 1024

_HEADER = struct.Struct(">8sHH8s")
_CRC = struct.Struct(">I")
_HEADER_BYTES = _HEADER.size + _CRC.size
# CRC, length of the whole entry, hash of the entry before; the CBOR payload follows.
_ENTRY = struct.Struct(">II32s")


@dataclass(frozen=True, slots=True)
class RetiredSegment:
    """One entry of the ledger."""

    index: int  # 1, 2, 3 ...
    first_lsn: int
    last_lsn: int  # first_lsn - 1 if the segment was empty
    segment_bytes: int
    segment_sha256: bytes
    retired_ms: int
    summary: dict[str, Any]  # docs/wal-format.md, "Summary"


@dataclass(frozen=True, slots=True)
class LedgerContent:
    """What a ledger file holds."""

    log_id: bytes | None  # None: the header is torn
    entries: list[RetiredSegment]
    hashes: list[bytes]  # hashes[i] is the hash of entries[i]
    valid_bytes: int
    trailing_bytes: int  # behind the last valid entry


class Ledger:
    """The ledger of a log that is open for writing."""

    def __init__(self, disk: Disk, path: Path, log_id: bytes, content: LedgerContent) -> None:
        """Opens a file that `write_ledger_file` or `rewrite_ledger_file` has just made."""
        self._file: DiskFile = disk.open(path)
        self._size = content.valid_bytes
        self._seed = crc_seed(log_id)
        # (entries, hash of the newest): replaced as one, since a rotation reads both.
        self.head = (len(content.entries), content.hashes[-1] if content.hashes else NO_HASH)
        self.last_first_lsn = content.entries[-1].first_lsn if content.entries else 0

    def append(self, retired: RetiredSegment) -> None:
        """Add an entry and sync it. Raises NoRoom (then nothing of it is there), OSError."""
        count, head_hash = self.head
        assert retired.index == count + 1
        payload = encode_retired(retired)
        body = struct.pack(">I", _ENTRY.size + len(payload)) + head_hash + payload
        entry = _CRC.pack(zlib.crc32(body, self._seed)) + body
        append_whole(self._file, self._size, entry)
        self._size += len(entry)
        self.head = (count + 1, entry_hash(head_hash, payload))
        self.last_first_lsn = retired.first_lsn

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def entry_hash(previous_hash: bytes, payload: bytes) -> bytes:
    """The hash of a ledger entry: over the one before it and its own payload."""
    return hashlib.sha256(previous_hash + payload).digest()


def encode_retired(retired: RetiredSegment) -> bytes:
    """The CBOR payload of an entry."""
    return cbor2.dumps(
        [
            KIND_SEGMENT,
            retired.index,
            retired.first_lsn,
            retired.last_lsn,
            retired.segment_bytes,
            retired.segment_sha256,
            retired.retired_ms,
            retired.summary,
        ]
    )


def encode_ledger_header(log_id: bytes) -> bytes:
    """The bytes with which a ledger begins."""
    header = _HEADER.pack(LEDGER_MAGIC, LEDGER_FORMAT, 0, log_id)
    return header + _CRC.pack(zlib.crc32(header, crc_seed(log_id)))


def read_ledger(disk: Disk, path: Path) -> LedgerContent:
    """Read a ledger as far as it is valid. Raises OSError, WalTooNew, WalDamaged (no ledger)."""
    data = disk.read(path)
    if len(data) < _HEADER_BYTES:
        return LedgerContent(None, [], [], 0, len(data))
    magic, file_format, zero, log_id = _HEADER.unpack_from(data)
    if magic == LEDGER_MAGIC and file_format > LEDGER_FORMAT:
        raise WalTooNew(
            f"{path} has format {file_format} and this Gapless knows up to {LEDGER_FORMAT}; "
            "install a newer Gapless"
        )
    crc = _CRC.unpack_from(data, _HEADER.size)[0]
    if magic != LEDGER_MAGIC or zero or crc != zlib.crc32(data[: _HEADER.size], crc_seed(log_id)):
        raise WalDamaged(f"{path} does not begin as a ledger does; restore it from a copy")
    entries: list[RetiredSegment] = []
    hashes: list[bytes] = []
    offset = _HEADER_BYTES
    for payload, digest, end in _valid_entries(data, offset, crc_seed(log_id)):
        kind, *values = cbor2.loads(payload)
        if kind != KIND_SEGMENT or values[0] != len(entries) + 1:
            break
        entries.append(RetiredSegment(*values))
        hashes.append(digest)
        offset = end
    return LedgerContent(log_id, entries, hashes, offset, len(data) - offset)


def write_ledger_file(disk: Disk, path: Path, log_id: bytes) -> LedgerContent:
    """Put an empty ledger in its place, synced."""
    header = encode_ledger_header(log_id)
    write_new_file(disk, path, header)
    return LedgerContent(log_id, [], [], len(header), 0)


def rewrite_ledger_file(disk: Disk, path: Path, content: LedgerContent) -> None:
    """Put the valid part of a ledger in its own place, synced: the page cache is not trusted."""
    renew_file(disk, path, disk.read(path, 0, content.valid_bytes))


def _valid_entries(data: bytes, offset: int, seed: int) -> Iterator[tuple[bytes, bytes, int]]:
    """(payload, hash, end) of every entry up to the first that fails its CRC or the chain."""
    head = NO_HASH
    while offset + _ENTRY.size <= len(data):
        crc, length, previous = _ENTRY.unpack_from(data, offset)
        end = offset + length
        if not _ENTRY.size <= length <= LEDGER_ENTRY_BYTES_MAX or end > len(data):
            return
        if crc != zlib.crc32(data[offset + _CRC.size : end], seed) or previous != head:
            return
        payload = data[offset + _ENTRY.size : end]
        head = entry_hash(previous, payload)
        yield payload, head, end
        offset = end
