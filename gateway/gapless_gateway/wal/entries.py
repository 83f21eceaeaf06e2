"""The entries of the log: one frozen class per kind, and how each becomes bytes.

Units: every `..._ms` is an integer of milliseconds, UTC since 1970 unless its comment says
otherwise. `stream` is always the 4 bytes of the stream id. The byte layout of the payloads is
part of the log format: docs/wal-format.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar, dataclass_transform

import cbor2

# Record.t_source
T_SOURCE_NONE = 0
T_SOURCE_LINK = 1
T_SOURCE_UNSYNCED = 2

# What stands in t_lo_ms or t_hi_ms of a Record when that bound is not known.
TIME_UNKNOWN = -1

# Conflict.what
CONFLICT_BYTES_DIFFER = "bytes-differ"
CONFLICT_RECORD_AFTER_LOST = "record-after-lost"

# Lost.reason, 1 to 7 the same numbers as on the link.
REASON_OVERFLOW = 1
REASON_RESET = 2
REASON_REPLACED = 3
REASON_RETIRED = 4
REASON_QUOTA = 5
REASON_CORRUPTION = 6
REASON_GATEWAY_ROLLBACK = 7
# Of the log only: quarantined, and given up by the owner.
REASON_DISCARDED = 8
# What was stored may be given up later only for these, and only by the gateway.
GIVEN_UP_REASONS = frozenset({REASON_QUOTA, REASON_CORRUPTION, REASON_RETIRED, REASON_DISCARDED})
REASON_WORDS = {
    REASON_OVERFLOW: "overflow",
    REASON_RESET: "reset",
    REASON_REPLACED: "replaced",
    REASON_RETIRED: "retired",
    REASON_QUOTA: "quota",
    REASON_CORRUPTION: "corruption",
    REASON_GATEWAY_ROLLBACK: "gateway-rollback",
    REASON_DISCARDED: "discarded",
}

# Gone.cause
GONE_CORRUPTION = "corruption"
GONE_QUOTA = "quota"
GONE_RANGES_MAX = 4096  # of one entry: bounds its length

# stream, seq, rx_ms, t_lo_ms, t_hi_ms, t_source, outage; the board's record bytes follow.
RECORD_FIXED = struct.Struct(">4sIqqqBI")


_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True)
def _entry_class(cls: type[_Class]) -> type[_Class]:
    """A dataclass that is frozen for the type checker only.

    Freezing at run time makes a Record 4.5 times as dear to create, and one is created for every
    record that comes in and again for every one that goes out.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


def reason_word(reason: int) -> str:
    """The word of a reason; a number that this version does not know stays a number."""
    return REASON_WORDS.get(reason, str(reason))


class EntryMalformed(ValueError):
    """A payload that passed its CRC is not what its kind promises: a bug, or another version."""


@_entry_class
class Record:
    """One record of a board, dated once, as it was taken in."""

    KIND: ClassVar[int] = 1
    stream: bytes
    seq: int
    rx_ms: int
    t_lo_ms: int  # the record's moment lies in [t_lo_ms, t_hi_ms]; -1: that bound is unknown
    t_hi_ms: int
    t_source: int  # T_SOURCE_...
    outage: int  # 0: taken in while the broker was there
    data: bytes  # the board's record, CBOR, as it came


@_entry_class
class Lost:
    """The seqs first..last of a stream are declared lost, for a reason."""

    KIND: ClassVar[int] = 2
    stream: bytes
    first: int
    last: int
    reason: int  # REASON_...
    at_most: bool  # some of the numbers may never have been used
    by_gateway: bool
    rx_ms: int
    outage: int


@_entry_class
class Run:
    """The first entry of every run of the gateway; a recovery if the one before was not clean."""

    KIND: ClassVar[int] = 3
    at_ms: int
    run: int  # 1, 2, 3 ...
    gateway: str
    version: str
    runtime: str
    log_id: bytes
    previous_clean: bool
    torn_bytes: int  # cut from the end of the log by this run's recovery
    note: str


@_entry_class
class Session:
    """A HELLO that its START made good; the first one of a stream opens it with `base`."""

    KIND: ClassVar[int] = 4
    device: str
    uid: bytes
    stream: bytes
    at_ms: int
    port: str
    boot: int
    next: int  # claimed >= next - 1
    exact: bool
    held: tuple[tuple[int, int], ...]
    acked: int
    acked_by: bytes | None
    uptime_ms: int  # of the board, wraps unfolded
    firmware: str
    board: str
    runtime: str
    base: int


@_entry_class
class Outage:
    """The broker was lost (began), or the last record of the backlog was delivered (ended)."""

    KIND: ClassVar[int] = 5
    id: int
    began: bool
    at_ms: int
    cause: str
    pending: int


@_entry_class
class TimePair:
    """At `uptime_ms` of this boot it was between these two moments of the gateway's clock."""

    KIND: ClassVar[int] = 6
    stream: bytes
    boot: int
    uptime_ms: int  # of the board, wraps unfolded
    utc_lo_ms: int
    utc_hi_ms: int
    synced: bool  # the kernel reported a synchronised clock


