"""The board's end: it sends what credit allows, again what was lost, and frees what is durable."""

from gapless_link.errors import LocalError
from gapless_link.flights import WINDOW_SEQS, Flights
from gapless_link.messages import REASON_OVERFLOW, TICKS_MASK
from gapless_link.receiver import Receiver
from gapless_link.sender import GREETING, LINKED, Identity, Sender
from tests.link.handmade import LOG_ID, STREAM, drain, from_gateway, messages, names
from tests.link.two_ends import ListOutbox, record_bytes

# As docs/wire-format.md says.
TIMEOUT_MAX_MS = 4000
WINDOW_FRAMES = len(Flights(b"").first)

SESSION = b"sess"
NONCE = b"gateway1"


class Gateway:
    """A sender, and a hand that plays the gateway."""

    def __init__(self, records=0, capacity=1000, **options):
        self.outbox = ListOutbox(capacity)
        self.identity = Identity("pump-1", b"uid-1")
        self.sender = Sender(self.identity, self.outbox, **options)
        self.now_ms = 5000
        self.counter = 0
        self.add(records)

    def add(self, count, size=0):
        for _ in range(count):
            self.outbox.add(record_bytes(self.outbox.next_seq, size))

    def say(self, message, session=SESSION, counter=None):
        if counter is None:
            self.counter += 1
            counter = self.counter
        self.sender.receive(from_gateway(session, counter, message), self.now_ms)
        return drain(self.sender)

    def heard(self):
        """All messages that leave now."""
        data = b""
        while True:
            frame = self.sender.data_to_send(self.now_ms)
            if not len(frame):
                break
            assert len(frame) <= 512
            data += bytes(frame)
        return [message for _, _, message in messages(data, False)]

    def wait(self):
        """Let time pass to the sender's next deadline; return ms."""
        wait_ms = self.sender.next_deadline_ms(self.now_ms)
        self.now_ms = (self.now_ms + wait_ms) & TICKS_MASK
        return wait_ms

    def welcome(self, durable=0, credit=1000, stream=STREAM):
        (hello,) = self.heard()
        self.counter = 0
        return self.say([2, 1, LOG_ID, stream, durable, credit, hello[14], NONCE, b""])

    def link(self, durable=0, credit=1000):
        assert names(self.welcome(durable, credit)) == ["WELCOMED"]
        self.sender.confirm()
        drain(self.sender)
        (start,) = self.heard()
        assert start[0] == 3 and start[2] == NONCE
        assert names(self.ack(durable, credit)) == ["LINKED"]

    def ack(self, durable, credit=1000, bitmap=b""):
        return self.say([6, durable, credit, bitmap])


def _seqs(heard):
    """(first, number) of each RECORDS, ("lost", first, last) of each LOST."""
    found = []
    for message in heard:
        if message[0] == 4:
            found.append((message[2], len(message) - 3))
        elif message[0] == 5:
            found.append(("lost", message[2], message[3]))
        else:
            found.append(message[0])
    return found


def test_a_hello_says_what_the_board_holds():
    gateway = Gateway(records=3)
    (hello,) = gateway.heard()
    assert hello[:6] == [1, 1, 1, "pump-1", b"uid-1", None]
    assert hello[9:14] == [4, True, [[1, 3]], 0, None]
    assert len(hello[14]) == 8 and hello[15] == [512, 2048]


def test_hello_is_repeated_ever_more_slowly_with_a_new_nonce():
    gateway = Gateway()
    waits_ms = []
    nonces = set()
    for _ in range(12):
        (hello,) = gateway.heard()
        nonces.add(hello[14])
        waits_ms.append(gateway.wait())
    assert len(nonces) == 12
    assert 500 <= waits_ms[0] <= 625
    assert 8000 <= waits_ms[-1] <= 10000
    assert waits_ms[:5] == sorted(waits_ms[:5])
    assert len(set(waits_ms[-5:])) > 1


