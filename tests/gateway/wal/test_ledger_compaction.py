"""The ledger keeps what the account needs, in bounded size, and no crash or changed byte hides."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import pytest

from gapless_gateway.wal import ledger_compaction
from gapless_gateway.wal.errors import WalFailed, WalTooNew
from gapless_gateway.wal.format import crc_seed
from gapless_gateway.wal.ledger import NO_HASH, LedgerContent, parse_ledger, read_ledger
from gapless_gateway.wal.ledger_compaction import LedgerLimits
from gapless_gateway.wal.ledger_format import (
    FORMAT_COMPACTED,
    FORMAT_PLAIN,
    LEDGER_HEADER_BYTES,
    Compaction,
    encode_ledger_entry,
    encode_ledger_header,
    entry_hash,
    frame_ledger_entry,
    framed_bytes,
    payload_at,
)
from gapless_gateway.wal.log import Log
from gapless_gateway.wal.merged_summary import EVENTS_MAX, RANGES_MAX
from gapless_gateway.wal.summary import PROGRESS_POINTS_MAX
from tests.support.simulated_disk import PowerCutError, SimulatedDisk
from tests.support.wal_history import (
    LOG_ID,
    STATE_DIR,
    STREAM,
    History,
    live,
    noticed,
    open_log,
    read_all,
    record,
    run,
    session,
)

LEDGER = STATE_DIR / "ledger"
DOCUMENT = Path(__file__).parents[3] / "docs" / "wal-format.md"
SEED = crc_seed(LOG_ID)
FEW = LedgerLimits(entries=6)
BATCHES = 30
KEEPS = [("none", 0), ("all", 0)] + [("random", seed) for seed in range(4)]


def lived() -> tuple[SimulatedDisk, History]:
    disk, history = SimulatedDisk(), History()
    live(disk, history, batches=BATCHES, ledger_limits=FEW)
    return disk, history


def reopened(disk: SimulatedDisk) -> Log:
    return open_log(disk, ledger_limits=FEW)


def stored_in(content: LedgerContent) -> set[int]:
    return {
        seq
        for part in content.summaries
        for row in part.summary["streams"]
        for first, last in row[2]
        for seq in range(first, last + 1)
    }


# What stands in the file


def test_a_compacted_ledger_tells_the_same_as_one_that_is_not() -> None:
    disk, history = lived()
    plain, plain_history = SimulatedDisk(), History()
    live(plain, plain_history, batches=BATCHES)
    content, whole = read_ledger(disk, LEDGER), read_ledger(plain, LEDGER)
    assert plain_history.appended == history.appended
    assert content.span is not None
    assert whole.span is None
    assert content.fault is None
    assert content.trailing_bytes == 0
    assert content.retired_count == whole.retired_count == len(whole.entries)
    assert content.retired_through == whole.retired_through
    assert stored_in(content) == stored_in(whole)
    span = content.span
    assert (span.first_index, span.first_lsn) == (1, 1)
    assert span.last_lsn == content.retired[0].first_lsn - 1
    covered = [one for one in whole.retired if one.last_lsn <= span.last_lsn]
    assert span.segment_bytes == sum(one.segment_bytes for one in covered)
    assert span.summary["segments"] == len(covered)
    assert len(disk.content(LEDGER)) < len(plain.content(LEDGER)) / 2


def test_the_entries_behind_the_span_are_the_old_ones_and_every_anchor_on_disk_still_holds() -> (
    None
):
    disk, history = SimulatedDisk(), History()
    ledgers: list[bytes] = []
    rename = disk.rename

    def keep(old: Any, new: Any) -> None:
        if new == LEDGER:
            ledgers.append(bytes(disk.content(LEDGER)) if LEDGER in disk.names else b"")
            ledgers.append(bytes(disk.content(old)))
        rename(old, new)

    disk.rename = keep  # type: ignore[method-assign]
    live(disk, history, batches=BATCHES, ledger_limits=FEW)
    compactions = list(zip(ledgers[2::2], ledgers[3::2], strict=True))
    assert len(compactions) >= 3, "the first pair is the empty ledger of a new log"
    for before, after in compactions:
        old, new = parse_ledger(before, LEDGER), parse_ledger(after, LEDGER)
        assert new.span is not None
        *kept, voucher = new.entries
        assert kept == old.entries[-len(kept) :]
        assert after.endswith(encode_ledger_entry(voucher))
        assert before[-200:] in after, "byte for byte"
        assert isinstance(voucher, Compaction)
        assert (voucher.first_index, voucher.last_index) == (1, new.span.last_index)
        assert new.count == old.count + 1
        for count in range(new.span.last_index, old.count + 1):
            assert new.hash_at(count) == old.hash_at(count) is not None
        assert new.hash_at(new.span.last_index - 1) is None
        assert new.is_behind_a_span(new.span.last_index - 1)
        assert new.hash_at(new.count + 1) is None


def test_the_format_is_2_once_there_is_a_span_and_1_before() -> None:
    disk, history = SimulatedDisk(), History()
    log = open_log(disk, ledger_limits=FEW)
    history.commit(log, run(log, 1))
    assert disk.content(LEDGER)[8:10] == FORMAT_PLAIN.to_bytes(2, "big")
    log.close()
    log = reopened(disk)
    assert disk.content(LEDGER)[8:10] == FORMAT_PLAIN.to_bytes(2, "big")
    disk, _ = lived()
    assert disk.content(LEDGER)[8:10] == FORMAT_COMPACTED.to_bytes(2, "big")
    reopened(disk).close()
    assert disk.content(LEDGER)[8:10] == FORMAT_COMPACTED.to_bytes(2, "big")


def test_a_span_in_a_ledger_of_format_1_is_none() -> None:
    disk, _ = lived()
    data = bytes(disk.content(LEDGER))
    content = parse_ledger(encode_ledger_header(LOG_ID) + data[LEDGER_HEADER_BYTES:], LEDGER)
    assert (content.span, content.entries) == (None, [])


def test_a_ledger_of_a_newer_format_is_refused() -> None:
    disk, _ = lived()
    disk.content(LEDGER)[8:10] = b"\x00\x03"
    disk.spoil(LEDGER, bytes(disk.content(LEDGER)))
    with pytest.raises(WalTooNew, match="format 3"):
        reopened(disk)


# Its size


def retire_many(
    disk: SimulatedDisk, count: int, limits: LedgerLimits, *, backlog: int = 0
) -> tuple[Log, History, list[int]]:
    """One segment a record, freed as soon as there are more than `backlog`; sizes of the ledger."""
    history = History()
    log = open_log(disk, segment_bytes_max=512, ledger_limits=limits)
    history.commit(log, run(log, 1), session(count + 1))
    sizes = []
    for seq in range(1, count + 1):
        history.commit(log, record(seq, data=b"\x83" + bytes(3000)))
        history.appended.clear()
        if seq > backlog:
            log.account.delivered(STREAM, seq - backlog)
            log.retire(log.durable_lsn - backlog)
        sizes.append(len(disk.content(LEDGER)))
    return log, history, sizes


def test_thousands_of_retired_segments_leave_a_ledger_within_its_limits() -> None:
    disk = SimulatedDisk()
    limits = LedgerLimits(entries=40)
    log, _, sizes = retire_many(disk, 2500, limits)
    content = read_ledger(disk, LEDGER)
    assert content.retired_count >= 2490
    assert log._ledger.held == len(content.entries) + 1 <= limits.entries
    assert log._ledger.size == len(disk.content(LEDGER))
    assert max(sizes[1000:]) <= max(sizes[:100]) + 64, "it stops growing"
    assert stored_in(content) == set(range(1, content.retired_through - 1)), (
        "LSN 1, 2: run, session"
    )
    assert content.span is not None
    assert len(content.span.summary["streams"][0][2]) == 1, "one range"
    log.close()
    log = open_log(disk, segment_bytes_max=512, ledger_limits=limits)
    assert read_ledger(disk, LEDGER) == content


def test_the_limit_in_bytes_holds_too() -> None:
    disk = SimulatedDisk()
    limits = LedgerLimits(bytes=8192)
    _, _, sizes = retire_many(disk, 300, limits)
    assert max(sizes) <= limits.bytes
    content = read_ledger(disk, LEDGER)
    assert content.span is not None
    assert content.retired_count > 290


def test_what_a_segment_on_disk_anchors_is_not_replaced() -> None:
    """So a ledger is longer than its limit by the backlog, and each anchor can be looked up."""
    disk = SimulatedDisk()
    limits = LedgerLimits(entries=10)
    log, _, _ = retire_many(disk, 60, limits, backlog=25)
    content = read_ledger(disk, LEDGER)
    assert content.span is not None
    headers = [_header(disk, name) for name in disk.list(STATE_DIR / "wal")]
    assert len(headers) > 20
    for header in headers:
        assert content.hash_at(header.ledger_count) == header.ledger_hash
    # All of it is delivered at once: the newest segment was begun long before.
    log.retire(log.durable_lsn + 1)
    drained = read_ledger(disk, LEDGER)
    (newest,) = [_header(disk, name) for name in disk.list(STATE_DIR / "wal")]
    assert drained.hash_at(newest.ledger_count) == newest.ledger_hash
    assert len(drained.entries) <= limits.entries + 25 + limits.entries // 4


def _header(disk: SimulatedDisk, name: str) -> Any:
    from gapless_gateway.wal.format import HEADER_FIXED_BYTES, decode_fixed_header

    return decode_fixed_header(disk.read(STATE_DIR / "wal" / name, 0, HEADER_FIXED_BYTES))[0]


def test_nothing_is_rewritten_for_a_small_part() -> None:
    disk = SimulatedDisk()
    retire_many(disk, 200, LedgerLimits(entries=40))
    rewritten = sum(call == "create ledger.new" for call in disk.trace) - 1
    assert 3 <= rewritten <= 200 // 10
    # Nor where the backlog lets only a few go at a time.
    disk = SimulatedDisk()
    retire_many(disk, 300, LedgerLimits(entries=40), backlog=60)
    rewritten = sum(call == "create ledger.new" for call in disk.trace) - 1
    assert 3 <= rewritten <= 240 // 10


# Crashes and faults


def compactions_of(disk: SimulatedDisk) -> list[range]:
    """The numbers of the system calls of each compaction, and of the one before and behind it."""
    begins = [n for n, call in enumerate(disk.trace, 1) if call == "create ledger.new"][1:]
    for begin in begins:
        assert [call.split()[0] for call in disk.trace[begin - 1 : begin + 4]] == [
            "create",
            "write",
            "fdatasync",
            "rename",
            "fsync_directory",
        ]
    return [range(begin - 1, begin + 6) for begin in begins]


@pytest.mark.parametrize(("keep", "seed"), KEEPS)
def test_a_power_cut_at_every_call_of_a_compaction_leaves_the_old_ledger_or_the_new(
    keep: str, seed: int
) -> None:
    whole, _ = lived()
    compactions = compactions_of(whole)
    assert len(compactions) >= 3
    for calls in compactions:
        ledgers: dict[int, bytes] = {}
        for call in calls:
            disk, history = SimulatedDisk(), History()
            disk.power_cut_at = call
            disk.rng.seed(seed * 10_000 + call)
            with pytest.raises(PowerCutError):
                live(disk, history, batches=BATCHES, ledger_limits=FEW)
            where = f"power cut at call {call} ({disk.trace[-1]}), keep {keep}, seed {seed}"
            disk = disk.after_power_cut(seed * 10_000 + call, keep)
            log = reopened(disk)
            found = history.check(log)
            ledgers[call] = bytes(disk.content(LEDGER))
            assert ledgers[call] in (ledgers[calls[0]], ledger_behind(calls)), where
            content = read_ledger(disk, LEDGER)
            assert (content.fault, content.trailing_bytes) == (None, 0), where
            assert content.retired_through >= log.first_lsn - 1, where

            # A second recovery changes nothing, and life goes on.
            again = disk.after_power_cut(call, "none")
            second = reopened(again)
            assert read_all(second) == found, where
            assert bytes(again.content(LEDGER)) == ledgers[call], where
            history.retire(second, second.next_lsn)
            history.commit(second, run(second, 2), record(900))
            assert read_all(reopened(again.after_power_cut(call, "none")))[-1][1] == record(900)
        assert len(set(ledgers.values())) == 2, "both were seen"


def ledger_behind(calls: range) -> bytes:
    """The ledger right after this compaction, in a life without a power cut before."""
    disk, history = SimulatedDisk(), History()
    disk.power_cut_at = calls[-1]
    with pytest.raises(PowerCutError):
        live(disk, history, batches=BATCHES, ledger_limits=FEW)
    return bytes(disk.content(LEDGER))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_compaction_that_cannot_be_written_leaves_the_old_ledger_and_is_tried_again(
    number: int,
) -> None:
    whole, _ = lived()
    first = compactions_of(whole)[0][1]  # the create
    for call in range(first, first + 4):
        disk, history = SimulatedDisk(), History()
        disk.fail_at = {call: number}
        log = live(disk, history, batches=BATCHES, ledger_limits=FEW)
        assert log.failed == "the log is closed", "and nothing else"
        content = read_ledger(disk, LEDGER)
        assert content.span is not None, "a later one went well"
        assert content.retired_count == read_ledger(whole, LEDGER).retired_count
        history.check(reopened(disk.after_power_cut(call, "none")))


def test_what_was_written_of_a_ledger_that_did_not_fit_is_taken_away() -> None:
    whole, _ = lived()
    last = compactions_of(whole)[-1][1]
    for call in range(last + 1, last + 4):
        disk = SimulatedDisk()
        disk.fail_at = {call: errno.ENOSPC}
        live(disk, History(), batches=BATCHES, ledger_limits=FEW)
        assert LEDGER.with_name("ledger.new") not in disk.names, "it takes space"


def test_a_directory_that_cannot_be_synced_behind_the_rename_stops_for_good() -> None:
    whole, _ = lived()
    call = compactions_of(whole)[0][1] + 4
    for after in ("none", "all"):
        disk, history = SimulatedDisk(), History()
        disk.fail_at = {call: errno.EIO}
        with pytest.raises(WalFailed):
            live(disk, history, batches=BATCHES, ledger_limits=FEW)
        log = reopened(disk.after_power_cut(call, after))
        history.check(log)


def test_a_ledger_that_reads_otherwise_than_it_was_written_is_not_compacted() -> None:
    disk = SimulatedDisk()
    log, _, _ = retire_many(disk, 30, LedgerLimits(entries=40))
    log.upkeep.ledger_limits = LedgerLimits(entries=5)
    data = bytearray(disk.content(LEDGER))
    data[len(data) // 2] ^= 1
    disk.content(LEDGER)[:] = data
    for seq in (31, 32):
        log.append(record(seq, data=b"\x83" + bytes(3000)))
        log.commit()
        log.apply_committed()
    assert log.retire(log.durable_lsn), "delivered segments are freed all the same"
    assert any("read back" in note for note in log.upkeep.notes)
    assert bytes(disk.content(LEDGER)[: len(data)]) == data, "the evidence is kept"


# What was changed is noticed


def test_a_changed_byte_anywhere_in_a_compacted_ledger_is_noticed() -> None:
    disk, _ = lived()
    whole = bytes(disk.content(LEDGER))
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        disk.spoil(LEDGER, bytes(damaged))
        try:
            noticed(disk, reopened(disk))
        except WalTooNew:
            assert position in (8, 9)


def test_a_compacted_ledger_that_was_cut_short_is_noticed() -> None:
    disk, _ = lived()
    whole = bytes(disk.content(LEDGER))
    content = read_ledger(disk, LEDGER)
    for length in (24, content.span_end, *content.ends[:-1], len(whole) - 1):
        disk.spoil(LEDGER, whole[:length])
        noticed(disk, reopened(disk))


def pieces(data: bytes) -> tuple[bytes, bytes]:
    """The span's payload, and all that stands behind it."""
    payload = payload_at(data, LEDGER_HEADER_BYTES, NO_HASH, SEED)
    assert payload is not None
    return payload, data[LEDGER_HEADER_BYTES + framed_bytes(payload) :]


