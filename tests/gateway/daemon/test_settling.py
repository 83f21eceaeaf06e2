"""What a HELLO claims is settled at START: gaps, wiped boards, repeats, contradictions."""

from __future__ import annotations

import cbor2

from gapless_link import messages
from tests.support.running_gateway import eventually


async def test_what_a_reset_lost_without_a_word_is_declared_by_the_gateway(gateway, boards):
    board = boards("pump-1")
    board.sample(10)
    board.outbox.forget(4, 6)
    await gateway.start([board.path])
    await eventually(lambda: board.acked_through == 10)
    metrics = await gateway.metrics()
    assert metrics.value("gapless_seqs", state="lost") == 3
    assert metrics.value("gapless_seqs", state="lost_at_most") == 0
    assert metrics.value("gapless_seqs", state="pending_gateway") == 7
    assert metrics.value("gapless_lost_ranges_total", device="pump-1", reason="reset") == 1
    metrics.assert_balanced()


async def test_numbers_that_a_power_cut_reserved_are_lost_at_most(gateway, boards):
    board = boards("pump-1")
    await gateway.start([board.path])
    board.sample(5)
    await eventually(lambda: board.acked_through == 5)
    board.outbox.next_seq = 105
    board.identity.exact = False
    board.boot()
    board.sample(1)
    await eventually(lambda: board.acked_through == 105)
    metrics = await gateway.metrics()
    assert metrics.value("gapless_seqs", state="lost_at_most") == 99
    metrics.assert_balanced()


async def test_what_the_board_declares_lost_is_stored_in_its_place(gateway, boards):
    board = boards("pump-1")
    await gateway.start([board.path])
    await eventually(lambda: board.linked)
    board.outbox.next_seq = 21
    board.outbox.lose(1, 20, messages.REASON_OVERFLOW)
    board.sample(5)
    await eventually(lambda: board.acked_through == 25)
    metrics = await gateway.metrics()
    assert metrics.value("gapless_seqs", state="lost") == 20
    assert metrics.value("gapless_lost_ranges_total", reason="overflow") >= 1
    metrics.assert_balanced()


async def test_a_restarted_board_goes_on_and_nothing_is_stored_twice(gateway, boards):
    board = boards("pump-1")
    await gateway.start([board.path])
    for turn in range(1, 5):
        board.sample(8)
        board.boot()  # in the middle of whatever was on its way
        board.sample(2)
        await eventually(lambda turn=turn: board.acked_through == 10 * turn)
    metrics = await gateway.metrics()
    assert metrics.value("gapless_produced_seqs") == 40
    assert metrics.value("gapless_seqs", state="pending_gateway") == 40
    metrics.assert_balanced()


async def test_a_wiped_board_gets_a_new_stream_and_the_old_one_is_closed(gateway, boards):
    board = boards("pump-1", b"uid-1")
    await gateway.start([board.path])
    board.sample(5)
    await eventually(lambda: board.acked_through == 5)
    old = board.identity.stream
    board.unplug()
    wiped = boards("pump-1", b"uid-1")
    wiped.identity.boot = 1
    wiped.sample(3)
    await eventually(lambda: wiped.acked_through == 3)
    assert wiped.identity.stream not in {None, old}
    account = (await gateway.get("/account"))[1]
    assert {one["stream"]: one["closed"] for one in account["streams"]} == {
        old.hex(): True,
        wiped.identity.stream.hex(): False,
    }
    (await gateway.metrics()).assert_balanced()


async def test_what_a_wiped_board_still_held_is_declared_lost_with_its_old_stream(gateway, boards):
    board = boards("pump-1", b"uid-1")
    await gateway.start([board.path])
    board.sample(5)
    await eventually(lambda: board.acked_through == 5)
    board.outbox.find = lambda _: 0  # it has 6 to 8, says so, and never gets to send them
    board.sample(3)
    board.boot()
    board.run()
    await gateway.metric_reaches(2, "gapless_link_sessions_started_total")
    board.unplug()
    wiped = boards("pump-1", b"uid-1")
    wiped.sample(3)
    await eventually(lambda: wiped.acked_through == 3)
    metrics = await gateway.metrics()
    assert metrics.value("gapless_lost_ranges_total", device="pump-1", reason="replaced") == 1
    metrics.assert_balanced()
    account = (await gateway.get("/account"))[1]
    lost = {one["closed"]: one["balance"]["lost"] for one in account["streams"]}
    assert lost == {True: 3, False: 0}
    assert account["order_violations"] == 0