@_entry_class
class Conflict:
    """Evidence: a seq came again with other bytes, or after it was declared lost."""

    KIND: ClassVar[int] = 7
    stream: bytes
    seq: int
    at_ms: int
    what: str  # CONFLICT_...
    data: bytes


@_entry_class
class Progress:
    """About once a second while something changed: what the broker or consumer has."""

    KIND: ClassVar[int] = 8
    at_ms: int
    run: int
    # (stream, delivered_through, suppressed, redelivered, unverifiable); the last three are totals
    streams: tuple[tuple[bytes, int, int, int, int], ...]
    # (bucket, count) since the last Progress
    durable_histogram: tuple[tuple[int, int], ...]
    delivered_histogram: tuple[tuple[int, int], ...]
    pending: int


@_entry_class
class Quarantined:
    """The broker refuses this seq for good; it is kept aside."""

    KIND: ClassVar[int] = 9
    stream: bytes
    seq: int
    at_ms: int
    reason: str


@_entry_class
class Fault:
    """Something that a person has to look at: an identity that does not fit, and the like."""

    KIND: ClassVar[int] = 10
    at_ms: int
    port: str
    what: str
    device: str
    uid: bytes
    words: str


@_entry_class
class Elsewhere:
    """The seqs first..last were acked by another gateway's log; they are outside `produced`."""

    KIND: ClassVar[int] = 11
    stream: bytes
    first: int
    last: int
    log_id: bytes


@_entry_class
class Stopped:
    """The clean end of a run."""

    KIND: ClassVar[int] = 12
    at_ms: int
    run: int


@_entry_class
class Gone:
    """Stands in the place of entries whose bytes are gone: unreadable, or dropped for want of room.

    It takes up the LSNs from its own through `last_lsn`, so that a log stays without a hole. What
    became of its numbers, the entries say that were appended when that was known: Unreadable, Lost.
    """

    KIND: ClassVar[int] = 13
    last_lsn: int
    cause: str  # GONE_...
    ranges: tuple[tuple[bytes, int, int], ...]  # (stream, first, last) that stood here


@_entry_class
class Unreadable:
    """The stored and undelivered seqs first..last cannot be read any more: quarantined.

    Until the board says whether it still has them (then they come again as Records) or not (then
    they are Lost), or the owner discards them.
    """

    KIND: ClassVar[int] = 14
    stream: bytes
    first: int
    last: int
    at_ms: int
    may_be_sent: bool  # they may have been delivered all the same, so only the owner gives them up
    reason: str


@_entry_class
class Delivered:
    """The seqs first..last, which came out of quarantine, are delivered now: out of their turn."""

    KIND: ClassVar[int] = 15
    stream: bytes
    first: int
    last: int
    at_ms: int


Entry = (
    Record
    | Lost
    | Run
    | Session
    | Outage
    | TimePair
    | Conflict
    | Progress
    | Quarantined
    | Fault
    | Elsewhere
    | Stopped
    | Gone
    | Unreadable
    | Delivered
)

CLASSES: tuple[type[Any], ...] = (
    Record,
    Lost,
    Run,
    Session,
    Outage,
    TimePair,
    Conflict,
    Progress,
    Quarantined,
    Fault,
    Elsewhere,
    Stopped,
    Gone,
    Unreadable,
    Delivered,
)
CLASS_OF_KIND: dict[int, type[Any]] = {cls.KIND: cls for cls in CLASSES}
_FIELD_NAMES: dict[int, tuple[str, ...]] = {
    cls.KIND: tuple(field.name for field in fields(cls)) for cls in CLASSES
}


def encode_payload(entry: Entry) -> bytes:
    """The payload of an entry: fixed layout and data for a Record, a CBOR array for the others."""
    if type(entry) is Record:
        return (
            RECORD_FIXED.pack(
                entry.stream,
                entry.seq,
                entry.rx_ms,
                entry.t_lo_ms,
                entry.t_hi_ms,
                entry.t_source,
                entry.outage,
            )
            + entry.data
        )
    return cbor2.dumps([getattr(entry, name) for name in _FIELD_NAMES[entry.KIND]])


def decode_payload(kind: int, payload: bytes) -> Entry:
    """The entry that `payload` holds. Raises EntryMalformed."""
    try:
        if kind == Record.KIND:
            fixed = RECORD_FIXED.unpack_from(payload)
            return Record(*(*fixed, payload[RECORD_FIXED.size :]))
        values = cbor2.loads(payload)
        names = _FIELD_NAMES[kind]
        if type(values) is not list or len(values) != len(names):
            raise EntryMalformed(f"entry of kind {kind} does not have {len(names)} fields")
        entry: Entry = CLASS_OF_KIND[kind](*map(_frozen, values))
        return entry
    except EntryMalformed:
        raise
    except KeyError:
        raise EntryMalformed(f"unknown kind {kind} of entry") from None
    except (struct.error, cbor2.CBORDecodeError, TypeError, ValueError) as error:
        raise EntryMalformed(f"entry of kind {kind} cannot be read: {error}") from None


def _frozen(value: Any) -> Any:
    """CBOR arrays as tuples all the way down: entries are hashable and compare by value."""
    return tuple(map(_frozen, value)) if type(value) is list else value