def test_boards_do_not_wait_alike():
    waits_ms = set()
    for uid in (b"uid-1", b"uid-2", b"uid-3"):
        sender = Sender(Identity("pump-1", uid), ListOutbox())
        sender.data_to_send(0)
        sender.data_to_send(0)
        waits_ms.add(sender.next_deadline_ms(0))
    assert len(waits_ms) == 3


def test_a_welcome_that_answers_another_hello_does_nothing():
    gateway = Gateway()
    gateway.heard()
    assert names(gateway.say([2, 1, LOG_ID, STREAM, 0, 9, b"old-old-", NONCE, b""])) == ["nonce"]
    assert gateway.sender.state == GREETING


def test_a_welcome_for_another_stream_does_nothing():
    gateway = Gateway()
    gateway.identity.stream = b"mine"
    assert names(gateway.welcome()) == ["schema"]
    assert gateway.sender.state == GREETING


def test_start_leaves_only_once_the_owner_has_confirmed():
    gateway = Gateway()
    assert names(gateway.welcome()) == ["WELCOMED"]
    sender = gateway.sender
    assert (sender.stream, sender.log_id, sender.durable) == (STREAM, LOG_ID, 0)
    assert gateway.heard() == [] and gateway.sender.next_deadline_ms(gateway.now_ms) is None
    gateway.sender.confirm()
    assert gateway.identity.stream == STREAM
    assert [message[0] for message in gateway.heard()] == [3]
    try:
        gateway.sender.confirm()
    except LocalError:
        pass
    else:
        raise AssertionError("confirmed twice")


def test_start_is_repeated_until_it_is_answered_and_no_record_leaves_before():
    gateway = Gateway(records=2)
    gateway.welcome()
    gateway.sender.confirm()
    for _ in range(3):
        assert [message[0] for message in gateway.heard()] == [3]
        gateway.wait()
    assert names(gateway.ack(0)) == ["LINKED"]
    assert _seqs(gateway.heard()) == [(1, 2)]


def test_waiting_records_share_a_frame():
    gateway = Gateway(records=50)
    gateway.link()
    assert _seqs(gateway.heard()) == [(1, 20), (21, 20), (41, 10)]


def test_records_as_long_as_allowed_leave_one_by_one():
    gateway = Gateway()
    for _ in range(3):
        gateway.outbox.add(b"\x01" * 440)
    gateway.link()
    assert _seqs(gateway.heard()) == [(1, 1), (2, 1), (3, 1)]


def test_credit_is_kept_and_a_credit_used_up_is_probed():
    gateway = Gateway(records=30)
    gateway.link(credit=5)
    assert _seqs(gateway.heard()) == [(1, 5)]
    assert names(gateway.ack(5, credit=5)) == ["DURABLE"]
    assert gateway.heard() == []
    for _ in range(3):
        assert 0 < gateway.wait() <= 1000
        assert _seqs(gateway.heard()) == [8]
        gateway.ack(5, credit=5)
    gateway.ack(5, credit=7)
    assert _seqs(gateway.heard()) == [(6, 2)]


def test_an_idle_board_pings():
    gateway = Gateway(keep_alive_ms=2000)
    gateway.link()
    assert gateway.heard() == []
    gateway.wait()
    assert _seqs(gateway.heard()) == [8]


def test_the_window_is_bounded_in_frames_and_in_seqs():
    gateway = Gateway(records=1000)
    gateway.link(credit=100000)
    assert sum(count for _, count in _seqs(gateway.heard())) == WINDOW_SEQS
    gateway = Gateway()
    gateway.add(100, 400)
    gateway.link(credit=100000)
    assert len(gateway.heard()) == WINDOW_FRAMES


