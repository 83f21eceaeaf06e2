"""A stream's account as an object for CBOR, and back: part of the log's format.

Ranges are written as ranges, so the size depends on the losses of a stream and not on its length.
What lies behind `durable` and can never matter again is left out, so that equal folds give equal
snapshots however they came about.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gapless_gateway.account.balance import Totals
from gapless_gateway.account.intervals import IntervalMap, IntervalSet, Range
from gapless_gateway.account.stream_account import RECENT_CRCS_MAX, StreamAccount

# How many fields follow the plain ones, and how many there were in version 1.
SETS = 13
SETS_OF_VERSION_1 = 10

# Order is part of the snapshot's format.
_PLAIN = (
    "stream",
    "device",
    "uid",
    "base",
    "durable",
    "claimed",
    "exact_through",
    "announced_next",
    "conflicts",
    "violations",
    "sessions",
    "boot",
    "uptime_ms",
    "last_heard_ms",
    "acked",
    "acked_by",
    "ended",
    "closed",
)


def snapshot_of(account: StreamAccount) -> list[Any]:
    """The fold's state as an object for CBOR: ranges, not lists of numbers.

    The order of the fields is `_PLAIN` and then the sets; part of the log's format.
    """
    ahead = account.durable + 1
    return [
        *[getattr(account, name) for name in _PLAIN],
        list(account.findings),
        _flat_ranges(account.doubtful.within(ahead, account.claimed)),
        _flat_ranges(account.stored),
        _flat_items(account.lost.items()),
        _flat_items(account.elsewhere.items()),
        _flat_ranges(account.quarantined),
        _flat_ranges(account.announced.within(ahead, max(ahead, account.announced_next))),
        _flat_items(account.awaited.within(ahead, max(ahead, account.announced_next))),
        [
            account.logged.delivered_through,
            account.logged.suppressed,
            account.logged.redelivered,
            account.logged.unverifiable,
        ],
        _recent_crc_bytes(account),
        _flat_items(_unreadable_that_matter(account).items()),
        _flat_ranges(account.requeued),
        account.uncertain,
    ]


def restore(state: list[Any], *, version: int) -> StreamAccount:
    """The stream account that `snapshot_of` wrote. ValueError or TypeError if it is none."""
    sets = SETS_OF_VERSION_1 if version == 1 else SETS
    if len(state) != len(_PLAIN) + sets:
        raise ValueError(f"a stream of {len(state)} fields instead of {len(_PLAIN) + sets}")
    plain = dict(zip(_PLAIN, state, strict=False))
    account = StreamAccount(plain["stream"], plain["device"], plain["uid"], plain["base"])
    for name, value in plain.items():
        setattr(account, name, value)
    rest = iter(state[len(_PLAIN) :])
    account.findings = list(next(rest))
    account.doubtful = _ranges(next(rest))
    account.stored = _ranges(next(rest))
    account.lost = IntervalMap((a, b, (reason, most)) for a, b, reason, most in next(rest))
    account.elsewhere = IntervalMap((a, b, log_id) for a, b, log_id in next(rest))
    account.quarantined = _ranges(next(rest))
    account.announced = _ranges(next(rest))
    account.awaited = IntervalMap((a, b, (reason, most)) for a, b, reason, most in next(rest))
    account.logged = Totals(*next(rest))
    account.live = replace(account.logged)
    _restore_crcs(account, next(rest))
    if version > 1:
        account.unreadable = IntervalMap((a, b, may_be_sent) for a, b, may_be_sent in next(rest))
        account.requeued = _ranges(next(rest))
        account.uncertain = next(rest)
    return account


def _unreadable_that_matter(account: StreamAccount) -> IntervalMap[bool]:
    """Those in quarantine, and those that a repeat could still be compared with."""
    recent = account.durable - RECENT_CRCS_MAX + 1
    matter = account.quarantined.union(IntervalSet([(recent, account.durable)]))
    return IntervalMap(one for a, b in matter for one in account.unreadable.within(a, b))


def _recent(account: StreamAccount) -> list[int]:
    """The stored numbers whose CRC is still known, in order."""
    recent = account.stored.within(account.durable - RECENT_CRCS_MAX + 1, account.durable)
    return [seq for first, last in recent for seq in range(first, last + 1)]


def _recent_crc_bytes(account: StreamAccount) -> bytes:
    return b"".join(
        account.recent_crcs[seq % RECENT_CRCS_MAX].to_bytes(4) for seq in _recent(account)
    )


def _restore_crcs(account: StreamAccount, data: bytes) -> None:
    recent = _recent(account)
    if len(data) != 4 * len(recent):
        raise ValueError(f"{len(data)} bytes of CRCs for {len(recent)} records")
    for at, seq in enumerate(recent):
        account.recent_crcs[seq % RECENT_CRCS_MAX] = int.from_bytes(data[4 * at : 4 * at + 4])


def _flat_ranges(ranges: IntervalSet) -> list[list[int]]:
    return [[first, last] for first, last in ranges]


def _flat_items(items: list[tuple[int, int, Any]]) -> list[list[Any]]:
    return [
        [first, last, *(value if isinstance(value, tuple) else (value,))]
        for first, last, value in items
    ]


def _ranges(flat: list[Range]) -> IntervalSet:
    return IntervalSet((first, last) for first, last in flat)
