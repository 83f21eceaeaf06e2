"""What the histories found once, told shortly: each of these failed before it was set right."""

from __future__ import annotations

import dataclasses

import pytest

from gapless_gateway.account import identity
from gapless_gateway.account.account import Account
from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.account.settling import settle
from gapless_gateway.account.stream_account import StreamAccount
from gapless_gateway.linked import LinkedStream
from gapless_gateway.publisher.delivery import Delivery
from gapless_gateway.wal.cursor import SLOT_BYTES, Cursor, read_cursor, write_cursor_file
from gapless_gateway.wal.entries import Elsewhere, Gone, Lost, Outage, Progress, Record
from gapless_gateway.wal.errors import WalTooNew
from gapless_gateway.wal.healing import Gap, ReadableRun, SegmentReading, assign_by_accounts
from tests.support.account_story import LOG_ID, OTHER_LOG_ID, hello, session
from tests.support.account_story import run as run_entry
from tests.support.simulated_disk import SimulatedDisk
from tests.support.wal_history import (
    STATE_DIR,
    STREAM,
    History,
    live,
    open_log,
    read_all,
    record,
    run,
)
from tests.support.wal_history import session as session_entry

WAL = STATE_DIR / "wal"


def rot_entry(disk: SimulatedDisk, log_path, data: bytes) -> None:
    at = bytes(disk.content(log_path)).index(data)
    disk.rot(log_path, at, 0)


def test_what_another_log_has_is_not_acked_as_ours_before_we_wrote_that_down() -> None:
    first_contact = hello(9, acked=8, acked_by=OTHER_LOG_ID)
    settlement = settle(first_contact, None, LOG_ID)
    assert (settlement.durable, settlement.stored) == (8, 0)
    known = StreamAccount(b"strm", "pump-1", b"uid-1", 0)
    known.durable = 5
    settlement = settle(first_contact, known, LOG_ID)
    assert settlement.elsewhere == ((6, 8, OTHER_LOG_ID),)
    assert settlement.stored == 0, "the board would forget that another log has 6..8"
    assert settle(hello(9, held=((6, 8),)), known, LOG_ID).stored == 5


def test_what_another_log_answers_for_is_not_declared_lost_though_a_hole_lies_before_it() -> None:
    known = StreamAccount(b"strm", "pump-1", b"uid-1", 0)
    known.elsewhere.assign(6, 6, OTHER_LOG_ID)
    settlement = settle(hello(10, held=((7, 9),), acked=6, acked_by=LOG_ID), known, LOG_ID)
    assert [(first, last) for first, last, _, _ in settlement.gaps] == [(1, 5)]
    assert [(first, last) for first, last, _, _ in settlement.skipped] == [(1, 5), (6, 6)]


def test_a_stream_whose_closing_lost_went_bad_is_closed_all_the_same() -> None:
    account = Account(LOG_ID)
    account.apply(1, run_entry(1))
    account.apply(2, session(hello(6, held=((1, 5),)), 0))
    account.apply(3, Gone(3, "corruption", ()))
    account.apply(4, session(dataclasses.replace(hello(1), stream=b"next"), 0, boot=2))
    stream = account.streams[b"strm"]
    assert account.order_violations == account.unexplained == 0
    assert [(first, last) for first, last, _ in stream.lost] == [(1, 5)]


def test_a_number_that_was_told_of_in_this_run_is_known_to_have_been() -> None:
    delivery = Delivery(
        resume_lsn=1, send_mark_lsn=0, durable_lsn=9, delivered_through={},
        on_delivered=lambda _flight: None, on_moved=lambda _stream, _through: None,
    )  # fmt: skip
    quota = Lost(STREAM, 1, 3, 5, False, True, 1, 0)
    assert not delivery.is_passed(quota)
    delivery.send(4, quota)
    assert delivery.is_passed(quota), "the entry behind it says the same again: flagged"
    delivery.send(5, Elsewhere(STREAM, 8, 9, OTHER_LOG_ID))
    assert not delivery.is_passed(record(7)), "elsewhere may stand ahead of what is before it"


