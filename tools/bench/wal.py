"""`wal`: durable ingest, the log's own cost, recovery and memory with a large backlog."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.backlog import begin_log, open_s, read_all_s, record_entry, write_backlog
from bench.boards import Gateway, Played, Recording, record_boards
from bench.disks import BenchDisk, sync_with_floor
from bench.gateway_memory import gateway_memory_bytes
from bench.measure import Row, at_least, at_most, interleaved, median_ratio, say
from gapless_gateway.wal.entries import Record, encode_payload
from gapless_gateway.wal.log import Log

FLOOR_S = 0.004
RECORDS_PER_COMMIT = (256, 1024)
INGEST_GOALS = {256: 0.95, 1024: 0.90}
SQLITE_GOALS = {256: 1.3, 1024: 2.0}
CPU_GOAL_US = 3.0
OPEN_GOAL_S = 1.0
FLAT_GOAL = 1.25
READ_ALL_GOAL = 0.1
SMALL_BACKLOG_RECORDS = 100_000
MEMORY_GOAL = 1.1


def add_options(parser: argparse._ArgumentGroup) -> None:
    """Add the options of this bench."""
    parser.add_argument("--records", type=int, default=10_000_000, help="of backlog")
    parser.add_argument("--commits", type=int, default=80, help="in each round of ingest")
    parser.add_argument("--rounds", type=int, default=7, help="of each comparison")
    parser.add_argument("--dir", type=Path, help="for temporary folders, 1 GB by default")


def measure(options: argparse.Namespace) -> list[Row]:
    """Measure everything; the rows in the order of the table."""
    rows = [_ingest_row(count, options) for count in RECORDS_PER_COMMIT]
    rows.append(_cpu_row(options))
    rows += [_sqlite_row(count, options) for count in RECORDS_PER_COMMIT]
    return rows + _backlog_rows(options)


@contextmanager
def _folder(options: argparse.Namespace) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="gapless-bench-", dir=options.dir))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


# -- durable ingest against the raw disk


def _ingest_row(per_commit: int, options: argparse.Namespace) -> Row:
    what = f"durable ingest / raw write + fdatasync, {per_commit} records a commit"
    say(f"{what} ...")
    recordings = record_boards(per_commit, options.commits)
    with _folder(options) as folder:
        played = _play(folder / "first", recordings)  # warms up, and gives the bytes to compare
        batches = _in_equal_parts(played.written, max(1, played.records // per_commit))
        numbers = itertools.count()

        def ours_s() -> float:
            again = _play(folder / f"state-{next(numbers)}", recordings)
            return again.elapsed_s / again.records

        def raw_s() -> float:
            return _write_raw_s(folder / "raw", batches) / played.records

        took = interleaved({"ours": ours_s, "raw": raw_s}, options.rounds)
    say(
        f"    {1 / statistics.median(took['ours']):,.0f} records/s against "
        f"{1 / statistics.median(took['raw']):,.0f}, in commits of "
        f"{played.records / played.batches:.0f} records"
    )
    return at_least(what, median_ratio(took["raw"], took["ours"]), INGEST_GOALS[per_commit])


def _play(state_dir: Path, recordings: list[Recording]) -> Played:
    played = asyncio.run(Gateway(state_dir, BenchDisk(FLOOR_S), recordings).play())
    shutil.rmtree(state_dir)
    return played


def _in_equal_parts(pieces: list[bytes], count: int) -> list[bytes]:
    data = b"".join(pieces)
    size = -(-len(data) // count)
    return [data[at : at + size] for at in range(0, len(data), size)]


def _write_raw_s(path: Path, batches: list[bytes]) -> float:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        began_s = time.perf_counter()
        for batch in batches:
            os.write(descriptor, batch)
            sync_with_floor(descriptor, FLOOR_S)
        return time.perf_counter() - began_s
    finally:
        os.close(descriptor)


# -- the log by itself


def _cpu_row(options: argparse.Namespace) -> Row:
    what = "the log's own CPU per record, us: append, commit, fold"
    say(f"{what} ...")
    per_commit = RECORDS_PER_COMMIT[0]
    with _folder(options) as folder:
        numbers = itertools.count()

        def cpu_us() -> float:
            log = begin_log(folder / str(next(numbers)), BenchDisk(None))
            batches = _batches_of_entries(per_commit, options.commits)
            began_s = time.process_time()
            for batch in batches:
                _store(log, batch)
            took_s = time.process_time() - began_s
            log.close()
            return took_s / sum(len(batch) for batch in batches) * 1e6

        took = interleaved({"cpu": cpu_us}, options.rounds)["cpu"]
    return at_most(what, statistics.median(took), CPU_GOAL_US)


def _sqlite_row(per_commit: int, options: argparse.Namespace) -> Row:
    what = f"the log / SQLite (WAL, FULL), {per_commit} records a commit"
    say(f"{what} ...")
    with _folder(options) as folder:
        numbers = itertools.count()

        def ours_s() -> float:
            log = begin_log(folder / f"state-{next(numbers)}", None)
            batches = _batches_of_entries(per_commit, options.commits)
            began_s = time.perf_counter()
            for batch in batches:
                _store(log, batch)
            took_s = time.perf_counter() - began_s
            log.close()
            return took_s

        def sqlite_s() -> float:
            batches = _batches_of_entries(per_commit, options.commits)
            return _store_in_sqlite_s(folder / f"{next(numbers)}.db", batches)

        took = interleaved({"ours": ours_s, "sqlite": sqlite_s}, options.rounds)
    return at_least(what, median_ratio(took["sqlite"], took["ours"]), SQLITE_GOALS[per_commit])


def _batches_of_entries(per_commit: int, commits: int) -> list[list[Record]]:
    seqs = itertools.count(1)
    return [
        [record_entry(seq) for seq in itertools.islice(seqs, per_commit)] for _ in range(commits)
    ]


def _store(log: Log, batch: list[Record]) -> None:
    log.append_many(batch)
    log.commit()
    log.apply_committed()


def _store_in_sqlite_s(path: Path, batches: list[list[Record]]) -> float:
    """Store what the log stores: it too is handed entries, and makes bytes of them."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE log (lsn INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
    began_s = time.perf_counter()
    for batch in batches:
        database.execute("BEGIN")
        database.executemany(
            "INSERT INTO log (payload) VALUES (?)", [(encode_payload(entry),) for entry in batch]
        )
        database.execute("COMMIT")
    took_s = time.perf_counter() - began_s
    database.close()
    return took_s


