"""Bit rot: which bit flips, and what the invariants have to know of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from gapless_gateway.wal.entries import Gone, Lost, Quarantined, decode_payload
from gapless_gateway.wal.format import (
    ENTRY_HEADER,
    ENTRY_HEADER_BYTES,
    crc_seed,
    entry_is_valid,
)
from tests.sim.faults import LEDGER_ROTS
from tests.sim.invariants import PATHS, numbers_of
from tests.sim.truth import Number, Truth
from tests.support.simulated_disk import SimulatedDisk

FORMAT_BYTES = range(8, 10)  # of every kind of file
KEPT_HEADER_BYTES = 24


def rot_somewhere(
    disk: SimulatedDisk, truth: Truth, rng: random.Random, held: set[Number]
) -> str | None:
    """Flip one bit; says where, or None if there is nothing on the disk yet.

    Often in a record that its board still holds (`held`), which can be asked for it again.
    """
    files = [path for path in sorted(disk.names) if _may_rot(disk, path)]
    segments = [path for path in files if path.parent == PATHS.segments]
    if segments and rng.random() < 0.75:
        files = segments
    if not files:
        return None
    found = [
        (path, offset)
        for path in segments
        for offset in offsets_of(held, truth, bytes(disk.names[path].durable))
    ]
    path, chosen = rng.choice(files), rng.random()
    size = min(len(disk.names[path].durable), len(disk.names[path].cached))
    if found and chosen < 0.5:  # of the older half: the last batch may be taken for a torn tail
        path, offset = rng.choice(found[: len(found) // 2 + 1])
        offset += rng.randrange(60)
    elif path == PATHS.cursor:
        offset = rng.choice((0, 65536)) + rng.randrange(60)
    else:
        offset = rng.randrange(size)
    rot(disk, truth, path, offset, rng.randrange(8))
    return f"{path.name}[{offset}]"


def rot(disk: SimulatedDisk, truth: Truth, path: Path, offset: int, bit: int) -> None:
    """Flip this bit, and write down which entries it hits."""
    data = bytes(disk.names[path].durable)
    if path.parent == PATHS.segments:
        newest = max(one for one in disk.names if one.suffix == ".wal")
        if offset < int.from_bytes(data[12:16]):
            truth.damaged_headers.add(path)
        _note_entries(truth, data, offset, 0)
    elif path == PATHS.header_copy:
        truth.damaged_headers.add(path)
    elif path == PATHS.cursor:
        truth.cursor_hits += 1
    elif path == PATHS.kept_records:
        _note_entries(truth, data, offset, KEPT_HEADER_BYTES)
        truth.damaged_kept |= offset < KEPT_HEADER_BYTES
    if offset in FORMAT_BYTES or (path == PATHS.cursor and offset - 65536 in FORMAT_BYTES):
        truth.damaged_formats.add(path)
    disk.rot(path, offset, bit)
    if path.parent == PATHS.segments and path == newest:
        _note_end(truth, bytes(disk.names[path].durable), int(path.stem, 16))


def offsets_of(numbers: set[Number], truth: Truth, data: bytes) -> list[int]:
    """Where the entries begin that are about one of these numbers."""
    return [
        at
        for at, _, lsn, _ in _entries(truth.log_id, data, 0)
        if any(numbers & set(numbers_of(one)) for one in truth.appended.get(lsn, ()))
    ]


def _may_rot(disk: SimulatedDisk, path: Path) -> bool:
    if path == PATHS.ledger and not LEDGER_ROTS:
        return False
    inode = disk.names[path]
    return bool(inode.durable) and bool(inode.cached) and not path.name.endswith(".new")


def _note_entries(truth: Truth, data: bytes, offset: int, start: int) -> None:
    for at, length, lsn, _ in _entries(truth.log_id, data, start):
        if at <= offset < at + length:
            kind = data[at + ENTRY_HEADER_BYTES - 1]
            entry = decode_payload(kind, data[at + ENTRY_HEADER_BYTES : at + length])
            last_lsn = entry.last_lsn if isinstance(entry, Gone) else lsn
            truth.may_be_gone |= set(range(lsn, last_lsn + 1))
            truth.hit_numbers |= set(numbers_of(entry))
            if isinstance(entry, Quarantined):
                truth.unquarantined.add((entry.stream, entry.seq))
            if isinstance(entry, Lost):
                truth.hit_losts |= set(numbers_of(entry))


def _note_end(truth: Truth, data: bytes, first_lsn: int) -> None:
    """What lies behind a hit that no later batch proves to have been durable may be cut off."""
    newest_batch = max((batch for _, _, _, batch in _entries(truth.log_id, data, 0)), default=0)
    ends = [one for one in truth.may_be_gone if one >= max(first_lsn, newest_batch)]
    if ends:
        truth.may_be_cut |= set(range(min(ends), max(truth.appended) + 1))


def _entries(log_id: bytes, data: bytes, start: int) -> Iterator[tuple[int, int, int, int]]:
    """(offset, length, LSN, batch) of all entries that can be read."""
    seed = crc_seed(log_id)
    at = start
    while at < len(data):
        if not entry_is_valid(data, at, len(data), seed):
            at += 1
            continue
        _, length, lsn, batch, _ = ENTRY_HEADER.unpack_from(data, at)
        yield at, length, lsn, batch
        at += length
