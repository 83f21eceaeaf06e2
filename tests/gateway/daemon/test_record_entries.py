"""Records are dated by their own bytes and their boot's pairs, in runs as one by one."""

from __future__ import annotations

import random

import cbor2
from hypothesis import given
from hypothesis import strategies as st

from gapless_gateway.account.dating import Dated, Dating, uptime_ms
from gapless_gateway.ingest import RecordEntries
from gapless_gateway.wal.entries import T_SOURCE_LINK, T_SOURCE_NONE, TIME_UNKNOWN, TimePair

STREAM = b"strm"
RX_MS = 1_700_000_000_000


def record(boot: int, wraps: int, ticks_ms: int) -> bytes:
    return cbor2.dumps([boot, wraps, ticks_ms, 0, {"value": 1}])


def pair(boot: int, at_ms: int, lo_ms: int, *, synced: bool = True) -> TimePair:
    return TimePair(STREAM, boot, at_ms, lo_ms, lo_ms + 10, synced)


def dated(entries: RecordEntries, records: list[bytes]) -> list[tuple[int, int, int]]:
    made = entries.make(7, records, RX_MS, outage=3)
    assert [(one.stream, one.seq, one.rx_ms, one.outage, one.data) for one in made] == [
        (STREAM, seq, RX_MS, 3, data) for seq, data in enumerate(records, 7)
    ]
    return [(one.t_lo_ms, one.t_hi_ms, one.t_source) for one in made]


def one_by_one(dating: Dating, records: list[bytes]) -> list[tuple[int, int, int]]:
    found = []
    for data in records:
        try:
            boot, wraps, ticks_ms, _, _ = cbor2.loads(data)
            found.append(dating.date(STREAM, boot, uptime_ms(wraps, ticks_ms), RX_MS))
        except (cbor2.CBORDecodeError, ValueError, TypeError):
            found.append(Dated(TIME_UNKNOWN, RX_MS, T_SOURCE_NONE))
    return found


@given(st.integers(0, 2**32))
def test_a_run_is_dated_as_its_records_one_by_one(seed: int) -> None:
    chance = random.Random(seed)
    dating = Dating()
    runs = RecordEntries(dating, STREAM)
    odd = [b"", b"\xff\xff", cbor2.dumps(["a", 1]), cbor2.dumps([1, 2, 3]), record(1, 0, 1)[:4]]
    ticks_ms = 60_000
    for _ in range(12):
        if chance.random() < 0.5:
            at_ms = chance.randrange(2_000_000)
            lo_ms = RX_MS - 2_500_000 + at_ms + chance.randrange(100)
            dating.add(pair(chance.choice([1, 2, 300]), at_ms, lo_ms, synced=chance.random() < 0.7))
        boot, wraps = chance.choice([1, 1, 1, 2, 300]), chance.choice([0, 0, 0, 1])
        records = []
        for _ in range(chance.randrange(1, 20)):
            ticks_ms += chance.choice([0, 1, 10, 9_999])
            records.append(record(boot, wraps, ticks_ms))
            if chance.random() < 0.1:
                records.append(chance.choice(odd))
        assert dated(runs, records) == one_by_one(dating, records)


def test_a_record_that_is_cut_off_in_its_ticks_is_not_dated() -> None:
    dating = Dating()
    dating.add(pair(1, 100_000, RX_MS - 100))
    runs = RecordEntries(dating, STREAM)
    whole = record(1, 0, 100_000)
    for length in range(len(whole)):
        cut = whole[:length]
        known, at_once = dated(runs, [whole, cut])
        assert known[2] == T_SOURCE_LINK
        if length <= 8:  # boot, wraps and ticks are not all there
            assert at_once == (TIME_UNKNOWN, RX_MS, T_SOURCE_NONE)