# -- a large backlog


def _backlog_rows(options: argparse.Namespace) -> list[Row]:
    small_records = min(SMALL_BACKLOG_RECORDS, options.records)
    with _folder(options) as folder:
        small, large, none = folder / "small", folder / "large", folder / "none"
        # A quick trial run has no full segment: there is nothing to fill it up to then.
        fill = options.records > SMALL_BACKLOG_RECORDS
        few = write_backlog(small, small_records, fill=fill)
        records = write_backlog(large, options.records, fill=fill)
        begin_log(none, None).close()
        took = interleaved(
            {"small": lambda: open_s(small), "large": lambda: open_s(large)}, options.rounds
        )
        large_s = statistics.median(took["large"])
        all_s = read_all_s(large, records)
        say("memory of the gateway ...")
        memory = interleaved(
            {
                "none": lambda: gateway_memory_bytes(folder, none),
                "large": lambda: gateway_memory_bytes(folder, large),
            },
            min(3, options.rounds),
        )
    name = f"{records:,} records of backlog"
    return [
        at_most(f"start, {name}, s", large_s, OPEN_GOAL_S),
        at_most(
            f"start, {name} / {few:,} records",
            median_ratio(took["large"], took["small"]), FLAT_GOAL,
        ),
        at_most(f"start, {name} / reading all of it", large_s / all_s, READ_ALL_GOAL),
        at_most(
            f"memory of the gateway, {name} / none",
            median_ratio(memory["large"], memory["none"]), MEMORY_GOAL,
        ),
    ]  # fmt: skip