def test_only_durable_frees():
    gateway = Gateway(records=60)
    gateway.link()
    gateway.heard()
    assert names(gateway.ack(0, bitmap=b"\xff" * 7)) == []
    assert gateway.outbox.freed_through == 0
    assert gateway.heard() == []
    assert names(gateway.ack(40)) == ["DURABLE"]
    assert gateway.sender.durable == gateway.outbox.freed_through == gateway.identity.acked == 40
    assert gateway.identity.acked_by == LOG_ID


def test_a_frame_that_later_ones_overtook_is_sent_again_at_once_and_alone():
    gateway = Gateway(records=60)
    gateway.link()
    gateway.heard()
    # Seen are 21-60; the frame with 1-20 was lost.
    seen = bytes((0, 0, 0xF0)) + b"\xff" * 4 + bytes((0x0F,))
    gateway.ack(0, bitmap=seen)
    assert _seqs(gateway.heard()) == [(1, 20)]
    gateway.ack(0, bitmap=seen)
    assert gateway.heard() == []


def test_a_frame_without_an_answer_is_sent_again_ever_more_slowly():
    gateway = Gateway(records=5, silence_ms=100000, keep_alive_ms=90000)
    gateway.link()
    gateway.heard()
    waits_ms = []
    for _ in range(6):
        waits_ms.append(gateway.wait())
        assert _seqs(gateway.heard()) == [(1, 5)]
    assert waits_ms[0] < waits_ms[1] < waits_ms[2]
    assert max(waits_ms) <= TIMEOUT_MAX_MS * 5 // 4


def test_the_timeout_follows_the_round_trip():
    for trip_ms, low_ms, high_ms in ((30, 100, 300), (700, 700, 2000)):
        gateway = Gateway(silence_ms=100000, keep_alive_ms=90000)
        gateway.link()
        for seq in range(1, 30):
            gateway.add(1)
            gateway.heard()
            gateway.now_ms += trip_ms
            gateway.ack(seq)
        gateway.add(1)
        gateway.heard()
        assert low_ms <= gateway.wait() <= high_ms, trip_ms


def test_what_overflowed_under_way_is_declared_lost_in_its_place():
    gateway = Gateway(records=30, capacity=30)
    gateway.link()
    assert _seqs(gateway.heard()) == [(1, 20), (21, 10)]
    gateway.add(10)
    assert _seqs(gateway.heard()) == [(31, 10)]
    # 1-10 are gone by now; all three frames were lost.
    gateway.now_ms += 2000
    heard = _seqs(gateway.heard())
    assert heard[0] == ("lost", 1, 10)
    assert heard[1:] == [(11, 20), (31, 10)]


def test_a_long_lost_needs_one_frame():
    gateway = Gateway(records=5000, capacity=10)
    gateway.link(credit=100)
    assert gateway.heard()[0][2:] == [1, 4990, REASON_OVERFLOW, False]


def test_numbers_that_the_board_does_not_hold_are_passed_over():
    gateway = Gateway()
    gateway.outbox.next_seq = 41
    gateway.add(2)
    gateway.link()
    assert _seqs(gateway.heard()) == [(41, 2)]


def test_silence_ends_the_session_and_the_board_greets_again():
    gateway = Gateway(records=3, silence_ms=5000)
    gateway.link()
    gateway.heard()
    passed_ms = 0
    while gateway.sender.state == LINKED:
        passed_ms += gateway.wait()
        heard = gateway.heard()
    assert 5000 <= passed_ms <= 5100
    assert names(drain(gateway.sender)) == ["UNLINKED"]
    assert heard[-1][0] == 1 and heard[-1][11] == [[1, 3]]
    # All that is not durable is sent again in the next session.
    gateway.counter = 0
    gateway.say([2, 1, LOG_ID, STREAM, 0, 9, heard[-1][14], NONCE, b""], b"new.")
    gateway.sender.confirm()
    gateway.heard()
    gateway.say([6, 0, 9, b""], b"new.")
    assert _seqs(gateway.heard()) == [(1, 3)]


