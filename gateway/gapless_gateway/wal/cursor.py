"""The cursor: how far delivery has come, in one small file that is overwritten in place.

Two slots, each with a CRC; the next state goes over the older one and is synced. A slot that a
power cut tore fails its CRC, and the other one, the state before, holds. It cannot be told from
one that went bad after it was synced, and then more may have been sent than the other one says: so
all that is stored counts as perhaps sent (recovery.py). docs/wal-format.md has the bytes.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from gapless_gateway.wal.disk import Disk, DiskFile, NoRoom, is_full, write_new_file
from gapless_gateway.wal.errors import WalFailed, WalFull, WalTooNew
from gapless_gateway.wal.format import crc_seed

CURSOR_MAGIC = b"GAPLCUR\n"
CURSOR_FORMAT = 1
# The slots are this far apart, so that no sector, page or flash block of common size holds both.
SLOT_BYTES = 64 * 1024

# magic, format, zero, streams, log_id, generation, resume LSN, send mark LSN
_SLOT = struct.Struct(">8sHHI8sQQQ")
_STREAM = struct.Struct(">4sI")
_CRC = struct.Struct(">I")
STREAMS_MAX = (SLOT_BYTES - _SLOT.size - _CRC.size) // _STREAM.size


class Cursor:
    """How far delivery has come. Set the fields, then `store()`; one thread at a time."""

    def __init__(self, log_id: bytes) -> None:
        self.log_id = log_id
        # stream (4 bytes) -> every seq up to this one was delivered, or needs no delivery
        self.delivered_through: dict[bytes, int] = {}
        self.resume_lsn = 1  # every entry below needs no sending any more
        self.send_mark_lsn = 0  # nothing above was ever sent
        self.generation = 0
        # Read from one slot while the other holds something unreadable, which may be newer.
        self.may_be_old = False
        self._file: DiskFile | None = None
        self._failed = False

    def store(self) -> None:
        """Write the fields to disk; blocking, one write and one sync.

        Raises WalFull if there is no room, which a later try may find; WalFailed, once and for
        ever, if the disk fails. In both cases the slot before still holds.
        """
        if self._failed or self._file is None:
            raise WalFailed("the cursor cannot be stored any more; restart the gateway")
        data = encode_slot(self, self.generation + 1)
        try:
            self._file.write_at((self.generation + 1) % 2 * SLOT_BYTES, data)
            self._file.fdatasync()
        except OSError as error:
            if is_full(error):
                raise WalFull("there is no room for the cursor") from error
            self._failed = True
            raise WalFailed(
                f"the cursor cannot be stored: {error.strerror or error}; "
                "check the disk, then restart the gateway"
            ) from error
        self.generation += 1

    def attach(self, disk: Disk, path: Path) -> None:
        """Open the file to store into; put it in its place first if need be. Raises OSError."""
        self._file = disk.open(path)

    def close(self) -> None:
        """Close the file; what was not stored is not stored."""
        if self._file is not None:
            self._file.close()
            self._file = None


def encode_slot(cursor: Cursor, generation: int) -> bytes:
    """One slot as it stands on disk. Raises ValueError beyond STREAMS_MAX."""
    streams = dict(cursor.delivered_through)
    if len(streams) > STREAMS_MAX:
        raise ValueError(f"a cursor of {len(streams)} streams is over {STREAMS_MAX}")
    data = _SLOT.pack(
        CURSOR_MAGIC,
        CURSOR_FORMAT,
        0,
        len(streams),
        cursor.log_id,
        generation,
        cursor.resume_lsn,
        cursor.send_mark_lsn,
    ) + b"".join(_STREAM.pack(stream, through) for stream, through in sorted(streams.items()))
    return data + _CRC.pack(zlib.crc32(data, crc_seed(cursor.log_id)))


def decode_slot(data: bytes) -> Cursor | None:
    """The cursor that a slot holds, or None if it holds none. Raises WalTooNew."""
    if len(data) < _SLOT.size + _CRC.size or data[:8] != CURSOR_MAGIC:
        return None
    _, file_format, zero, count, log_id, generation, resume, mark = _SLOT.unpack_from(data)
    end = _SLOT.size + count * _STREAM.size
    if file_format > CURSOR_FORMAT:
        raise WalTooNew(
            f"the cursor has format {file_format} and this Gapless knows up to {CURSOR_FORMAT}; "
            "install a newer Gapless"
        )
    if zero or count > STREAMS_MAX or len(data) < end + _CRC.size:
        return None
    if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end], crc_seed(log_id)):
        return None
    cursor = Cursor(log_id)
    cursor.generation, cursor.resume_lsn, cursor.send_mark_lsn = generation, resume, mark
    cursor.delivered_through = dict(_STREAM.iter_unpack(data[_SLOT.size : end]))
    return cursor


def read_cursor(disk: Disk, path: Path) -> Cursor | None:
    """The newer valid slot of the file; None if neither holds. Raises OSError, WalTooNew."""
    data = disk.read(path)
    halves = (data[:SLOT_BYTES], data[SLOT_BYTES:])
    slots = [decode_slot(half) for half in halves]
    valid = [slot for slot in slots if slot is not None]
    newest = max(valid, key=lambda slot: slot.generation, default=None)
    if newest is not None:
        newest.may_be_old = any(
            slot is None and any(half) for slot, half in zip(slots, halves, strict=True)
        )
    return newest


def read_cursor_of(disk: Disk, path: Path, log_id: bytes) -> Cursor | None:
    """The cursor of this log; None if there is none that can be read. Raises OSError, WalTooNew."""
    try:
        cursor = read_cursor(disk, path)
    except FileNotFoundError:
        return None
    return cursor if cursor is not None and cursor.log_id == log_id else None


def renew_cursor_file(disk: Disk, path: Path, cursor: Cursor) -> None:
    """Write the cursor anew, synced, and attach it to its file.

    On a disk without room for a second file the next slot of the old one has to do. Raises OSError.
    """
    try:
        write_cursor_file(disk, path, cursor)
        cursor.attach(disk, path)
    except NoRoom as error:
        cursor.attach(disk, path)
        try:
            cursor.store()
        except WalFull as full:
            raise error from full


def write_cursor_file(disk: Disk, path: Path, cursor: Cursor) -> None:
    """Put a whole cursor file in its place, synced, with the other slot empty."""
    cursor.generation += 2 - cursor.generation % 2  # an even generation lies in the first slot
    write_new_file(disk, path, encode_slot(cursor, cursor.generation).ljust(2 * SLOT_BYTES, b"\0"))
