"""The small machines inside the publisher, without a broker and without a log."""

from __future__ import annotations

import random

import pytest

from gapless_gateway.back_off import BackOff
from gapless_gateway.publisher.delivery import Delivery, Flight
from gapless_gateway.publisher.outages import Outages
from gapless_gateway.publisher.receipts import Receipt, ReceiptRefused, Receipts, parse
from gapless_gateway.publisher.settings import PublisherSettings
from gapless_gateway.wal.entries import Elsewhere, Entry, Lost, Outage, Record

A, B = b"aaaa", b"bbbb"


def record(stream: bytes, seq: int) -> Record:
    return Record(stream, seq, 0, 0, 0, 1, 0, b"")


class Moves:
    """A Delivery, and what it told."""

    def __init__(
        self, *, resume_lsn: int = 1, send_mark_lsn: int = 0, durable_lsn: int = 0
    ) -> None:
        self.through: list[tuple[bytes, int]] = []
        self.delivered: list[Flight] = []
        self.delivery = Delivery(
            resume_lsn=resume_lsn,
            send_mark_lsn=send_mark_lsn,
            durable_lsn=durable_lsn,
            delivered_through={},
            on_delivered=self.delivered.append,
            on_moved=lambda stream, through: self.through.append((stream, through)),
        )

    def send(self, lsn: int, entry: Record | Lost | Elsewhere) -> Flight:
        flight = self.delivery.send(lsn, entry)
        self.delivery.next_lsn = lsn + 1
        return flight


def test_streams_are_delivered_apart_and_resume_waits_for_the_slowest() -> None:
    moves = Moves()
    flights = [moves.send(n + 1, record(s, seq)) for n, (s, seq) in enumerate(
        [(A, 1), (B, 1), (A, 2), (B, 2)]
    )]  # fmt: skip
    moves.delivery.deliver(flights[1])
    moves.delivery.deliver(flights[3])
    assert moves.through == [(B, 1), (B, 2)]
    assert moves.delivery.resume_lsn == 1
    moves.delivery.deliver(flights[2])
    assert moves.through == [(B, 1), (B, 2)]
    moves.delivery.deliver(flights[0])
    assert moves.through[-1] == (A, 2)
    assert moves.delivery.resume_lsn == 5
    assert moves.delivery.flights == 0


def test_after_a_rewind_only_the_undelivered_is_sent_again_and_flagged() -> None:
    moves = Moves()
    flights = [moves.send(lsn, record(A, lsn)) for lsn in range(1, 6)]
    moves.delivery.deliver(flights[0])
    moves.delivery.deliver(flights[3])
    moves.delivery.rewind()
    assert moves.delivery.next_lsn == 2
    assert moves.delivery.resend_through == 5
    assert moves.delivery.is_delivered(record(A, 1))
    assert not moves.delivery.is_delivered(record(A, 4))


def test_what_was_not_durable_was_never_sent_however_far_the_mark_reaches() -> None:
    assert Moves(send_mark_lsn=4096, durable_lsn=100).delivery.resend_through == 100
    assert Moves(send_mark_lsn=64, durable_lsn=100).delivery.resend_through == 64


def test_elsewhere_ahead_of_its_place_does_not_deliver_what_comes_after_it() -> None:
    moves = Moves()
    ahead = moves.send(1, Elsewhere(A, 5, 9, b"other"))
    moves.delivery.deliver(ahead)
    assert moves.through == []
    assert not moves.delivery.is_delivered(record(A, 4))


def test_a_receipt_stops_at_what_is_held_back() -> None:
    moves = Moves()
    flights = [moves.send(lsn, record(A, lsn)) for lsn in range(1, 5)]
    flights[1].held_back = True
    assert moves.delivery.deliver_through(A, 4)
    assert moves.through == [(A, 1)]
    assert not moves.delivery.deliver_through(A, 4)


def test_an_outage_lasts_to_the_end_of_its_backlog_and_a_loss_extends_it() -> None:
    entries: list[Entry] = []

    def append(entry: Outage) -> int:
        entries.append(entry)
        return len(entries)

    outages = Outages(append, last_id=4, open_id=0)
    assert (outages.current_id, outages.open_id) == (0, 0)
    outages.lost("killed", 10, 3)
    outages.lost("still away", 11, 4)
    assert (outages.current_id, outages.open_id) == (5, 5)
    outages.reconnected(backlog_end_lsn=20)
    assert (outages.current_id, outages.open_id) == (0, 5)
    assert not outages.is_drained(20)
    outages.lost("killed again", 12, 5)
    assert outages.current_id == 5
    assert not outages.is_drained(99)
    outages.reconnected(backlog_end_lsn=30)
    assert outages.is_drained(31)
    outages.ended(13, 0)
    assert (outages.current_id, outages.open_id) == (0, 0)
    outages.lost("next", 14, 0)
    assert entries == [
        Outage(5, True, 10, "killed", 3),
        Outage(5, False, 13, "backlog delivered", 0),
        Outage(6, True, 14, "next", 0),
    ]


def test_an_outage_that_was_open_in_the_log_goes_on() -> None:
    outages = Outages(lambda _: 0, last_id=4, open_id=4)
    assert outages.current_id == 4


def test_the_first_record_can_leave_within_a_second_of_the_brokers_return() -> None:
    settings = PublisherSettings(gateway="g")
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    back_off = BackOff(settings.retry_first_s, settings.retry_cap_s, random.Random(seed))
    waits = [back_off.next_delay_s() for _ in range(200)]
    assert max(waits) <= 0.8
    assert min(waits) > 0
    assert len({round(wait, 6) for wait in waits[10:]}) > 100, "no jitter"
    assert waits[0] < min(waits[10:]), "no growth"
    back_off.reset()
    assert back_off.next_delay_s() <= settings.retry_first_s


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"5", b"[]", b"{}", b"\xff", b'{"device":"d","stream":"zz","through":1}',
        b'{"device":"d","stream":"0a1b2c","through":1}',
        b'{"device":"d","stream":"0a1b2c3d","through":1.5}',
        b'{"device":"d","stream":5,"through":1}',
        b'{"device":"e","stream":"0a1b2c3d","through":1}',
        b'{"device":"d","stream":"0a1b2c3d","through":1073741824}',
        b"[" * 1000, b'{"device":"d","stream":"0a1b2c3d","through":1}' + b" " * 1024,
    ],
)  # fmt: skip
def test_a_malformed_receipt_is_refused(payload: bytes) -> None:
    with pytest.raises(ReceiptRefused, match="malformed"):
        parse("gapless/g/receipt/d", payload)


def test_a_receipt_is_believed_no_further_than_what_was_sent() -> None:
    receipts = Receipts()
    receipt = Receipt("d", A, 10)
    with pytest.raises(ReceiptRefused, match="beyond-sent"):
        receipts.accept(receipt, device="d", durable=20, sent=9, delivered=0)
    with pytest.raises(ReceiptRefused, match="stranger"):
        receipts.accept(receipt, device=None, durable=20, sent=20, delivered=0)
    assert not receipts.heard_in_session
    assert receipts.accept(receipt, device="d", durable=20, sent=10, delivered=0) == 10
    assert receipts.heard_in_session
    receipts.begin_session()
    assert not receipts.heard_in_session
    assert receipts.heard == {A: 10}