def test_a_board_whose_first_session_went_bad_is_let_in_again() -> None:
    account = Account(LOG_ID)
    account.apply(1, run_entry(1))
    account.apply(2, Gone(2, "corruption", ()))
    account.apply(3, Record(b"strm", 1, 5, 1, 2, 1, 0, b"x"))
    greeting = hello(3, held=((2, 2),), acked=1, acked_by=LOG_ID)
    assert identity.check(greeting, account) is None
    account.apply(4, session(greeting, 0))
    assert account.streams[b"strm"].device == "pump-1"
    assert account.order_violations == 0


def test_what_is_gone_is_no_finding_in_what_was_built_on_it() -> None:
    account = Account(LOG_ID)
    account.apply(1, run_entry(1))
    account.apply(2, Gone(2, "corruption", ()))  # the beginning of outage 1, a first Session
    account.apply(3, run_entry(2, clean=False))
    account.apply(4, session(hello(6, acked=5, acked_by=OTHER_LOG_ID), 0))
    account.apply(5, Elsewhere(b"strm", 1, 5, OTHER_LOG_ID))
    account.apply(6, Outage(1, False, 9, "backlog delivered", 0))
    account.apply(7, Outage(2, True, 10, "closed", 0))
    assert account.order_violations == 0, account.findings
    assert Account.restore(account.snapshot()).snapshot() == account.snapshot()


def test_numbers_that_a_progress_behind_the_damage_calls_delivered_stood_in_it() -> None:
    disk, history = SimulatedDisk(), History()
    log = open_log(disk, segment_bytes_max=1 << 20)
    history.commit(log, run(log, 1), session_entry(3))
    history.commit(log, record(1))
    history.commit(log, record(2))
    history.commit(log, Progress(9, 1, ((STREAM, 2, 0, 0, 0),), (), (), 0))
    log.close()
    rot_entry(disk, WAL / "0000000000000001.wal", record(2).data)
    log = open_log(disk)
    assert dict(read_all(log))[4] == Gone(4, "corruption", ((STREAM, 2, 2),))
    assert log.account.order_violations == 0


def test_a_number_out_of_quarantine_is_no_sign_of_where_a_gap_ends() -> None:
    disk, history = SimulatedDisk(), History()
    log = open_log(disk, segment_bytes_max=1 << 20)
    history.commit(log, run(log, 1), session_entry(4))
    for seq in (1, 2, 3, 2):  # 2 came again, at LSN 6: the first one had been unreadable
        history.commit(log, record(seq))
    history.commit(log, run(log, 2))
    log.close()
    rot_entry(disk, WAL / "0000000000000001.wal", record(2).data)
    assert dict(read_all(open_log(disk)))[4] == Gone(4, "corruption", ((STREAM, 2, 2),))


def test_what_a_board_gave_up_is_told_apart_from_what_comes_next() -> None:
    """It holds LOST 1..3; 1 and 2 stand in the log and cannot be read, 3 is new."""
    linked = LinkedStream.__new__(LinkedStream)
    linked._stored_through, linked._reclaiming = 2, IntervalSet([(1, 2)])
    assert linked._not_stored(1, 3) == [(1, 2), (3, 3)]
    assert linked._not_stored(1, 2) == [(1, 2)]
    assert linked._not_stored(3, 4) == [(3, 4)]


def test_what_a_hello_says_is_held_stood_behind_it() -> None:
    reading = SegmentReading(
        [
            Gap(1, 2, 0, ""),
            ReadableRun(0, 1, held={STREAM: IntervalSet([(1, 4)])}),
            Gap(5, 6, 0, ""),
            ReadableRun(0, 1, told={STREAM: IntervalSet([(2, 4)])}),
        ]
    )
    assign_by_accounts(reading, {}, {STREAM: IntervalSet([(1, 4)])})
    assert [one.ranges for one in reading.gaps] == [[], [(STREAM, 1, 1)]]


