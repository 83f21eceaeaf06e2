"""Whoever changes one entry of a log changes the verdict: an account has to be able to fail.

Each entry of lawful histories that contain every kind is removed, doubled, swapped and altered
once. Two ways: `kept`, as it would be in the files, where every entry keeps its LSN and each such
change must be seen wherever it is; and `forged`, where the LSNs were made to fit again, so that
only what the entries tell against each other is left. What cannot be seen then is listed in
UNSEEN_WHEN_FORGED, and the test holds the list to be complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from gapless_gateway.account.account import Account
from gapless_gateway.wal.entries import (
    CLASSES,
    Conflict,
    Delivered,
    Entry,
    Gone,
    Lost,
    Progress,
    Record,
    Session,
    Unreadable,
)
from tests.support.account_story import LOG_ID, Story, fold, verdict

SEEDS = range(12)
STEPS = 70

Numbered = list[tuple[int, Entry]]

# Removed or doubled with forged LSNs, these only take away or repeat detail: every number is still
# accounted for by the others. The ledger's hash chain and the batch links of the log see them.
UNSEEN_WHEN_FORGED = {
    ("removed", "Progress"): "a later Progress says as much, or more",
    ("removed", "Session"): "of a board that had lost nothing, or that sent nothing after it",
    ("removed", "Outage"): "the end of the last outage: it might still last",
    ("removed", "Stopped"): "at the very end: the gateway might still run",
    ("removed", "Quarantined"): "the number then counts as delivered: the consumer's capture tells",
    ("removed", "Conflict"): "the evidence itself is gone: only the chain of the log tells",
    ("removed", "TimePair"): "dates are stored with the records",
    ("removed", "Fault"): "says nothing about a number",
    ("doubled", "TimePair"): "says the same",
    ("doubled", "Fault"): "says nothing about a number",
}


def histories() -> Iterator[tuple[int, list[Entry]]]:
    for seed in SEEDS:
        story = Story(seed).play(STEPS).finish()
        assert verdict(story.account) == (0, 0, 0), seed
        yield seed, story.entries


def judge(numbered: Numbered) -> tuple[int, int, int]:
    account = Account(LOG_ID)
    for lsn, entry in numbered:
        account.apply(lsn, entry)
    return verdict(account)


def numbered(entries: list[Entry]) -> Numbered:
    return list(enumerate(entries, 1))


def rises(found: tuple[int, int, int]) -> bool:
    return any(found)


def test_the_histories_hold_every_kind_of_entry() -> None:
    kinds = {type(entry) for _, entries in histories() for entry in entries}
    # What stands for damage and what comes out of quarantine has tests of its own.
    assert kinds | {Conflict, Gone, Unreadable, Delivered} == set(CLASSES)


def test_any_entry_removed_from_a_log_is_seen_but_for_the_last() -> None:
    for seed, entries in histories():
        kept = numbered(entries)
        for at in range(1, len(kept) - 1):
            assert rises(judge(kept[:at] + kept[at + 1 :])), (seed, kept[at])
        assert not rises(judge(kept[:-1]))  # the known limit: nothing is left that tells of it


def test_any_entry_doubled_in_a_log_is_seen() -> None:
    for seed, entries in histories():
        kept = numbered(entries)
        for at in range(len(kept)):
            assert rises(judge(kept[: at + 1] + kept[at:])), (seed, kept[at])


def test_any_two_neighbours_swapped_in_a_log_are_seen() -> None:
    for seed, entries in histories():
        kept = numbered(entries)
        for at in range(len(kept) - 1):
            swapped = [*kept[:at], kept[at + 1], kept[at], *kept[at + 2 :]]
            assert rises(judge(swapped)), (seed, kept[at])


def test_with_forged_lsns_the_entries_tell_against_each_other() -> None:
    unseen: set[tuple[str, str]] = set()
    for _, entries in histories():
        for at, entry in enumerate(entries):
            kind = type(entry).__name__
            if not rises(verdict(fold(entries[:at] + entries[at + 1 :]))):
                unseen.add(("removed", kind))
            if not rises(verdict(fold(entries[: at + 1] + entries[at:]))):
                unseen.add(("doubled", kind))
    assert unseen <= set(UNSEEN_WHEN_FORGED)


@pytest.mark.parametrize("kind", [Record, Lost])
def test_no_record_and_no_lost_is_removed_unseen_even_with_forged_lsns(kind: type[Entry]) -> None:
    """As long as a later entry of the stream, or a delivery, witnesses it: see `finish`."""
    for seed, entries in histories():
        for at, entry in enumerate(entries):
            if type(entry) is kind:
                assert rises(verdict(fold(entries[:at] + entries[at + 1 :]))), (seed, entry)


def test_the_last_record_of_all_can_be_cut_off_unseen() -> None:
    """The known limit of books alone: nothing that is left has heard of it."""
    entries = Story(1).play(STEPS).finish().entries
    last = max(at for at, entry in enumerate(entries) if type(entry) is Record)
    assert not rises(verdict(fold(entries[:last])))
    # Whatever heard of it tells: here the Progress that comes after it.
    assert rises(verdict(fold(entries[:last] + entries[last + 1 :])))


def test_two_records_or_losts_of_a_stream_swapped_are_seen_even_with_forged_lsns() -> None:
    for seed, entries in histories():
        places: dict[bytes, int] = {}
        for at, entry in enumerate(entries):
            if not isinstance(entry, Record | Lost):
                continue
            before = places.get(entry.stream)
            places[entry.stream] = at
            if before is not None:
                swapped = list(entries)
                swapped[before], swapped[at] = swapped[at], swapped[before]
                assert rises(verdict(fold(swapped))), (seed, entry)


def altered(entry: Entry) -> list[Entry]:
    """The entry with one of its facts changed, where the change cannot be harmless."""
    if isinstance(entry, Record):
        changed = [replace(entry, seq=entry.seq + by) for by in (-1, 1, 99)]
        return [*changed, replace(entry, stream=b"none"), replace(entry, outage=entry.outage + 99)]
    if isinstance(entry, Lost):
        changes: list[Entry] = [
            replace(entry, first=entry.first + 1),
            replace(entry, first=entry.first - 1),
            replace(entry, last=entry.last + 1),
            replace(entry, last=entry.last - 1),
            replace(entry, stream=b"none"),
            replace(entry, reason=0),
        ]
        if entry.by_gateway:
            changes += [replace(entry, at_most=not entry.at_most), replace(entry, reason=1)]
        return changes
    if isinstance(entry, Session):
        return [replace(entry, base=entry.base + 1)]
    if isinstance(entry, Progress) and entry.streams:
        rows = entry.streams
        return [
            replace(entry, streams=tuple((row[0], 10**6, *row[2:]) for row in rows)),
            replace(entry, streams=tuple((b"none", *row[1:]) for row in rows)),
            replace(entry, run=entry.run + 1),
        ]
    return []


def test_an_altered_entry_is_seen() -> None:
    unseen = []
    for seed, entries in histories():
        for at, entry in enumerate(entries):
            for change in altered(entry):
                if not rises(verdict(fold([*entries[:at], change, *entries[at + 1 :]]))):
                    unseen.append((seed, at, change))
    assert unseen == []


def test_an_altered_hello_is_seen_once_the_board_acts_otherwise() -> None:
    tried = 0
    for seed, entries in histories():
        for at, (entry, then) in enumerate(pairwise(entries)):
            if not isinstance(entry, Session) or not isinstance(then, Record):
                continue
            if then.stream != entry.stream:
                continue
            held_no_more = replace(entry, held=())
            one_too_far = replace(entry, next=then.seq + 1, held=())
            for change in [one_too_far] if then.seq >= entry.next else [held_no_more]:
                tried += 1
                found = verdict(fold([*entries[:at], change, *entries[at + 1 :]]))
                assert rises(found), (seed, entry)
    assert tried > 10


def test_a_duplicate_with_other_bytes_is_a_conflict() -> None:
    for seed, entries in histories():
        for at, entry in enumerate(entries):
            if isinstance(entry, Record):
                double = replace(entry, data=entry.data + b"!")
                found = verdict(fold([*entries[: at + 1], double, *entries[at + 1 :]]))
                assert found[1] == 1, (seed, entry)


def test_a_conflict_that_was_written_down_stays_a_finding() -> None:
    entries = Story(2).play(STEPS).finish().entries[:-1]
    some = next(entry for entry in reversed(entries) if isinstance(entry, Record))
    evidence = Conflict(some.stream, some.seq, 1, "bytes-differ", b"other")
    assert verdict(fold([*entries, evidence]))[1] == 1