def with_span(payload: bytes, rest: bytes) -> bytes:
    header = encode_ledger_header(LOG_ID, FORMAT_COMPACTED)
    return header + frame_ledger_entry(NO_HASH, payload, SEED) + rest


def forged_spans(payload: bytes) -> list[bytes]:
    """Every field of the span changed, one at a time, each with a CRC that holds."""
    values = cbor2.loads(payload)
    forged = []
    for at in range(3, len(values) - 1):
        other = [*values]
        other[at] = bytes(32) if isinstance(other[at], bytes) else other[at] + 1
        forged.append(cbor2.dumps(other))
    for key, value in values[-1].items():
        other = [*values[:-1], {**values[-1], key: _other(value)}]
        forged.append(cbor2.dumps(other))
    return forged


def _other(value: Any) -> Any:
    if isinstance(value, int):
        return value + 1
    if isinstance(value, list):
        return value[:-1] if value else [[1, 1]]
    return {**value, 99: 1}


def test_a_span_with_other_contents_and_a_good_crc_is_found_by_the_entry_that_vouches_for_it() -> (
    None
):
    disk, _ = lived()
    payload, rest = pieces(bytes(disk.content(LEDGER)))
    forged = forged_spans(payload)
    assert len(forged) > 12
    for other in forged:
        disk.spoil(LEDGER, with_span(other, rest))
        noticed(disk, reopened(disk))
    disk.spoil(LEDGER, with_span(payload, rest))
    assert reopened(disk).recovered.quarantined == []


