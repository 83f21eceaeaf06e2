"""docs/wal-format.md is enough: a reader written from it alone reads its example and a real log."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import cbor2

from gapless_gateway.wal import cursor as cursor_module
from gapless_gateway.wal.entries import CLASSES, Lost, Record, encode_payload
from gapless_gateway.wal.ledger_compaction import LedgerLimits
from tests.support.simulated_disk import SimulatedDisk
from tests.support.wal_history import STATE_DIR, STREAM, History, live

DOCUMENT = Path(__file__).parents[3] / "docs" / "wal-format.md"


def u(data: bytes) -> int:
    return int.from_bytes(data, "big")


def entries_of(segment: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(lsn, batch, kind, payload), by the tables of the document and nothing of ours."""
    assert segment[:8] == b"GAPLWAL\n"
    assert u(segment[8:10]) == 2
    length, seed = u(segment[12:16]), zlib.crc32(segment[16:24])
    assert u(segment[88:92]) == zlib.crc32(segment[:88], seed)
    assert u(segment[length - 4 : length]) == zlib.crc32(segment[92 : length - 4], seed)
    cbor2.loads(segment[92 : length - 4])
    at = length
    while at < len(segment):
        size = u(segment[at + 4 : at + 8])
        assert u(segment[at : at + 4]) == zlib.crc32(segment[at + 4 : at + size], seed)
        lsn, batch = u(segment[at + 8 : at + 16]), u(segment[at + 16 : at + 24])
        yield lsn, batch, segment[at + 24], segment[at + 25 : at + size]
        at += size


def example() -> bytes:
    lines = re.findall(r"^    ([0-9a-f]{6})  ([0-9a-f ]+)$", DOCUMENT.read_text(), re.MULTILINE)
    data = b""
    for offset, line in lines:
        assert int(offset, 16) == len(data)
        data += bytes.fromhex(line)
    return data


def test_the_example_reads_as_its_table_says() -> None:
    data = example()
    (_, _, kind, payload), (lsn, batch, lost_kind, lost) = entries_of(data)
    assert (kind, lost_kind, lsn, batch) == (1, 2, 2, 1)
    assert (payload[:4].hex(), u(payload[4:8]), payload[32]) == ("11223344", 7, 1)
    assert cbor2.loads(payload[37:]) == [1, 0, 1000, 0, {"t": 42}]
    assert cbor2.loads(lost) == [b"\x11\x22\x33\x44", 8, 9, 1, False, False, 1700000000124, 0]


def test_our_reader_opens_the_example() -> None:
    from gapless_gateway.wal.reader import Entry, read_directory

    disk = SimulatedDisk()
    path = STATE_DIR / "wal" / "0000000000000001.wal"
    disk.create(path).write(example())
    _, record, lost = read_directory(path.parent, disk=disk)
    assert isinstance(record, Entry)
    assert isinstance(record.entry, Record)
    assert isinstance(lost, Entry)
    assert isinstance(lost.entry, Lost)
    assert (record.entry.seq, lost.entry.last) == (7, 9)


def test_a_reader_from_the_document_reads_what_the_log_writes() -> None:
    disk, history = SimulatedDisk(), History()
    live(disk, history)
    found: dict[int, tuple[int, bytes]] = {}
    previous = 0
    for name in disk.list(STATE_DIR / "wal"):
        data = bytes(disk.content(STATE_DIR / "wal" / name))
        assert name == f"{u(data[24:32]):016x}.wal"
        assert previous in (0, u(data[32:40]))
        previous = u(data[24:32])
        found |= {lsn: (kind, payload) for lsn, _, kind, payload in entries_of(data)}
    assert found == {
        lsn: (entry.KIND, encode_payload(entry))
        for lsn, entry in history.appended.items()
        if lsn >= min(found)
    }
    check_ledger(bytes(disk.content(STATE_DIR / "ledger")))
    check_cursor(bytes(disk.content(STATE_DIR / "cursor")), history)


def check_ledger(data: bytes) -> None:
    assert data[:8] == b"GAPLLDG\n"
    seed, at, digest, due = zlib.crc32(data[12:20]), 24, bytes(32), 1
    assert u(data[20:24]) == zlib.crc32(data[:20], seed)
    file_format, vouched, kinds = u(data[8:10]), None, []
    while at < len(data):
        size = u(data[at + 4 : at + 8])
        assert u(data[at : at + 4]) == zlib.crc32(data[at + 4 : at + size], seed)
        assert data[at + 8 : at + 40] == digest
        digest = hashlib.sha256(data[at + 8 : at + size]).digest()
        payload = data[at + 40 : at + size]
        kind, index, *fields_ = cbor2.loads(payload)
        kinds.append(kind)
        if kind == 2:
            span, span_digest = fields_, hashlib.sha256(payload).digest()
            digest, due = span[4], span[0] + 1
            assert set(span[6]) - {"segments"} == set(SUMMARY_KEYS)
            assert all(len(row) == 9 for row in span[6]["streams"])
        else:
            assert index == due
            due += 1
        if kind == 3:
            vouched = fields_[2]
        if kind == 1:
            assert set(fields_[-1]) == set(SUMMARY_KEYS)
        at += size
    if file_format == 2:
        assert kinds[0] == 2
        assert vouched == span_digest
    assert kinds[1:].count(2) == 0
    assert set(kinds) <= ({1} if file_format == 1 else {1, 2, 3})
    assert kinds


SUMMARY_KEYS = (
    "from_ms", "to_ms", "kinds", "streams", "runs", "outages", "conflicts", "quarantined",
    "progress", "durable_histogram", "delivered_histogram",
)  # fmt: skip


def test_a_reader_from_the_document_reads_a_compacted_ledger() -> None:
    disk = SimulatedDisk()
    live(disk, History(), batches=30, ledger_limits=LedgerLimits(entries=6))
    data = bytes(disk.content(STATE_DIR / "ledger"))
    assert u(data[8:10]) == 2
    check_ledger(data)
    text = DOCUMENT.read_text()
    for key in (*SUMMARY_KEYS, "segments"):
        assert f"`{key}`" in text, key


def check_cursor(data: bytes, history: History) -> None:
    slots = [data[start : start + 65536] for start in (0, 65536)]
    slot = max(slots, key=lambda one: u(one[24:32]))
    count = u(slot[12:16])
    end = 48 + 8 * count
    assert slot[:8] == b"GAPLCUR\n"
    assert u(slot[end : end + 4]) == zlib.crc32(slot[:end], zlib.crc32(slot[16:24]))
    assert u(slot[32:40]) == history.stored["resume"]
    assert u(slot[40:48]) == history.stored["mark"]
    assert slot[48:52] == STREAM


def test_the_document_names_every_kind_with_its_fields() -> None:
    text = DOCUMENT.read_text()
    for cls in CLASSES[1:]:
        (row,) = re.findall(rf"^\| {cls.KIND} \| {cls.__name__} \| (.*) \|$", text, re.MULTILINE)
        outside = re.sub(r"\([^()]*\)", "", row)  # explanations stand in brackets
        named = [words.split()[0] for words in outside.split(", ")]
        assert named == [field.name for field in fields(cls)], cls.__name__


def test_the_document_states_the_limits_of_the_code() -> None:
    text = DOCUMENT.read_text()
    for limit in (
        cursor_module.STREAMS_MAX,
        cursor_module.SLOT_BYTES,
        2 * cursor_module.SLOT_BYTES,
    ):
        assert f"{limit:,}" in text, limit
