"""The bytes of a segment: its header and its entries. docs/wal-format.md tells it in prose.

All numbers are big-endian. Every CRC is CRC-32 (ISO-HDLC, zlib's) that starts from the CRC of
the log_id, so that bytes of another log never pass for ours.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from gapless_gateway.wal.entries import Entry, Record, encode_payload

SEGMENT_MAGIC = b"GAPLWAL\n"
# 2: kinds 13 to 15, and an account of version 2 in the header. Format 1 is read as it is.
SEGMENT_FORMAT = 2
SEGMENT_SUFFIX = ".wal"

# magic, format, zero, header bytes, log_id, first LSN, first LSN of the segment before (0: none),
# created_ms, ledger entries, hash of the newest of them; then the CRC of these 88 bytes.
_FIXED = struct.Struct(">8sHHI8sQQqQ32s")
_CRC = struct.Struct(">I")
HEADER_FIXED_BYTES = _FIXED.size + _CRC.size
HEADER_BYTES_MIN = HEADER_FIXED_BYTES + _CRC.size
HEADER_BYTES_MAX = 64 * 1024 * 1024

# CRC, length of the whole entry, LSN, first LSN of its batch, kind.
ENTRY_HEADER = struct.Struct(">IIQQB")
ENTRY_HEADER_BYTES = ENTRY_HEADER.size
ENTRY_BYTES_MAX = 256 * 1024
_ENTRY_BODY = struct.Struct(">IQQB")
_RECORD_BODY = struct.Struct(">IQQB4sIqqqBI")
_RECORD_BYTES_MIN = _CRC.size + _RECORD_BODY.size
_BODY_BYTES_MAX = ENTRY_BYTES_MAX - _CRC.size


class HeaderDamagedError(ValueError):
    """A segment's header is short or fails its CRC."""


class FormatTooNewError(ValueError):
    """A file of a format that this code does not know; `format` is its number."""

    def __init__(self, file_format: int) -> None:
        super().__init__(f"format {file_format}")
        self.format = file_format


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What the first bytes of a segment say."""

    log_id: bytes
    first_lsn: int
    previous_first_lsn: int  # 0: this is the first segment of the log
    created_ms: int
    ledger_count: int
    ledger_hash: bytes  # 32 bytes, zero if ledger_count is 0
    snapshot: bytes = b""  # CBOR of the account before first_lsn; empty if only the fixed part
    format: int = SEGMENT_FORMAT


def crc_seed(log_id: bytes) -> int:
    """Where every CRC of this log starts."""
    return zlib.crc32(log_id)


def segment_name(first_lsn: int) -> str:
    """The file name of the segment that begins with this LSN; names sort as LSNs do."""
    return f"{first_lsn:016x}{SEGMENT_SUFFIX}"


def first_lsn_of_name(name: str) -> int | None:
    """The first LSN that a file name promises, or None if it is not the name of a segment."""
    stem, dot, suffix = name.partition(".")
    if dot + suffix != SEGMENT_SUFFIX or len(stem) != 16 or stem.strip("0123456789abcdef"):
        return None
    return int(stem, 16)


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The header's bytes. Raises ValueError for a snapshot beyond HEADER_BYTES_MAX."""
    length = HEADER_BYTES_MIN + len(header.snapshot)
    if length > HEADER_BYTES_MAX:
        raise ValueError(f"a segment header of {length} bytes is over the limit")
    seed = crc_seed(header.log_id)
    fixed = _FIXED.pack(
        SEGMENT_MAGIC,
        SEGMENT_FORMAT,
        0,
        length,
        header.log_id,
        header.first_lsn,
        header.previous_first_lsn,
        header.created_ms,
        header.ledger_count,
        header.ledger_hash,
    )
    return b"".join(
        (
            fixed,
            _CRC.pack(zlib.crc32(fixed, seed)),
            header.snapshot,
            _CRC.pack(zlib.crc32(header.snapshot, seed)),
        )
    )


