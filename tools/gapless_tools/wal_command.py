"""`gapless wal`: look at a log without touching it (inspect, verify), or repair it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from gapless_gateway.wal.ledger import LedgerContent
from gapless_gateway.wal.reader import (
    Books,
    Corruption,
    Entry,
    Item,
    SegmentStart,
    TornTail,
    count_bytes,
    read_books,
    read_directory,
    segments_directory,
)
from gapless_tools.audit.in_use import is_in_use
from gapless_tools.wal_repair import repair

PROGRESS_EVERY_S = 2.0
EXIT_DAMAGED = 1

_DIRECTORY = click.argument(
    "directory", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for a machine to read.")


@click.group(name="wal")
def command() -> None:
    """Look into the gateway's log (inspect, verify: safe while it runs), or repair it."""


command.add_command(repair)


@dataclass
class SegmentFacts:
    """What `inspect` and `verify` say of one segment."""

    name: str
    first_lsn: int
    last_lsn: int
    entries: int
    batches: int
    bytes: int
    created: str
    kinds: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Anchor:
    """What a segment says of the ledger as it was when the segment was begun."""

    segment: str
    count: int
    hash: bytes


@dataclass
class LogFacts:
    """What was found in a state directory."""

    log_id: str | None = None
    segments: list[SegmentFacts] = field(default_factory=list)
    torn_tail: dict[str, Any] | None = None
    damage: list[str] = field(default_factory=list)
    anchors: list[Anchor] = field(default_factory=list)


@command.command()
@_DIRECTORY
@click.option("--entries", "show_entries", is_flag=True, help="Print every entry, one a line.")
@click.option("--from-lsn", default=1, show_default=True, help="Leave out entries before this one.")
@click.option("--limit", type=int, help="Print at most this many entries.")
@_JSON
def inspect(
    directory: Path, show_entries: bool, from_lsn: int, limit: int | None, as_json: bool
) -> None:
    """Show what DIRECTORY (a state directory) holds: segments, cursor, ledger, entries.

    \b
    Examples:
      gapless wal inspect /var/lib/gapless
      gapless wal inspect /var/lib/gapless --entries --from-lsn 1200 --limit 20
      gapless wal inspect /var/lib/gapless --entries --json | jq 'select(.kind=="Lost")'

    With --entries --json every line is one JSON object; else --json prints one object.
    """
    items = read_directory(directory)
    if show_entries:
        _print_entries(items, from_lsn, limit, as_json)
        return
    facts = gather(_with_progress(items, count_bytes(directory)))
    books = _books(directory, facts)
    if as_json:
        click.echo(json.dumps(_facts_map(facts, books), indent=2))
    else:
        _print_facts(facts, books)


@command.command()
@_DIRECTORY
@_JSON
def verify(directory: Path, as_json: bool) -> None:
    """Read all of DIRECTORY (a state directory) and check every CRC, number and chain.

    Nothing is changed. Exit status 0: whole; 1: damage was found, each on a line that names the
    file and the byte; 2: not a log. A batch that is not complete at the very end is no damage:
    a running gateway is writing it, or a power cut tore it before it was acked.

    \b
    Examples:
      gapless wal verify /var/lib/gapless
      gapless wal verify /var/lib/gapless --json
    """
    facts = gather(_with_progress(read_directory(directory), count_bytes(directory)))
    books = _books(directory, facts)
    if as_json:
        click.echo(json.dumps(_facts_map(facts, books), indent=2))
    else:
        for line in facts.damage:
            click.echo(f"DAMAGED {line}")
        if facts.torn_tail is not None:
            click.echo(f"torn tail: {_torn_words(facts.torn_tail)}")
        entries = sum(segment.entries for segment in facts.segments)
        retired = books.ledger.retired_count if books.ledger is not None else 0
        click.echo(
            f"{'DAMAGED' if facts.damage else 'whole'}: log {facts.log_id}, "
            f"{len(facts.segments)} segments, {entries} entries, {retired} segments retired"
        )
    if facts.damage:
        raise SystemExit(EXIT_DAMAGED)


