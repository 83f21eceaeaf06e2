"""Records that are kept aside: one that goes bad takes none of the others along."""

from __future__ import annotations

from pathlib import Path

from gapless_gateway.wal.disk import OsDisk
from gapless_gateway.wal.entries import Record
from gapless_gateway.wal.kept_records import keep_records, read_kept, write_kept

LOG_ID = b"\x01" * 8
STREAM = b"\x0a\x1b\x2c\x3d"


def record(seq: int) -> tuple[int, Record]:
    return seq + 100, Record(STREAM, seq, 1, -1, 1, 0, 0, b"\x80" * 40)


def test_what_stands_behind_a_bad_entry_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "records"
    write_kept(OsDisk(), path, LOG_ID, [record(1), record(2), record(3)])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # in the second one
    path.write_bytes(data)
    assert read_kept(OsDisk(), path, LOG_ID) == [record(1), record(3)]
    keep_records(OsDisk(), path, LOG_ID, [record(4)])
    assert read_kept(OsDisk(), path, LOG_ID) == [record(1), record(3), record(4)]