async def test_what_another_gateway_has_acked_is_elsewhere_and_nobodys_loss(gateway, boards):
    board = boards("pump-1")
    await gateway.start([board.path])
    board.sample(5)
    await eventually(lambda: board.acked_through == 5)
    # The board was with another gateway meanwhile, which took 6 to 15.
    board.outbox.next_seq = 16
    board.identity.acked, board.identity.acked_by = 15, b"another!"
    board.boot()
    board.sample(5)
    await eventually(lambda: board.acked_through == 20)
    metrics = await gateway.metrics()
    assert metrics.value("gapless_produced_seqs") == 10
    assert metrics.value("gapless_seqs", state="lost") == 0
    metrics.assert_balanced()


async def test_one_new_board_on_two_ports_at_once_ends_up_on_one_and_on_one_stream(gateway, boards):
    one, two = boards("pump-1", b"uid-1"), boards("pump-1", b"uid-1", port="other")
    await gateway.start([one.path, two.path])
    await gateway.metric_reaches(2, "gapless_link_sessions_started_total")
    account = (await gateway.get("/account"))[1]
    assert len([port for port in account["ports"] if port["device"] == "pump-1"]) <= 1
    metrics = await gateway.metrics()
    assert metrics.value("gapless_link_sessions_moved_total") >= 1
    metrics.assert_balanced()


async def test_a_repeat_with_the_same_bytes_is_suppressed_and_counted(gateway, boards):
    board = boards("pump-1")
    await gateway.start([board.path])
    board.sample(5)
    held = dict(board.outbox.records)
    await eventually(lambda: board.acked_through == 5)
    resend(board, held)
    await gateway.metric_reaches(5, "gapless_records_suppressed_total", device="pump-1")
    metrics = await gateway.metrics()
    assert metrics.value("gapless_produced_seqs") == 5
    assert metrics.value("gapless_record_conflicts_total") == 0
    metrics.assert_balanced()


async def test_a_repeat_with_other_bytes_is_kept_as_evidence_and_not_stored(gateway, boards):
    board = boards("pump-1")
    await gateway.start([board.path])
    board.sample(5)
    await eventually(lambda: board.acked_through == 5)
    resend(board, {3: cbor2.dumps([1, 0, 77, 0, {"value": "something else"}])})
    await gateway.metric_reaches(
        1, "gapless_record_conflicts_total", device="pump-1", what="bytes-differ"
    )
    await gateway.metric_reaches(1, "gapless_conflicts", device="pump-1")
    metrics = await gateway.metrics()
    assert metrics.value("gapless_seqs", state="pending_gateway") == 5
    metrics.assert_balanced()


async def test_a_record_that_comes_after_its_lost_is_kept_as_evidence(gateway, boards):
    board = boards("pump-1")
    board.sample(5)
    record = board.outbox.records[2]
    board.outbox.lose(2, 2, messages.REASON_OVERFLOW)
    await gateway.start([board.path])
    await eventually(lambda: board.acked_through == 5)
    resend(board, {2: record})
    await gateway.metric_reaches(1, "gapless_record_conflicts_total", what="record-after-lost")
    metrics = await gateway.metrics()
    assert metrics.value("gapless_seqs", state="lost") == 1
    assert metrics.value("gapless_seqs", state="pending_gateway") == 4
    metrics.assert_balanced()


async def test_records_are_dated_by_the_exchanges_of_their_session(gateway, boards):
    board = boards("pump-1")
    await gateway.start([board.path])
    await eventually(lambda: board.linked)
    before_ms = gateway.daemon._clock.utc_ms()
    board.sample(3)
    await eventually(lambda: board.acked_through == 3)
    after_ms = gateway.daemon._clock.utc_ms()
    records = [
        one for _, one in gateway.daemon._wal.read(1, 1000) if type(one).__name__ == "Record"
    ]
    assert len(records) == 3
    for one in records:
        assert before_ms - 5 <= one.t_hi_ms
        assert one.t_lo_ms <= after_ms + 5
        assert one.t_lo_ms <= one.t_hi_ms
        assert one.t_source in {1, 2}


def resend(board, records):
    """Send records within the running session as if they had never been acked."""
    sender = board.sender
    encoder = sender._encoder
    for seq, data in records.items():
        sender._counter += 1
        at = encoder.begin(sender._session, sender._counter)
        message = cbor2.dumps([messages.RECORDS, [0, board.now_ms, 0, 0], seq, data])
        encoder.buffer[at : at + len(message)] = message
        board.write_raw(bytes(encoder.finish(at + len(message))))
