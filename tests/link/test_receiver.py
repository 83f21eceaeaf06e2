"""The gateway's end: nothing counts before START, order is kept, every buffer has its bound."""

from gapless_link.errors import LocalError
from gapless_link.receiver import (
    IDLE,
    LINKED,
    OFFERED,
    LostReceived,
    Receiver,
    RecordRepeated,
    RecordsReceived,
)
from gapless_link.reorder import REORDER_BYTES_MAX, REORDER_RECORDS_MAX
from tests.link.handmade import (
    LOG_ID,
    NO_SESSION,
    STREAM,
    clock,
    drain,
    frame,
    hello,
    messages,
    names,
)
from tests.link.simulated_line import Random


class Board:
    """A receiver, and a hand that plays the board."""

    def __init__(self, **options):
        self.receiver = Receiver(Random(5).bytes, **options)
        self.counter = 0
        self.now_ms = 1000

    def say(self, message, session=None, counter=None):
        if counter is None:
            self.counter += 1
            counter = self.counter
        session = self.session if session is None else session
        self.receiver.receive(frame(session, counter, message), self.now_ms)
        return drain(self.receiver)

    def heard(self):
        return messages(self.receiver.data_to_send(self.now_ms), True)

    def offer(self, durable=0, credit=1000, **fields):
        assert names(self.say(hello(**fields), NO_SESSION, 1)) == ["HelloReceived"]
        self.receiver.welcome(LOG_ID, STREAM, durable, credit)
        ((self.session, counter, welcome),) = self.heard()
        assert counter == 1
        self.counter = 0
        self.gateway_nonce = welcome[7]
        return welcome

    def link(self, expected=1, gaps=(), **fields):
        self.offer(durable=fields.pop("durable", expected - 1), **fields)
        events = self.say([3, clock(echo=1), self.gateway_nonce, b""])
        assert "Started" in names(events)
        self.receiver.begin(expected, gaps)
        return drain(self.receiver)

    def records(self, first, count=1, size=10):
        return self.say([4, clock(), first] + [_data(first + i, size) for i in range(count)])

    def ack(self):
        ((_, _, ack),) = self.heard()
        assert ack[0] == 6
        return ack[1:]


def _data(seq, size=10):
    return (b"%d." % seq + b"x" * size)[:size]


def _taken(events):
    return [
        seq
        for event in events
        if isinstance(event, RecordsReceived)
        for seq in range(event.first, event.first + len(event.records))
    ]


def _misused(call, *values):
    try:
        call(*values)
    except LocalError:
        return True
    return False


def test_a_hello_alone_changes_nothing():
    board = Board()
    welcome = board.offer(durable=7, credit=99)
    assert welcome[:6] == [2, 1, LOG_ID, STREAM, 7, 99]
    assert board.receiver.session_state == IDLE


def test_a_stale_hello_does_not_touch_the_running_session():
    board = Board()
    board.link()
    session, counter = board.session, board.counter
    board.heard()
    board.offer(nonce=b"old-old-")
    board.session, board.counter = session, counter
    assert _taken(board.records(1)) == [1]
    assert board.receiver.session_state == LINKED
    assert board.receiver.offer_state == OFFERED


def test_a_stale_start_does_nothing():
    board = Board()
    board.offer()
    assert names(board.say([3, clock(), b"old-old-", b""])) == ["nonce"]
    assert names(board.say([3, clock(), b"old-old-", b""], b"old.")) == ["session"]
    assert board.receiver.session_state == IDLE


def test_nothing_but_start_is_taken_in_an_offered_session():
    board = Board()
    board.offer()
    assert names(board.records(1)) == ["illegal"]
    assert names(board.say([8, clock()])) == ["illegal"]
    assert names(board.say([5, clock(), 1, 2, 1, False])) == ["illegal"]


def test_records_before_begin_are_not_taken():
    board = Board()
    board.offer()
    board.say([3, clock(), board.gateway_nonce, b""])
    assert names(board.records(1)) == ["illegal"]


def test_a_repeated_start_is_answered_again():
    board = Board()
    board.link()
    assert board.ack() == [0, 1000, b""]
    assert names(board.say([3, clock(), board.gateway_nonce, b""])) == []
    assert board.ack() == [0, 1000, b""]
    assert names(board.say([3, clock(), b"other---", b""])) == ["nonce"]


def test_a_new_start_ends_the_session_before():
    board = Board()
    board.link()
    before = board.session
    board.heard()
    board.offer(nonce=b"nonce-02")
    assert names(board.say([3, clock(), board.gateway_nonce, b""])) == ["Ended", "Started"]
    board.receiver.begin(1, [])
    assert names(board.say([8, clock()], before, 99)) == ["session"]