def test_a_voucher_rewritten_with_its_span_is_found_by_the_anchor_of_a_later_segment() -> None:
    disk, _ = lived()
    data = bytes(disk.content(LEDGER))
    payload, _ = pieces(data)
    content = read_ledger(disk, LEDGER)
    vouchers = [one for one in content.entries if isinstance(one, Compaction)]
    newest_anchor = max(_header(disk, name).ledger_count for name in disk.list(STATE_DIR / "wal"))
    assert vouchers[-1].index <= newest_anchor, "a segment was begun since"
    forged = forged_spans(payload)[-1]
    assert content.span is not None
    head, rest = content.span.last_hash, b""
    other = replace(vouchers[-1], span_sha256=hashlib.sha256(forged).digest())
    for entry in content.entries:
        encoded = encode_ledger_entry(other if entry == vouchers[-1] else entry)
        rest += frame_ledger_entry(head, encoded, SEED)
        head = entry_hash(head, encoded)
    disk.spoil(LEDGER, with_span(forged, rest))
    assert read_ledger(disk, LEDGER).fault is None
    noticed(disk, reopened(disk))


def test_a_span_without_the_entry_that_vouches_for_it_is_noticed() -> None:
    disk, _ = lived()
    data = bytes(disk.content(LEDGER))
    _, rest = pieces(data)
    disk.spoil(LEDGER, encode_ledger_header(LOG_ID, FORMAT_COMPACTED) + rest)
    content = read_ledger(disk, LEDGER)
    assert content.fault is not None
    assert content.count == 0
    noticed(disk, reopened(disk))


def test_the_limits_are_those_of_the_document() -> None:
    limits = ledger_compaction.LEDGER_LIMITS
    assert (limits.entries, limits.bytes) == (2048, 4 << 20)
    text = DOCUMENT.read_text()
    assert f"{limits.entries:,} entries" in text
    assert f"{limits.bytes:,} bytes" in text
    for number in (RANGES_MAX, EVENTS_MAX, PROGRESS_POINTS_MAX):
        assert f"newest {number:,}" in text or f"at most {number:,} points" in text, number