def test_a_refusal_is_told_and_asked_again_slowly():
    gateway = Gateway()
    (hello,) = gateway.heard()
    assert names(gateway.say([7, 2, "another uid", hello[14]], b"\0\0\0\0", 1)) == ["REJECTED"]
    assert gateway.sender.rejection == (2, b"another uid")
    assert gateway.wait() >= 8000
    assert gateway.heard()[0][0] == 1
    assert names(gateway.say([7, 2, "stale", b"old-old-"], b"\0\0\0\0", 2)) == ["nonce"]


def test_a_refusal_of_the_session_ends_it():
    gateway = Gateway()
    gateway.link()
    assert names(gateway.say([7, 7, "full", None], b"\0\0\0\0", 9)) == ["nonce"]
    assert names(gateway.say([7, 7, "full", None])) == ["UNLINKED", "REJECTED"]
    assert gateway.sender.state == GREETING


def test_frames_of_other_sessions_and_old_counters_do_nothing():
    gateway = Gateway(records=5)
    gateway.link()
    gateway.heard()
    assert names(gateway.say([6, 5, 1000, b""], b"old.")) == ["session"]
    assert names(gateway.say([6, 5, 1000, b""], counter=2)) == ["counter"]
    assert names(gateway.say([6, 6, 1000, b""])) == ["ack"]
    assert names(gateway.say([4, [0, 0, 0, 0], 1, b"x"])) == ["illegal"]
    assert gateway.outbox.freed_through == 0


def test_a_clock_echoes_the_last_frame_and_its_age():
    gateway = Gateway()
    gateway.link()
    gateway.now_ms += 40
    gateway.add(1)
    (records,) = gateway.heard()
    assert records[1] == [0, gateway.now_ms, gateway.counter, 40]


def test_ticks_may_wrap_at_any_moment():
    for ahead_ms in range(0, 3000, 250):
        gateway = Gateway(records=3, silence_ms=100000)
        gateway.now_ms = TICKS_MASK - ahead_ms
        gateway.link()
        gateway.heard()
        assert 1000 <= gateway.wait() <= 1250
        assert _seqs(gateway.heard()) == [(1, 3)]


def test_events_that_nobody_fetches_stay_bounded():
    gateway = Gateway()
    sender = gateway.sender
    for _ in range(100):
        sender.state = LINKED
        sender.restart()
    assert names(drain(sender)) == ["UNLINKED"]


def test_what_a_boot_loader_printed_costs_no_hello():
    sender = Sender(Identity("pump-1", b"uid-1"), ListOutbox())
    line = b"MPY: soft reboot\r\n" + bytes(sender.data_to_send(0)) + bytes(sender.data_to_send(0))
    receiver = Receiver(lambda count: b"r" * count)
    receiver.receive(line, 0)
    assert names(drain(receiver)) == ["cobs", "HelloReceived"]


def test_a_new_session_begins_with_an_empty_window_and_its_own_credit():
    gateway = Gateway(silence_ms=5000)
    gateway.add(40, 400)
    gateway.link()
    assert len(gateway.heard()) == WINDOW_FRAMES
    gateway.now_ms += 5000
    gateway.welcome(credit=3)
    gateway.sender.confirm()
    gateway.heard()
    gateway.ack(0, credit=3)
    assert _seqs(gateway.heard()) == [(1, 1), (2, 1), (3, 1)]
    gateway.ack(0)
    assert [seq for seq, _ in _seqs(gateway.heard())] == list(range(4, WINDOW_FRAMES + 1))


def test_the_answer_to_a_repeated_frame_measures_nothing():
    gateway = Gateway(records=1, silence_ms=100000, keep_alive_ms=90000)
    gateway.link()
    gateway.heard()
    gateway.wait()
    gateway.heard()
    gateway.now_ms += 5
    gateway.ack(1)
    gateway.add(1)
    gateway.heard()
    assert gateway.wait() >= 1000