def gather(items: Iterator[Item]) -> LogFacts:
    """Count what a reading yields, and put every damage into words."""
    facts = LogFacts()
    batch = 0
    segment: SegmentFacts | None = None
    for item in items:
        if isinstance(item, Entry):
            assert segment is not None
            kind = type(item.entry).__name__
            segment.kinds[kind] = segment.kinds.get(kind, 0) + 1
            segment.entries += 1
            segment.last_lsn = item.lsn
            if item.batch_first_lsn != batch:
                batch = item.batch_first_lsn
                segment.batches += 1
        elif isinstance(item, SegmentStart):
            header = item.header
            facts.log_id = header.log_id.hex()
            facts.anchors.append(Anchor(item.path.name, header.ledger_count, header.ledger_hash))
            segment = SegmentFacts(
                name=item.path.name,
                first_lsn=item.header.first_lsn,
                last_lsn=item.header.first_lsn - 1,
                entries=0,
                batches=0,
                bytes=item.size,
                created=_utc(item.header.created_ms),
            )
            facts.segments.append(segment)
        elif isinstance(item, TornTail):
            facts.torn_tail = {
                "segment": item.path.name,
                "offset": item.offset,
                "bytes": item.size,
                "why": item.why,
            }
        else:
            facts.damage.append(_damage_words(item))
    return facts


def _damage_words(item: Corruption) -> str:
    through = f"to {item.next_lsn - 1}" if item.next_lsn else "on"
    return (
        f"{item.path} at byte {item.offset}, entries from LSN {item.lsn} {through} "
        f"cannot be read: {item.why}"
    )


def _torn_words(torn: dict[str, Any]) -> str:
    return (
        f"{torn['bytes']} bytes at byte {torn['offset']} of {torn['segment']}, never acked "
        f"({torn['why']})"
    )


def _books(directory: Path, facts: LogFacts) -> Books:
    """Ledger and cursor, and what is wrong between them and the segments."""
    if segments_directory(directory) == directory:
        return Books(None, None)
    books = read_books(directory)
    log_ids = {facts.log_id} if facts.log_id is not None else set()
    if books.ledger is None:
        facts.damage.append(f"{directory / 'ledger'} is missing")
    else:
        _check_anchors(directory, facts, books.ledger)
        log_ids.add(books.ledger.log_id.hex() if books.ledger.log_id is not None else "none")
    if books.cursor is None:
        facts.damage.append(f"{directory / 'cursor'} is missing or neither of its slots holds")
    else:
        log_ids.add(books.cursor.log_id.hex())
    if len(log_ids) > 1:
        facts.damage.append(f"segments, ledger and cursor of {directory} are of different logs")
    return books


def _check_anchors(directory: Path, facts: LogFacts, ledger: LedgerContent) -> None:
    """Every segment says how long the ledger was, at least, and what its head was."""
    path = directory / "ledger"
    if ledger.fault is not None:
        facts.damage.append(f"{path} was changed: {ledger.fault}")
    in_use = is_in_use(directory / "lock")
    for anchor in facts.anchors:
        if in_use and ledger.is_behind_a_span(anchor.count):
            continue  # retired and compacted since it was read
        if ledger.hash_at(anchor.count) != anchor.hash:
            facts.damage.append(
                f"{path} was cut short or rewritten: entry {anchor.count} is anchored in "
                f"{anchor.segment} and is not there"
            )
            return


def _with_progress(items: Iterator[Item], bytes_all: int) -> Iterator[Item]:
    """Pass the items on; say on stderr how far it is, every two seconds."""
    bytes_before = bytes_now = 0
    due_s = time.monotonic() + PROGRESS_EVERY_S
    for number, item in enumerate(items):
        if isinstance(item, SegmentStart):
            bytes_before += bytes_now
            bytes_now = item.size
        elif number % 4096 == 0 and time.monotonic() >= due_s and isinstance(item, Entry):
            due_s = time.monotonic() + PROGRESS_EVERY_S
            done = (bytes_before + item.offset) * 100 // max(bytes_all, 1)
            click.echo(f"read {min(done, 100)} % (LSN {item.lsn})", err=True)
        yield item


