"""Quarantined records whose segments were freed: kept aside until their owner decides.

One file, `quarantine/records`, that begins as the ledger does (another magic) and goes on with
entries as they stand in a segment, each with its own LSN. Appended and synced before the segment
that held them is unlinked; rewritten whole when the owner has decided.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from pathlib import Path

from gapless_gateway.wal.disk import Disk, write_new_file
from gapless_gateway.wal.entries import Record, decode_payload
from gapless_gateway.wal.errors import WalTooNew
from gapless_gateway.wal.format import (
    ENTRY_HEADER,
    ENTRY_HEADER_BYTES,
    crc_seed,
    encode_entry,
    entry_is_valid,
)

KEPT_MAGIC = b"GAPLKPT\n"
KEPT_FORMAT = 1
# magic, format, zero, log_id; then the CRC of these 20 bytes.
_HEADER = struct.Struct(">8sHH8s")
_HEADER_BYTES = _HEADER.size + 4

Kept = tuple[int, Record]  # (LSN, record)


def read_kept(disk: Disk, path: Path, log_id: bytes) -> list[Kept]:
    """All records that are kept, in the order of their LSNs; what cannot be read is left out.

    Raises WalTooNew, OSError; a file that is not there holds none.
    """
    try:
        data = disk.read(path)
    except FileNotFoundError:
        return []
    seed = crc_seed(log_id)
    if len(data) < _HEADER_BYTES or data[:8] != KEPT_MAGIC:
        return []
    file_format = int.from_bytes(data[8:10])
    if file_format > KEPT_FORMAT:
        raise WalTooNew(
            f"{path} has format {file_format} and this Gapless knows up to {KEPT_FORMAT}; "
            "install a newer Gapless"
        )
    kept: dict[int, Record] = {}
    offset = _HEADER_BYTES
    while offset < len(data):
        if not entry_is_valid(data, offset, len(data), seed):
            offset += 1  # what went bad must not take along what stands behind it
            continue
        _, length, lsn, _, kind = ENTRY_HEADER.unpack_from(data, offset)
        entry = decode_payload(kind, data[offset + ENTRY_HEADER_BYTES : offset + length])
        if isinstance(entry, Record):
            kept[lsn] = entry  # the same again: a crash came between this and the unlinking
        offset += length
    return sorted(kept.items())


def write_kept(disk: Disk, path: Path, log_id: bytes, kept: Collection[Kept]) -> None:
    """Put the file in its place, synced, with these records. Raises OSError."""
    seed = crc_seed(log_id)
    header = _HEADER.pack(KEPT_MAGIC, KEPT_FORMAT, 0, log_id)
    entries = [encode_entry(lsn, lsn, record, seed) for lsn, record in sorted(kept)]
    crc = zlib.crc32(header, seed).to_bytes(4)
    write_new_file(disk, path, b"".join((header, crc, *entries)))


def keep_records(disk: Disk, path: Path, log_id: bytes, records: Collection[Kept]) -> None:
    """Add records to those that are kept; synced when it returns. Raises OSError, WalTooNew."""
    kept = dict(read_kept(disk, path, log_id))
    kept.update(records)
    write_kept(disk, path, log_id, list(kept.items()))