def test_counters_that_repeat_or_go_back_are_dropped():
    board = Board()
    board.link()
    assert _taken(board.records(1)) == [1]
    assert names(board.say([4, clock(), 2, b"x"], counter=board.counter)) == ["counter"]
    assert names(board.say([4, clock(), 2, b"x"], counter=1)) == ["counter"]
    assert _taken(board.say([4, clock(), 2, b"x"], counter=board.counter + 10)) == [2]


def test_records_leave_in_order_and_holes_are_named_to_the_board():
    board = Board()
    board.link()
    board.heard()
    assert _taken(board.records(1, 2)) == [1, 2]
    assert board.heard() == []
    assert _taken(board.records(4, 2)) == []
    # Seen are 1, 2 (not durable yet), 4 and 5.
    assert board.ack() == [0, 1000, bytes((0b11011,))]
    assert _taken(board.records(3)) == [3, 4, 5]
    board.receiver.acknowledge(5, 2000)
    assert board.ack() == [5, 2000, b""]


def test_a_repeat_is_handed_out_to_be_compared():
    board = Board()
    board.link()
    board.records(1)
    board.records(3)
    (repeat,) = board.records(1)
    assert isinstance(repeat, RecordRepeated) and (repeat.seq, repeat.data) == (1, _data(1))
    assert board.records(3) == []
    (other,) = board.say([4, clock(), 3, b"other"])
    assert isinstance(other, RecordRepeated) and other.data == b"other"
    (taken, repeat) = board.records(2, 2)
    assert taken.records == [_data(2), _data(3)]
    assert (repeat.seq, repeat.data) == (3, _data(3))


def test_gaps_are_handed_out_in_their_places():
    board = Board()
    assert names(board.link(expected=5, gaps=[(5, 6, 2, False), (9, 9, 7, True)])) == [
        "LostReceived"
    ]
    events = board.records(7, 2)
    assert names(events) == ["RecordsReceived", "LostReceived"]
    assert _taken(events) == [7, 8]
    lost = events[1]
    assert (lost.first, lost.last, lost.reason, lost.at_most, lost.by_gateway) == (
        9,
        9,
        7,
        True,
        True,
    )
    assert _taken(board.records(10)) == [10]


def test_a_record_beats_a_lost():
    board = Board()
    board.link()
    board.records(4)
    events = board.say([5, clock(), 1, 6, 1, False])
    assert names(events) == ["LostReceived", "RecordsReceived", "LostReceived"]
    assert _taken(events) == [4]
    assert [(e.first, e.last) for e in events if isinstance(e, LostReceived)] == [(1, 3), (5, 6)]
    assert names(board.records(2)) == ["RecordRepeated"]


def test_of_a_lost_only_what_is_new_counts():
    board = Board()
    board.link()
    board.records(1, 3)
    (lost,) = board.say([5, clock(), 2, 5, 1, False])
    assert (lost.first, lost.last) == (4, 5)
    assert board.say([5, clock(), 2, 5, 1, False]) == []


def test_a_lost_beyond_a_hole_waits_and_is_seen():
    board = Board()
    board.link()
    board.heard()
    assert board.say([5, clock(), 2, 3, 1, False]) == []
    assert board.ack()[2] == bytes((0b110,))
    assert names(board.records(1)) == ["RecordsReceived", "LostReceived"]


def test_the_reorder_buffer_is_bounded_in_records():
    board = Board()
    board.link(credit=10000)
    for first in range(2, 600, 10):
        board.records(first, 10)
    reorder = board.receiver._reorder
    assert len(reorder._records) == REORDER_RECORDS_MAX - 1
    assert board.receiver.counters["records_dropped"] > 300
    assert len(board.ack()[2]) == 32
    assert len(_taken(board.records(1))) == REORDER_RECORDS_MAX


def test_the_reorder_buffer_is_bounded_in_bytes():
    board = Board()
    board.link(credit=10000)
    for seq in range(2, 250):
        board.records(seq, 1, 440)
    reorder = board.receiver._reorder
    assert REORDER_BYTES_MAX - 440 < reorder._bytes <= REORDER_BYTES_MAX
    board.records(1)
    assert reorder._bytes == 0


def test_waiting_lost_ranges_are_bounded():
    board = Board()
    board.link()
    for first in range(3, 200, 4):
        board.say([5, clock(), first, first, 1, False])
    assert len(board.receiver._reorder._ranges) == 16


