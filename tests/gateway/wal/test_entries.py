"""Every kind of entry comes back as it was written, and its kind number never moves."""

from __future__ import annotations

import pytest

from gapless_gateway.wal import entries
from gapless_gateway.wal.entries import (
    CLASSES,
    Conflict,
    Delivered,
    Elsewhere,
    Entry,
    EntryMalformed,
    Fault,
    Gone,
    Lost,
    Outage,
    Progress,
    Quarantined,
    Record,
    Run,
    Session,
    Stopped,
    TimePair,
    Unreadable,
    decode_payload,
    encode_payload,
)
from gapless_gateway.wal.format import ENTRY_BYTES_MAX, encode_entry, entry_is_valid
from gapless_link import gateway_messages

STREAM = b"\xde\xad\xbe\xef"
ONE_OF_EACH: list[Entry] = [
    Record(STREAM, 2**30 - 1, 1_700_000_000_000, -1, 2**40, 2, 7, b"\x85\x01\x00\x07\x00\xa0"),
    Lost(STREAM, 5, 9, 2, True, False, 1_700_000_000_001, 0),
    Run(1, 2, "plant", "0.1.0", "micropython", bytes(8), False, 17, "torn"),
    Session(
        "pump-1", b"\x01", STREAM, 1, "/dev/x", 3, 11, False, ((1, 4), (6, 10)), 0, None, 5, "f",
        "b", "r", 0,
    ),
    Outage(3, True, 1, "closed", 4),
    TimePair(STREAM, 1, 2**41, 5, 6, True),
    Conflict(STREAM, 4, 1, entries.CONFLICT_BYTES_DIFFER, b"\x80"),
    Progress(1, 2, ((STREAM, 4, 1, 2, 3),), ((3, 4), (5, 6)), (), 9),
    Quarantined(STREAM, 4, 1, "too large"),
    Fault(1, "/dev/x", "identity", "pump-1", b"\x02", "words"),
    Elsewhere(STREAM, 1, 3, bytes(8)),
    Stopped(5, 2),
    Gone(9, entries.GONE_CORRUPTION, ((STREAM, 4, 6), (bytes(4), 1, 1))),
    Unreadable(STREAM, 4, 6, 1, True, "unreadable in the log"),
    Delivered(STREAM, 4, 6, 1),
]  # fmt: skip


def test_one_of_each_kind_is_here() -> None:
    assert [type(entry) for entry in ONE_OF_EACH] == list(CLASSES)
    assert [entry.KIND for entry in ONE_OF_EACH] == list(range(1, 16))


@pytest.mark.parametrize("entry", ONE_OF_EACH, ids=lambda entry: type(entry).__name__)
def test_an_entry_comes_back_as_it_was_written(entry: Entry) -> None:
    decoded = decode_payload(entry.KIND, encode_payload(entry))
    assert decoded == entry
    assert hash(decoded) == hash(entry)


@pytest.mark.parametrize("entry", ONE_OF_EACH, ids=lambda entry: type(entry).__name__)
def test_no_cut_payload_passes_for_whole_except_a_records_own_data(entry: Entry) -> None:
    payload = encode_payload(entry)
    shortest = entries.RECORD_FIXED.size if type(entry) is Record else len(payload)
    for length in range(shortest):
        with pytest.raises(EntryMalformed):
            decode_payload(entry.KIND, payload[:length])


def test_unknown_kinds_and_wrong_shapes_are_named() -> None:
    for kind, payload in ((99, b"\x80"), (12, b"\x83\x01\x02\x03"), (12, b"\xa0"), (12, b"\x01")):
        with pytest.raises(EntryMalformed, match=f"kind {kind}"):
            decode_payload(kind, payload)


def test_an_entry_validates_only_whole_with_its_own_log_id() -> None:
    data = encode_entry(7, 5, ONE_OF_EACH[0], 1234)
    assert entry_is_valid(data, 0, len(data), 1234)
    assert not entry_is_valid(data, 0, len(data), 1235)
    assert not entry_is_valid(data, 0, len(data) - 1, 1234)
    assert not entry_is_valid(data, 1, len(data), 1234)


def test_an_entry_beyond_the_limit_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="over"):
        encode_entry(1, 1, Conflict(STREAM, 1, 1, "bytes-differ", bytes(ENTRY_BYTES_MAX)), 0)


def test_the_reasons_of_a_loss_have_the_numbers_that_they_have_on_the_link() -> None:
    names = {name for name in vars(gateway_messages) if name.startswith("REASON_")}
    of_the_log_only = {entries.REASON_DISCARDED}
    assert len(names) == len(set(entries.REASON_WORDS) - of_the_log_only)
    for name in names:
        assert getattr(gateway_messages, name) == getattr(entries, name)