def _print_entries(items: Iterator[Item], from_lsn: int, limit: int | None, as_json: bool) -> None:
    printed = 0
    for item in items:
        if isinstance(item, Corruption):
            click.echo(f"DAMAGED {_damage_words(item)}", err=True)
        if not isinstance(item, Entry) or item.lsn < from_lsn:
            continue
        if limit is not None and printed >= limit:
            return
        printed += 1
        fields = {name: _plain(value) for name, value in asdict(item.entry).items()}
        kind = type(item.entry).__name__
        if as_json:
            click.echo(json.dumps({"lsn": item.lsn, "kind": kind, **fields}))
        else:
            words = " ".join(f"{name}={value}" for name, value in fields.items())
            click.echo(f"{item.lsn} {kind} {words}")
    sys.stdout.flush()


def _facts_map(facts: LogFacts, books: Books) -> dict[str, Any]:
    cursor = books.cursor
    return {
        "log_id": facts.log_id,
        "damaged": bool(facts.damage),
        "damage": facts.damage,
        "torn_tail": facts.torn_tail,
        "segments": [asdict(segment) for segment in facts.segments],
        "retired": books.ledger.retired_count if books.ledger is not None else None,
        "ledger": _ledger_map(books.ledger) if books.ledger is not None else None,
        "cursor": None
        if cursor is None
        else {
            "resume_lsn": cursor.resume_lsn,
            "send_mark_lsn": cursor.send_mark_lsn,
            "delivered_through": {
                stream.hex(): through for stream, through in cursor.delivered_through.items()
            },
        },
    }


def _print_facts(facts: LogFacts, books: Books) -> None:
    click.echo(f"log {facts.log_id}")
    for segment in facts.segments:
        kinds = ", ".join(f"{count} {kind}" for kind, count in segment.kinds.items())
        click.echo(
            f"  {segment.name}  LSN {segment.first_lsn}..{segment.last_lsn}  "
            f"{segment.bytes} bytes  {segment.batches} batches  {segment.created}  {kinds}"
        )
    if facts.torn_tail is not None:
        click.echo(f"  torn tail: {_torn_words(facts.torn_tail)}")
    if books.ledger is not None:
        click.echo(f"ledger: {_ledger_words(books.ledger)}")
    if books.cursor is not None:
        cursor = books.cursor
        click.echo(f"cursor: resume at LSN {cursor.resume_lsn}, sent up to {cursor.send_mark_lsn}")
        for stream, through in sorted(cursor.delivered_through.items()):
            click.echo(f"  stream {stream.hex()} delivered through {through}")
    for line in facts.damage:
        click.echo(f"DAMAGED {line}")


def _ledger_map(ledger: LedgerContent) -> dict[str, Any]:
    span = ledger.span
    return {
        "entries": ledger.count,
        "head": ledger.head[1].hex(),
        "bytes": ledger.valid_bytes,
        "span": None
        if span is None
        else {
            "last_index": span.last_index,
            "first_lsn": span.first_lsn,
            "last_lsn": span.last_lsn,
            "segments": span.summary["segments"],
            "compacted": _utc(span.compacted_ms),
        },
    }


def _ledger_words(ledger: LedgerContent) -> str:
    words = f"{ledger.retired_count} segments retired"
    span = ledger.span
    if span is None:
        return words
    return (
        f"{words}, {span.summary['segments']} of them in one span "
        f"(LSN {span.first_lsn}..{span.last_lsn}, compacted {_utc(span.compacted_ms)})"
    )


def _plain(value: Any) -> Any:
    """Bytes as hex, and tuples as lists, all the way down."""
    if isinstance(value, bytes):
        return value.hex()
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def _utc(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