def test_records_beyond_the_credit_are_not_taken():
    board = Board()
    board.link(credit=3)
    events = board.records(1, 5)
    assert names(events) == ["RecordsReceived", "credit"]
    assert _taken(events) == [1, 2, 3]
    # Credit that was given once is not taken back.
    board.receiver.acknowledge(3, 10)
    board.receiver.acknowledge(3, 3)
    assert _taken(board.records(4, 2)) == [4, 5]


def test_what_was_sent_to_a_board_stays_within_its_buffer():
    board = Board()
    board.link(limits=(128, 256))
    sent_bytes = len(board.receiver.data_to_send(board.now_ms))
    for _ in range(50):
        board.say([8, clock()])
        sent_bytes += len(board.receiver.data_to_send(board.now_ms))
    assert sent_bytes <= 256 - 20
    assert board.receiver.next_deadline_ms(board.now_ms) > board.now_ms
    # The board answers: there is room again.
    board.say([8, clock(echo=board.receiver._link.counter)])
    assert len(board.heard()) == 1


def test_an_unanswered_frame_holds_acks_back_for_a_bounded_time():
    board = Board()
    board.link(limits=(128, 128))
    board.heard()
    for _ in range(9):
        board.say([8, clock()])
        board.heard()
    deadline_ms = board.receiver.next_deadline_ms(board.now_ms)
    assert board.now_ms < deadline_ms <= board.now_ms + 1000
    board.now_ms = deadline_ms
    assert len(board.heard()) == 1


def test_a_clock_is_bounded_by_what_it_echoes():
    board = Board()
    board.offer()
    board.now_ms += 500
    events = board.say([3, clock(ticks_ms=77, echo=1, age_ms=400), board.gateway_nonce, b""])
    sample = events[1]
    assert (sample.wraps, sample.ticks_ms) == (0, 77)
    assert (sample.sent_ms, sample.received_ms) == (1000 + 400 - 1, 1501)
    board.receiver.begin(1, [])
    # An age that cannot be true, and an echo of what was never sent, say nothing.
    assert names(board.say([8, clock(echo=1, age_ms=9000)])) == []
    assert names(board.say([8, clock(echo=99)])) == []


def test_a_rejected_hello_starts_nothing():
    board = Board()
    board.say(hello(), NO_SESSION, 1)
    board.receiver.reject(2, "words that are long " * 9)
    ((session, _, reject),) = board.heard()
    assert session == NO_SESSION
    assert reject[1] == 2 and len(reject[2]) == 88 and reject[3] == b"nonce-01"
    assert board.receiver.session_state == IDLE


def test_a_running_session_can_be_refused():
    board = Board()
    board.link()
    board.heard()
    board.receiver.reject(7, "the log cannot be written")
    ((session, _, reject),) = board.heard()
    assert session == board.session and reject[1] == 7
    assert names(drain(board.receiver)) == ["Ended"]
    assert names(board.records(1)) == ["session"]


def test_silence_and_closing_end_the_session():
    board = Board(silence_ms=3000)
    board.link()
    board.heard()
    board.now_ms = board.receiver.next_deadline_ms(board.now_ms)
    assert board.now_ms == 4000
    board.heard()
    (ended,) = drain(board.receiver)
    assert ended.why == "silence"
    board.link(nonce=b"nonce-02")
    board.receiver.close()
    (ended,) = drain(board.receiver)
    assert ended.why == "closed"
    board.receiver.close()
    assert drain(board.receiver) == []


def test_misuse_is_a_local_error():
    board = Board()
    receiver = board.receiver
    assert _misused(receiver.welcome, LOG_ID, STREAM, 0, 1)
    assert _misused(receiver.begin, 1, [])
    assert _misused(receiver.reject, 1, "no")
    receiver.acknowledge(1, 1)
    board.link()
    assert _misused(receiver.acknowledge, 1, 5)
    assert _misused(receiver.begin, 1, [])


def test_a_malformed_frame_is_not_taken_in_part():
    board = Board()
    board.link()
    assert names(board.say([4, clock(), 1, b"good", b""])) == ["schema"]
    assert names(board.say([4, clock(), 0, b"good"])) == ["schema"]
    assert names(board.say([4, clock(), 2**30 - 1, b"good", b"good"])) == ["schema"]
    assert names(board.say([4, clock(), 1, b"x" * 441])) == ["schema"]
    assert names(board.say([5, clock(), 5, 4, 1, False])) == ["schema"]
    assert names(board.say([5, clock(), 1, 2, 8, False])) == ["schema"]
    assert _taken(board.records(1)) == [1]