def test_each_of_several_gaps_gets_the_numbers_that_stood_there() -> None:
    disk, history = SimulatedDisk(), History()
    log = live(disk, history, batches=27, delivering_batches=9)
    log.close()
    path = sorted(one for one in disk.names if one.parent == WAL)[1]
    first_lsn = int(path.stem, 16)
    inside = list(range(first_lsn, first_lsn + 5))
    records = {lsn: history.appended[lsn] for lsn in inside if lsn in history.appended}
    hit = [lsn for lsn, one in records.items() if isinstance(one, Record)][::2][:2]
    for lsn in hit:
        rot_entry(disk, path, records[lsn].data)  # type: ignore[union-attr]
    found = dict(read_all(open_log(disk)))
    for lsn in hit:
        seq = records[lsn].seq  # type: ignore[union-attr]
        assert found[lsn] == Gone(lsn, "corruption", ((STREAM, seq, seq),))


def test_a_cursor_with_one_bad_slot_may_be_the_older_one() -> None:
    disk, history = SimulatedDisk(), History()
    log = open_log(disk, segment_bytes_max=1 << 20)
    history.commit(log, run(log, 1), record(1), record(2), record(3))
    history.store_cursor(log, 2, 2, 0)
    history.store_cursor(log, 3, 3, 1)  # and then record 2 was sent
    log.close()
    newest = read_cursor(disk, STATE_DIR / "cursor")
    assert newest is not None
    disk.rot(STATE_DIR / "cursor", newest.generation % 2 * SLOT_BYTES + 50, 1)
    log = open_log(disk)
    assert log.cursor.resume_lsn == 2
    assert log.cursor.send_mark_lsn == log.next_lsn - 1, "it may all have been sent"
    write_cursor_file(disk, STATE_DIR / "cursor", Cursor(log.log_id))
    again = read_cursor(disk, STATE_DIR / "cursor")
    assert again is not None and not again.may_be_old, "an empty slot is no bad one"


def test_a_format_number_that_went_bad_is_told_in_a_sentence_while_the_gateway_runs() -> None:
    disk, history = SimulatedDisk(), History()
    live(disk, history, batches=27, delivering_batches=9).close()
    log = open_log(disk)
    path = sorted(one for one in disk.names if one.parent == WAL)[1]
    disk.rot(path, 8, 5)
    with pytest.raises(WalTooNew, match=path.name):
        read_all(log)
    log.close()
    disk.rot(path, 8, 5)
    disk.rot(STATE_DIR / "header", 8, 5)  # the copy is only a copy
    newest = max(one for one in disk.names if one.parent == WAL)
    disk.rot(newest, 70, 1)
    assert open_log(disk.after_kill()).next_lsn == max(history.appended) + 1


def test_records_of_a_segment_with_a_bad_header_can_be_dropped() -> None:
    disk, history = SimulatedDisk(), History()
    live(disk, history, batches=27, delivering_batches=9).close()
    path = sorted(one for one in disk.names if one.parent == WAL)[1]
    wanted = open_log(disk.after_power_cut(0, "all")).upkeep.drop(int(path.stem, 16))
    log = open_log(disk)
    disk.rot(path, 70, 1)
    assert log.upkeep.drop(int(path.stem, 16)) == wanted != []


def test_two_bad_bits_in_neighbours_do_not_make_a_segment_between_them_missing() -> None:
    disk, history = SimulatedDisk(), History()
    live(disk, history, batches=27, delivering_batches=9).close()
    *_, before, newest = sorted(one for one in disk.names if one.parent == WAL)
    disk.rot(before, len(disk.content(before)) - 3, 1)  # in its last batch
    disk.rot(newest, 70, 1)
    log = open_log(disk)
    assert [*dict(read_all(log))][-1] == max(history.appended)
