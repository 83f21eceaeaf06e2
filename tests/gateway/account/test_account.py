"""The account counts witnessed facts; a lawful history has no findings, whatever happens in it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import asdict

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless_gateway.account.account import Account, SnapshotMalformedError
from gapless_gateway.account.stream_account import RECENT_CRCS_MAX, Balance
from gapless_gateway.wal.entries import (
    REASON_OVERFLOW,
    REASON_QUOTA,
    REASON_REPLACED,
    REASON_RESET,
    Conflict,
    Elsewhere,
    Entry,
    Outage,
    Progress,
    Quarantined,
    Stopped,
)
from tests.support.account_story import (
    LOG_ID,
    OTHER_LOG_ID,
    Story,
    fold,
    hello,
    lost,
    record,
    run,
    session,
    verdict,
)

STRM = b"strm"
SEEDS = st.integers(0, 2**32)


def opened(*more: Entry, next_seq: int = 1, **fields: object) -> list[Entry]:
    """A log whose one stream is opened by a HELLO."""
    return [run(1), session(hello(next_seq, **fields), 0), *more]


def progress(through: int, *, at_ms: int = 1, pending: int = 0) -> Progress:
    return Progress(at_ms, 1, ((STRM, through, 0, 0, 0),), (), (), pending)


def balance(entries: list[Entry]) -> dict[str, int]:
    account = fold(entries)
    assert verdict(account) == (0, 0, 0), account.findings + account.streams[STRM].findings
    assert account.streams[STRM].balance().holds
    return {name: count for name, count in asdict(account.balance()).items() if count}


@pytest.mark.parametrize(
    ("entries", "counts"),
    [
        pytest.param(opened(), {}, id="nothing produced"),
        pytest.param(
            opened(next_seq=4, held=((1, 3),)), {"produced": 3, "pending_device": 3}, id="held"
        ),
        pytest.param(
            opened(record(1), record(2)), {"produced": 2, "pending_gateway": 2}, id="stored"
        ),
        pytest.param(
            opened(record(1), record(2), progress(1)),
            {"produced": 2, "pending_gateway": 1, "delivered": 1},
            id="one delivered",
        ),
        pytest.param(
            opened(record(1), record(2), Quarantined(STRM, 1, 1, "big"), progress(2)),
            {"produced": 2, "quarantined": 1, "delivered": 1},
            id="one quarantined",
        ),
        pytest.param(
            opened(record(1), lost(2, 5, REASON_OVERFLOW, by_gateway=False), progress(5)),
            {"produced": 5, "delivered": 1, "lost": 4},
            id="overflow",
        ),
        pytest.param(
            opened(next_seq=8, held=((4, 6),)),
            {"produced": 7, "pending_device": 7},
            id="settled gaps wait for their place",
        ),
        pytest.param(
            opened(lost(1, 7, REASON_RESET, at_most=True), next_seq=8, exact=False),
            {"produced": 7, "lost_at_most": 7},
            id="reserved in a power cut",
        ),
        pytest.param(
            opened(record(1), record(2), lost(1, 2, REASON_QUOTA), record(3), progress(3)),
            {"produced": 3, "lost": 2, "delivered": 1},
            id="given up undelivered to keep the quota",
        ),
        pytest.param(
            opened(
                record(1), Quarantined(STRM, 1, 1, "big"), progress(1), lost(1, 1, REASON_QUOTA)
            ),
            {"produced": 1, "lost": 1},
            id="given up from the quarantine",
        ),
    ],
)
def test_every_number_is_in_one_state(entries: list[Entry], counts: dict[str, int]) -> None:
    assert balance(entries) == counts


def test_what_another_log_acked_is_outside_of_produced() -> None:
    entries = opened(
        record(1),
        session(hello(9, held=((6, 8),), acked=5, acked_by=OTHER_LOG_ID), 0, uptime_ms=2),
        Elsewhere(STRM, 2, 5, OTHER_LOG_ID),
    )
    assert balance(entries) == {"produced": 4, "pending_gateway": 1, "pending_device": 3}
    assert fold(entries).streams[STRM].durable == 5
    assert balance([*entries, record(6)]) == {
        "produced": 4, "pending_gateway": 2, "pending_device": 2,
    }  # fmt: skip


def test_a_first_contact_after_another_gateway_starts_at_its_base() -> None:
    greeting = hello(9, held=((5, 8),), acked=4, acked_by=OTHER_LOG_ID)
    entries = [run(1), session(greeting, 4), record(5), progress(0)]
    assert balance(entries) == {"produced": 4, "pending_gateway": 1, "pending_device": 3}


def test_a_conflict_is_counted() -> None:
    account = fold(opened(record(1), Conflict(STRM, 1, 1, "bytes-differ", b"other")))
    assert verdict(account) == (0, 1, 0)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (record(1), "behind"),
        (lost(1, 2, REASON_RESET), "behind"),
        (lost(1, 3, REASON_OVERFLOW, by_gateway=False), "behind"),
        (lost(3, 3, REASON_RESET), "no HELLO justifies"),
        (lost(3, 2, REASON_OVERFLOW, by_gateway=False), "none of this stream"),
        (lost(3, 3, 99, by_gateway=False), "none of this stream"),
        (progress(3), "delivered through 3, stored 2"),
        (Quarantined(STRM, 3, 1, "big"), "not stored"),
        (Elsewhere(STRM, 3, 4, OTHER_LOG_ID), "not acked by that log"),
        (Elsewhere(STRM, 1, 1, OTHER_LOG_ID), "accounted for here"),
        (session(hello(2), 0, uptime_ms=5), "lost its numbering"),
        (session(hello(3), 0, uptime_ms=1), "back in time"),
        (session(hello(3), 1, uptime_ms=5), "base"),
        (session(hello(3, uid=b"?"), 0, uptime_ms=5), "on the stream of"),
        (session(hello(3, held=((3, 3),)), 0, uptime_ms=5), "numbers next"),
        (record(3, outage=1), "never began"),
        (Outage(1, False, 1, "", 0), "had not begun"),
        (Outage(2, True, 1, "", 0), "began after 0"),
        (run(3, clean=False), "follows run 1"),
        (run(2, clean=True), "misjudges"),
        (run(2, clean=False, log_id=OTHER_LOG_ID), "of log"),
        (Stopped(1, 2), "stopped in run"),
        (Progress(1, 1, ((b"none", 1, 0, 0, 0),), (), (), 0), "never opened"),
        (Progress(1, 2, (), (), (), 0), "progress of run 2"),
        (record(1, stream=b"none"), "no session opened"),
    ],
)
def test_an_entry_that_cannot_stand_where_it_stands_is_a_finding(entry: Entry, words: str) -> None:
    account = fold(opened(record(1), record(2), entry))
    findings = [*account.findings, *[f for one in account.streams.values() for f in one.findings]]
    assert account.order_violations > 0
    assert any(words in one for one in findings), findings


def test_a_record_that_the_hello_did_not_hold_is_a_finding() -> None:
    account = fold(opened(record(1), next_seq=4, held=((2, 3),)))
    assert account.order_violations == 1


def test_the_doubt_of_a_power_cut_stays_with_its_numbers_until_they_are_settled() -> None:
    entries = opened(record(1), session(hello(8, exact=False), 0, boot=2))
    reset = [*entries, session(hello(9), 0, boot=3)]  # before anything of boot 2 was settled
    counts = {"produced": 8, "pending_gateway": 1, "lost_at_most": 6, "lost": 1}
    in_doubt, known = lost(2, 7, REASON_RESET, at_most=True), lost(8, 8, REASON_RESET)
    assert balance([*reset, in_doubt, known]) == counts
    assert fold([*reset, lost(2, 7, REASON_RESET)]).order_violations == 1


def test_a_wiped_board_leaves_nothing_open() -> None:
    successor = session(hello(1, stream=b"next"), 0, boot=2)
    entries = opened(record(1), next_seq=4, held=((1, 3),))
    replaced = [lost(2, 3, REASON_REPLACED)]
    assert balance([*entries, *replaced, successor])["lost"] == 2
    forgotten = fold([*entries, successor])
    assert forgotten.order_violations == 1
    assert forgotten.unexplained == 2
    assert fold([*entries, *replaced, record(4)]).order_violations == 1
    assert fold([*entries, *replaced, successor, record(4)]).order_violations == 1
    assert fold([*entries, lost(2, 3, REASON_REPLACED, at_most=True)]).order_violations == 1


def test_a_hole_is_unexplained_until_an_entry_explains_it() -> None:
    account = fold(opened(record(1), record(4)))
    assert verdict(account) == (2, 0, 0)
    assert account.streams[STRM].unexplained.ranges() == [(2, 3)]
    assert not account.streams[STRM].balance().holds
    assert fold(opened(record(1), record(4), record(2), record(3))).unexplained == 0


def test_the_same_number_with_other_bytes_is_a_conflict() -> None:
    assert verdict(fold(opened(record(1), record(1, data=b"other"))))[1:] == (1, 1)


def test_delivered_is_final() -> None:
    account = fold(opened(record(1), record(2), progress(2), progress(1, at_ms=2)))
    assert account.streams[STRM].delivered_through == 2
    assert account.order_violations == 1
    account = fold(opened(record(1), progress(1), lost(1, 1, REASON_QUOTA)))
    assert account.balance().delivered == 1
    assert account.order_violations == 1


def test_a_delivery_told_live_is_seen_at_once_and_is_in_no_snapshot() -> None:
    account = fold(opened(record(1), record(2)))
    account.delivered(STRM, 1)
    account.delivered(STRM, 0)
    assert account.balance().delivered == 1
    assert account.snapshot() == fold(opened(record(1), record(2))).snapshot()
    account.delivered(STRM, 3)
    assert account.order_violations == 1


def test_repeats_are_compared_with_the_last_256() -> None:
    entries = opened(*[record(seq) for seq in range(1, 301)])
    entries.append(lost(301, 301, REASON_OVERFLOW, by_gateway=False))
    account = fold(entries)
    restored = Account.restore(cbor2.loads(cbor2.dumps(account.snapshot())))
    oldest = 301 - RECENT_CRCS_MAX + 1
    for stream in (account.streams[STRM], restored.streams[STRM]):
        for seq in range(oldest, 301):
            assert stream.check_repeat(seq, record(seq).data) == "same"
            assert stream.check_repeat(seq, b"other") == "differs"
        assert stream.check_repeat(oldest - 1, b"") == "unverifiable"
        assert stream.check_repeat(301, b"") == "after-lost"
        assert stream.check_repeat(302, b"") == "unverifiable"


def test_outages_and_recoveries_are_told() -> None:
    account = fold(
        opened(
            Outage(1, True, 10, "refused", 1),
            record(1, outage=1),
            progress(0, pending=7),
            run(2, clean=False),
        )
    )
    assert account.outage is not None
    assert (account.outage.id, account.outage.peak_pending) == (1, 7)
    assert [one.run for one in account.recoveries] == [2]
    account.apply(account.next_lsn or 0, Outage(1, False, 50, "", 0))
    assert account.outage is None
    assert account.outages[0].ended_ms == 50
    assert verdict(account) == (0, 0, 0)


# -- lawful histories of all kinds


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 60))
def test_a_lawful_history_has_no_findings_and_balances_at_every_moment(
    seed: int, steps: int
) -> None:
    story = Story(seed)
    for _ in range(steps):
        story.play(1)
        account = story.account
        found = [account.findings, *[one.findings for one in account.streams.values()]]
        assert verdict(account) == (0, 0, 0), (seed, found)
        assert all(one.balance().holds for one in account.streams.values()), seed


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 60))
def test_the_states_are_those_that_the_story_knows(seed: int, steps: int) -> None:
    story = Story(seed).play(steps)
    for stream, known in story.account.streams.items():
        through = known.logged.delivered_through
        expected: Counter[str] = Counter()
        for seq in range(known.base + 1, known.claimed + 1):
            fate = story.fate.get((stream, seq), "pending_device")
            if fate == "stored":
                fate = "delivered" if seq <= through else "pending_gateway"
            expected[fate] += 1
        expected["produced"] = expected.total() - expected.pop("elsewhere", 0)
        assert known.balance() == Balance(
            **{name: expected[name] for name in asdict(known.balance())}
        ), (seed, stream)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 60), st.data())
def test_a_snapshot_goes_on_as_the_fold_from_scratch(
    seed: int, steps: int, data: st.DataObject
) -> None:
    entries = Story(seed).play(steps).entries
    cut = data.draw(st.integers(0, len(entries)))
    before = fold(entries[:cut])
    packed = cbor2.dumps(before.snapshot())
    restored = Account.restore(cbor2.loads(packed))
    assert cbor2.dumps(restored.snapshot()) == packed
    assert restored.balance() == before.balance()
    assert restored.dating.snapshot() == before.dating.snapshot()
    fold(entries[cut:], first_lsn=cut + 1, account=restored)
    assert restored.snapshot() == fold(entries).snapshot()
    assert restored.balance() == fold(entries).balance()


def test_a_snapshot_does_not_grow_with_the_records() -> None:
    few = cbor2.dumps(fold(opened(*map(record, range(1, 1_000)))).snapshot())
    many = cbor2.dumps(fold(opened(*map(record, range(1, 5_000)))).snapshot())
    assert len(many) <= len(few) + 16
    assert len(many) < 2_000


@pytest.mark.parametrize("state", [None, 7, {}, {"v": 1}, {"v": 2}, [], {"v": 1, "streams": 3}])
def test_what_is_no_snapshot_is_refused_in_one_way(state: object) -> None:
    with pytest.raises(SnapshotMalformedError):
        Account.restore(state)


@pytest.mark.parametrize("fields", [0, 5, 20, 27])
def test_a_stream_cut_short_in_a_snapshot_is_refused_and_not_left_out(fields: int) -> None:
    state = fold(opened(record(1))).snapshot()
    state["streams"] = [state["streams"][0][:fields]]
    with pytest.raises(SnapshotMalformedError):
        Account.restore(state)


def test_an_account_can_begin_in_the_middle_of_a_log() -> None:
    account = Account(LOG_ID)
    account.apply(500, run(1))
    assert verdict(account) == (0, 0, 0)
    account.apply(502, session(hello(1), 0))
    assert account.order_violations == 1


@given(SEEDS, SEEDS)
@settings(max_examples=60, deadline=None)
def test_batches_are_folded_as_their_entries_one_by_one(seed: int, damage_seed: int) -> None:
    chance = random.Random(damage_seed)
    entries = Story(seed).play(120).finish().entries
    for _ in range(chance.randrange(4)):  # also what no gateway writes
        at, other = chance.randrange(len(entries)), chance.randrange(len(entries))
        entries[at] = entries[other]
    account, at = Account(LOG_ID), 0
    while at < len(entries):
        batch = entries[at : at + chance.randrange(1, 40)]
        account.apply_all(list(enumerate(batch, at + 1)))
        at += len(batch)
    assert account.snapshot() == fold(entries).snapshot()


def test_a_batch_whose_lsn_is_not_due_is_a_finding() -> None:
    account = fold(opened(record(1)))
    account.apply_all([(9, record(2)), (10, record(3))])
    assert account.order_violations == 1
    assert account.streams[STRM].durable == 3
