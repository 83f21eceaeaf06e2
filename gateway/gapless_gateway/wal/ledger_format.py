"""The entries of the ledger and their bytes (docs/wal-format.md, "The ledger").

An entry has an index and is chained: it names the hash of the one before it. A span has no index
of its own: it stands for the entries that a compaction replaced, at the beginning of the file, and
the entry behind it is chained to the last one that it stands for.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import cbor2

from gapless_gateway.wal.format import crc_seed

LEDGER_MAGIC = b"GAPLLDG\n"
FORMAT_PLAIN = 1  # segments only, as version 0.1.0 wrote and reads it
FORMAT_COMPACTED = 2  # begins with a span
NO_HASH = bytes(32)
KIND_SEGMENT = 1
KIND_SPAN = 2
KIND_COMPACTION = 3
LEDGER_ENTRY_BYTES_MAX = 16 * 1024 * 1024

_HEADER = struct.Struct(">8sHH8s")
_CRC = struct.Struct(">I")
LEDGER_HEADER_BYTES = _HEADER.size + _CRC.size
# CRC, length of the whole entry, hash of the entry before; the CBOR payload follows.
_ENTRY = struct.Struct(">II32s")


@dataclass(frozen=True, slots=True)
class RetiredSegment:
    """A segment that was delivered and freed."""

    index: int  # 1, 2, 3 ... over all chained entries
    first_lsn: int
    last_lsn: int  # first_lsn - 1 if the segment was empty
    segment_bytes: int
    segment_sha256: bytes
    retired_ms: int  # UTC since 1970
    summary: dict[str, Any]  # docs/wal-format.md, "Summary"


@dataclass(frozen=True, slots=True)
class RetiredSpan:
    """What a compaction left of the entries first_index..last_index."""

    first_index: int
    last_index: int
    first_lsn: int
    last_lsn: int
    segment_bytes: int  # the sum of all its segments
    last_hash: bytes  # of the entry with last_index: the chain goes on from it
    compacted_ms: int  # UTC since 1970
    summary: dict[str, Any]  # docs/wal-format.md, "Merged summary"


@dataclass(frozen=True, slots=True)
class Compaction:
    """The chained entry that vouches for a span: later segment headers anchor it."""

    index: int
    first_index: int
    last_index: int
    span_sha256: bytes  # of the span's payload
    compacted_ms: int  # UTC since 1970


ChainedEntry = RetiredSegment | Compaction

_CLASSES: dict[int, type[RetiredSegment | RetiredSpan | Compaction]] = {
    KIND_SEGMENT: RetiredSegment,
    KIND_SPAN: RetiredSpan,
    KIND_COMPACTION: Compaction,
}
_KINDS = {cls: kind for kind, cls in _CLASSES.items()}


def entry_hash(previous_hash: bytes, payload: bytes) -> bytes:
    """The hash of a ledger entry: over the one before it and its own payload."""
    return hashlib.sha256(previous_hash + payload).digest()


def encode_ledger_entry(entry: ChainedEntry | RetiredSpan) -> bytes:
    """The CBOR payload of an entry: its kind and then its fields, in order."""
    return cbor2.dumps([_KINDS[type(entry)], *(getattr(entry, name) for name in entry.__slots__)])


def decode_ledger_entry(payload: bytes) -> ChainedEntry | RetiredSpan | None:
    """The entry that a payload holds; None if it is none of ours."""
    try:
        kind, *values = cbor2.loads(payload)
        return _CLASSES[kind](*values)
    except (cbor2.CBORDecodeError, KeyError, TypeError, ValueError):
        return None


def frame_ledger_entry(previous_hash: bytes, payload: bytes, seed: int) -> bytes:
    """An entry as it stands on disk; `seed` is the CRC seed of the log."""
    body = struct.pack(">I", _ENTRY.size + len(payload)) + previous_hash + payload
    return _CRC.pack(zlib.crc32(body, seed)) + body


def payload_at(data: bytes, offset: int, previous_hash: bytes, seed: int) -> bytes | None:
    """The payload of the entry at `offset`; None if its CRC or its place in the chain fails."""
    if offset + _ENTRY.size > len(data):
        return None
    crc, length, previous = _ENTRY.unpack_from(data, offset)
    end = offset + length
    if not _ENTRY.size <= length <= LEDGER_ENTRY_BYTES_MAX or end > len(data):
        return None
    if crc != zlib.crc32(memoryview(data)[offset + _CRC.size : end], seed):
        return None
    return data[offset + _ENTRY.size : end] if previous == previous_hash else None


def framed_bytes(payload: bytes) -> int:
    """How many bytes an entry with this payload takes on disk."""
    return _ENTRY.size + len(payload)


def encode_ledger_header(log_id: bytes, file_format: int = FORMAT_PLAIN) -> bytes:
    """The bytes with which a ledger begins."""
    header = _HEADER.pack(LEDGER_MAGIC, file_format, 0, log_id)
    return header + _CRC.pack(zlib.crc32(header, crc_seed(log_id)))


def decode_ledger_header(data: bytes) -> tuple[int, bytes] | None:
    """(format, log_id) out of at least LEDGER_HEADER_BYTES; None if it is no ledger's header.

    The format is told without a look at the CRC if it is a newer one: that may keep it elsewhere.
    """
    magic, file_format, zero, log_id = _HEADER.unpack_from(data)
    if magic != LEDGER_MAGIC:
        return None
    crc = _CRC.unpack_from(data, _HEADER.size)[0]
    whole = not zero and crc == zlib.crc32(data[: _HEADER.size], crc_seed(log_id))
    return (file_format, log_id) if whole or file_format > FORMAT_COMPACTED else None