def decode_fixed_header(data: bytes) -> tuple[SegmentHeader, int]:
    """The header without its snapshot, and the length of the whole header in bytes.

    Raises HeaderDamagedError, FormatTooNewError. The format number is looked at before the CRC:
    a newer format may keep its CRC elsewhere.
    """
    if data[:8] != SEGMENT_MAGIC or len(data) < 10:
        raise HeaderDamagedError("it does not begin as a segment does")
    file_format = int.from_bytes(data[8:10], "big")
    if file_format > SEGMENT_FORMAT:
        raise FormatTooNewError(file_format)
    if len(data) < HEADER_FIXED_BYTES:
        raise HeaderDamagedError("its header is cut short")
    _, _, zero, length, log_id, first, previous, created_ms, count, digest = _FIXED.unpack_from(
        data
    )
    (crc,) = _CRC.unpack_from(data, _FIXED.size)
    if crc != zlib.crc32(data[: _FIXED.size], crc_seed(log_id)) or zero or file_format == 0:
        raise HeaderDamagedError("its header fails its CRC")
    if not HEADER_BYTES_MIN <= length <= HEADER_BYTES_MAX:
        raise HeaderDamagedError("its header has an impossible length")
    header = SegmentHeader(log_id, first, previous, created_ms, count, digest, format=file_format)
    return header, length


def decode_snapshot(data: bytes, header: SegmentHeader) -> bytes:
    """The snapshot out of what follows the fixed part of the header. Raises HeaderDamagedError."""
    if len(data) < _CRC.size:
        raise HeaderDamagedError("its snapshot of the account is cut short")
    snapshot = data[: -_CRC.size]
    if _CRC.unpack_from(data, len(snapshot))[0] != zlib.crc32(snapshot, crc_seed(header.log_id)):
        raise HeaderDamagedError("its snapshot of the account fails its CRC")
    return snapshot


def encode_entry(lsn: int, batch_first_lsn: int, entry: Entry, seed: int) -> bytes:
    """One entry as it stands on disk. Raises ValueError beyond ENTRY_BYTES_MAX: a bug of ours."""
    return encode_entries(lsn, batch_first_lsn, (entry,), seed)[0]


def encode_entries(
    first_lsn: int, batch_first_lsn: int, entries: Sequence[Entry], seed: int
) -> list[bytes]:
    """Entries with LSNs from `first_lsn` on, each as `encode_entry` makes it."""
    pack_record, pack_crc, crc32 = _RECORD_BODY.pack, _CRC.pack, zlib.crc32
    encoded: list[bytes] = []
    for lsn, entry in enumerate(entries, first_lsn):
        if type(entry) is Record:
            # The hot path: one pack, one join and one CRC a record.
            data = entry.data
            body = (
                pack_record(
                    _RECORD_BYTES_MIN + len(data),
                    lsn,
                    batch_first_lsn,
                    1,
                    entry.stream,
                    entry.seq,
                    entry.rx_ms,
                    entry.t_lo_ms,
                    entry.t_hi_ms,
                    entry.t_source,
                    entry.outage,
                )
                + data
            )
        else:
            payload = encode_payload(entry)
            length = ENTRY_HEADER_BYTES + len(payload)
            body = _ENTRY_BODY.pack(length, lsn, batch_first_lsn, entry.KIND) + payload
        if len(body) > _BODY_BYTES_MAX:
            raise ValueError(f"an entry of {len(body) + _CRC.size} bytes is over {ENTRY_BYTES_MAX}")
        encoded.append(pack_crc(crc32(body, seed)) + body)
    return encoded


def entry_is_valid(data: bytes, offset: int, end: int, seed: int) -> bool:
    """Whether a whole entry with a good CRC stands at `offset` of `data[:end]`."""
    if offset + ENTRY_HEADER_BYTES > end:
        return False
    crc, length, lsn, batch_first_lsn, kind = ENTRY_HEADER.unpack_from(data, offset)
    if not ENTRY_HEADER_BYTES <= length <= ENTRY_BYTES_MAX or offset + length > end:
        return False
    if kind == 0 or batch_first_lsn == 0 or batch_first_lsn > lsn:
        return False
    return bool(crc == zlib.crc32(memoryview(data)[offset + 4 : offset + length], seed))
