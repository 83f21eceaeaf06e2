"""The gateway's side of the link: bytes and a monotonic clock in; bytes, events, a deadline out.

Theory of operation
-------------------
The owner (a session of the gateway, one per port) does:

    data arrived                       receiver.receive(data, now_ms)
    until it returns None              event = receiver.next_event(), and act on it
    after that, and at the deadline    write receiver.data_to_send(now_ms), then events again

Two small machines run beside each other. The *offer*: a HELLO waits for the owner's ``welcome``,
then for its START. The *session*: it begins with a START, and ends with the START of the next one.
So a HELLO that was left over in a buffer of the line, or forged, costs an answer and nothing else.

Records leave in the order of their seqs. What arrives beyond a hole waits in a reorder buffer
that is bounded in records and in bytes; what does not fit is dropped, and the board sends it again.

A board buffers little. What was sent to it counts as unanswered until a clock of the board echoes
its counter, or for UNANSWERED_MS; an ACK for which there is no room waits, and the next
``acknowledge`` overtakes it.
"""

from gapless_link.errors import FrameFault, LocalError
from gapless_link.frame import FLAG_KEYED, FLAG_TOWARDS_BOARD, HEADER_BYTES, FrameEncoder
from gapless_link.gateway_cbor import ValueReader
from gapless_link.gateway_framer import GatewayFramer
from gapless_link.gateway_messages import (
    COUNTER_MAX,
    FRAME_BYTES_MIN,
    NO_SESSION,
    REJECT_DEVICE_ID,
    REJECT_KEY_UNKNOWN,
    REJECT_MALFORMED,
    REJECT_VERSION,
    WORDS_BYTES_MAX,
    device_id_is_valid,
    put_all,
    read_clock,
    read_hello,
    read_lost,
    read_records,
)
from gapless_link.messages import (
    ACK,
    FRAME_BYTES_MAX,
    HELLO,
    LINK_VERSION,
    LOST,
    PING,
    RECORDS,
    REJECT,
    SEQ_MAX,
    START,
    WELCOME,
    read_head,
)
from gapless_link.reorder import (  # noqa: F401 (the events belong to the receiver's interface)
    LostReceived,
    RecordRepeated,
    RecordsReceived,
    ReorderBuffer,
)


class HelloReceived:
    """A board greets; answer with ``receiver.welcome(...)`` or ``receiver.reject(...)``.

    ``hello``: ``gateway_messages.Hello``.
    """

    __slots__ = ("hello",)

    def __init__(self, hello):
        self.hello = hello


class Started:
    """The board confirmed the WELCOME; answer with ``receiver.begin(expected, gaps)``."""

    __slots__ = ("hello",)

    def __init__(self, hello):
        self.hello = hello


class ClockSample:
    """The board's ticks were (wraps, ticks_ms) at a moment within [sent_ms, received_ms].

    Both bounds are of the gateway's ``now_ms`` and hold the granularity of both clocks already.
    """

    __slots__ = ("received_ms", "sent_ms", "ticks_ms", "wraps")

    def __init__(self, wraps, ticks_ms, sent_ms, received_ms):
        self.wraps = wraps
        self.ticks_ms = ticks_ms
        self.sent_ms = sent_ms
        self.received_ms = received_ms


class Ended:
    """The running session is over. ``why``: "new session", "silence", "closed" or "rejected"."""

    __slots__ = ("why",)

    def __init__(self, why):
        self.why = why


# The states of the offer and of the session, and what happens in them. A missing entry is the
# peer's fault (an "illegal" frame), or, for what the owner does, a LocalError.
NO_OFFER = "no offer"
GREETED = "greeted"
OFFERED = "offered"

IDLE = "idle"
STARTED = "started"
LINKED = "linked"

# What the peer does has the number of its message, what the owner does the name of its call.
START_AGAIN = "START again"
WELCOMES = "welcome()"
REJECTS = "reject()"
BEGINS = "begin()"
END = "end of the session"

OFFER_TRANSITIONS = {
    NO_OFFER: {HELLO: GREETED},
    GREETED: {WELCOMES: OFFERED, REJECTS: NO_OFFER},
    OFFERED: {HELLO: GREETED, START: NO_OFFER},
}
SESSION_TRANSITIONS = {
    IDLE: {START: STARTED},
    STARTED: {START: STARTED, START_AGAIN: STARTED, BEGINS: LINKED, END: IDLE},
    LINKED: {
        START: STARTED,
        START_AGAIN: LINKED,
        RECORDS: LINKED,
        LOST: LINKED,
        PING: LINKED,
        END: IDLE,
    },
}
_OWNERS_EVENTS = (WELCOMES, REJECTS, BEGINS, END)

# After this time what was sent to a board no longer counts as standing in its buffer.
UNANSWERED_MS = 1000
# How many sent frames are remembered for the clock: more than ever are unanswered.
SENT_FRAMES_MAX = 64
ACK_BYTES_MAX = 64
_REJECTIONS = {
    "version": (REJECT_VERSION, "this gateway speaks version %d of the link" % LINK_VERSION),
    "device_id": (
        REJECT_DEVICE_ID,
        "a device id is 1-32 of A-Z a-z 0-9 . _ -, first a letter or digit",
    ),
    "keyed": (REJECT_KEY_UNKNOWN, "this gateway has no key for this device"),
}


class _Offer:
    """A HELLO on its way to become a session, with all that is of this session only."""

    __slots__ = ("counter", "credit", "durable", "heard", "hello", "nonce", "sent", "session")

    def __init__(self, hello):
        self.hello = hello
        self.session = NO_SESSION
        self.nonce = b""
        self.durable = 0
        self.credit = 0
        # Counter of the last frame sent, and of the last one heard.
        self.counter = 0
        self.heard = 0
        # [counter, moment, bytes unanswered] of the last frames sent.
        self.sent = []


class Receiver:
    """The gateway's end of one port. See the top of this file.

    ``random_bytes(n)``: unpredictable bytes. ``hello``: the running session's, or None.
    ``counters``: totals by name, "frames_received", "frames_sent", "records_dropped" (no room in
    the reorder buffer) and one "fault_CODE" for each FrameFault.
    """

    def __init__(self, random_bytes, silence_ms=30000):
        self.offer_state = NO_OFFER
        self.session_state = IDLE
        self.hello = None
        self.counters = {}
        self._random_bytes = random_bytes
        self._silence_ms = silence_ms
        self._framer = GatewayFramer(FRAME_BYTES_MAX, 0)
        self._encoder = FrameEncoder(FRAME_BYTES_MIN, FLAG_TOWARDS_BOARD)
        self._reader = ValueReader()
        self._events = []
        self._offer = None
        self._link = None
        self._reorder = None
        self._credit_max = 0
        self._received_ms = 0
        self._heard_ms = 0
        # What waits to be sent: a WELCOME (log_id, stream), a REJECT (session, counter, items),
        # an ACK.
        self._welcome_due = None
        self._reject_due = None
        self._ack_due = False
        # Of the HELLO being read, once it is known: a refusal names it.
        self._nonce_refused = None

    # What comes in.

    def receive(self, data, now_ms):
        """Store bytes from the line that arrived at now_ms. Then call next_event until None."""
        self._received_ms = now_ms
        self._framer.feed(data)

    def next_event(self):
        """Parse on; return the next event (FrameFault included), or None: more bytes needed."""
        while not self._events:
            try:
                if not self._framer.next_frame():
                    return None
                self._take_frame()
            except FrameFault as fault:
                self._count("fault_" + fault.code)
                # What was sound before the fault comes first.
                self._events.append(fault)
        return self._events.pop(0)

    def _take_frame(self):
        framer = self._framer
        self._count("frames_received")
        reader = self._reader.load(framer.body, HEADER_BYTES, framer.cbor_end)
        if framer.session_is(NO_SESSION):
            self._take_hello(reader)
            return
        if framer.flags & FLAG_KEYED:
            raise FrameFault("keyed")
        if self.offer_state == OFFERED and framer.session_is(self._offer.session):
            link = self._offer
        elif self._link is not None and framer.session_is(self._link.session):
            link = self._link
        else:
            raise FrameFault("session")
        if framer.counter <= link.heard:
            raise FrameFault("counter")
        link.heard = framer.counter
        kind = read_head(reader)
        if link is self._offer:
            self._take_start(link, kind, reader)
        else:
            self._take_in_session(link, kind, reader)

    def _move_offer(self, event):
        self.offer_state = _next_state(OFFER_TRANSITIONS, self.offer_state, event)

    def _move_session(self, event):
        self.session_state = _next_state(SESSION_TRANSITIONS, self.session_state, event)

    def _take_hello(self, reader):
        try:
            hello = self._read_hello(reader)
        except FrameFault as fault:
            if fault.code != "session":
                code, words = _REJECTIONS.get(
                    fault.code, (REJECT_MALFORMED, "not a HELLO: " + (fault.detail or fault.code))
                )
                self._refuse(NO_SESSION, code, words, self._nonce_refused)
            raise
        self._move_offer(HELLO)
        self._offer = _Offer(hello)
        self._welcome_due = None
        self._events.append(HelloReceived(hello))

    def _read_hello(self, reader):
        self._nonce_refused = None
        if read_head(reader) != HELLO:
            raise FrameFault("session", "only HELLO comes without one")
        hello = read_hello(reader)
        self._nonce_refused = hello.nonce
        if self._framer.flags & FLAG_KEYED:
            raise FrameFault("keyed")
        if not device_id_is_valid(hello.device_id):
            raise FrameFault("device_id", repr(hello.device_id[:64]))
        return hello

    def _take_start(self, offer, kind, reader):
        if kind != START:
            raise FrameFault("illegal", "%s before START" % kind)
        clock = read_clock(reader)
        _check_start(offer, reader)
        self._move_offer(START)
        if self.session_state != IDLE:
            self._events.append(Ended("new session"))
        self._move_session(START)
        self._offer = None
        self._welcome_due = None
        self._ack_due = False
        self._link = offer
        self._reorder = None
        self.hello = offer.hello
        self._events.append(Started(offer.hello))
        self._take_clock(offer, clock)

    def _take_in_session(self, link, kind, reader):
        self._move_session(START_AGAIN if kind == START else kind)
        clock = read_clock(reader)
        if kind == RECORDS:
            # Read to its end before anything is taken: a frame counts as a whole.
            first = reader.uint()
            records = read_records(reader, first, reader.items - 3)
            self._take_clock(link, clock)
            self._take_records(first, records)
        elif kind == LOST:
            lost = read_lost(reader)
            self._take_clock(link, clock)
            self._take_lost(lost)
        else:
            if kind == START:
                _check_start(link, reader)
            reader.finish()
            self._take_clock(link, clock)
            self._ack_due = self.session_state == LINKED

    def _take_records(self, seq, records):
        reorder = self._reorder
        last = seq + len(records) - 1
        if last <= self._credit_max and reorder.add_next(seq, records, self._events):
            return
        dropped = reorder.dropped
        for data in records:
            self._check_credit(seq)
            if not reorder.add_record(seq, data, self._events):
                # A hole or a repeat: the board should know at once, not after the next sync.
                self._ack_due = True
            seq += 1
        if reorder.dropped != dropped:
            self._count("records_dropped", reorder.dropped - dropped)

    def _take_lost(self, lost):
        first, last, reason, at_most = lost
        self._check_credit(first)
        if not self._reorder.add_lost(first, last, reason, at_most, self._events):
            self._ack_due = True

    def _check_credit(self, seq):
        if seq > self._credit_max:
            self._ack_due = True
            raise FrameFault("credit", "%d beyond %d" % (seq, self._credit_max))

    def _take_clock(self, link, clock):
        """Note that the board answered, and when its ticks were what it says."""
        self._heard_ms = self._received_ms
        wraps, ticks_ms, echo, age_ms = clock
        sent = link.sent
        while sent and sent[0][0] < echo:
            sent.pop(0)
        if not sent or sent[0][0] != echo:
            return
        sent[0][2] = 0
        # The board's age is a difference of two ticks: up to one more or less than the true one.
        earliest_ms = sent[0][1] + age_ms - 1
        latest_ms = self._received_ms + 1
        if earliest_ms <= latest_ms:
            self._events.append(ClockSample(wraps, ticks_ms, earliest_ms, latest_ms))

    def _count(self, name, count=1):
        self.counters[name] = self.counters.get(name, 0) + count

    # What the owner says.

    def welcome(self, log_id, stream, durable, credit):
        """Answer the last HelloReceived: offer a session.

        log_id: bytes of 8. stream: bytes of 4. durable: int, the stream's highest seq on disk.
        credit: int, the board may send through this seq.
        """
        self._move_offer(WELCOMES)
        offer = self._offer
        while offer.session == NO_SESSION or (self._link and offer.session == self._link.session):
            offer.session = self._random_bytes(4)
        offer.nonce = self._random_bytes(8)
        offer.durable = durable
        offer.credit = min(credit, SEQ_MAX)
        self._welcome_due = (log_id, stream)

    def reject(self, code, words):
        """Answer the last HelloReceived; without one, end the running session (Ended follows)."""
        if self.offer_state == GREETED:
            self._move_offer(REJECTS)
            self._refuse(NO_SESSION, code, words, self._offer.hello.nonce)
            self._offer = None
        else:
            link = self._link
            self._end("rejected")
            link.counter += 1
            self._refuse(link.session, code, words, None, link.counter)

    def begin(self, expected, gaps):
        """Answer Started. expected: next seq to take. gaps: [(first, last, reason, at_most)]."""
        self._move_session(BEGINS)
        if expected <= self._link.durable:
            raise LocalError("begin(%d) at durable %d" % (expected, self._link.durable))
        self._credit_max = self._link.credit
        self._reorder = ReorderBuffer(expected, gaps, self._events)
        self._ack_due = True

    def acknowledge(self, durable, credit):
        """Everything through ``durable`` is on disk; an ACK leaves with the next data_to_send.

        Ignored when no session is linked: a sync may end after its session. The owner sees to it
        that ``durable`` is of the stream of the running session.
        """
        if self.session_state != LINKED:
            return
        if not self._link.durable <= durable < self._reorder.expected:
            raise LocalError("acknowledge(%d), which is not durable now" % durable)
        self._link.durable = durable
        self._link.credit = min(credit, SEQ_MAX)
        self._credit_max = max(self._credit_max, self._link.credit)
        self._ack_due = True

    def close(self):
        """End the session, if any (port gone); Ended follows from next_event."""
        self.offer_state = NO_OFFER
        self._offer = None
        self._welcome_due = None
        self._reject_due = None
        self._framer.reset()
        if self.session_state != IDLE:
            self._end("closed")

    def _end(self, why):
        self._move_session(END)
        self._link = None
        self._reorder = None
        self.hello = None
        self._ack_due = False
        self._events.append(Ended(why))

    def _refuse(self, session, code, words, nonce, counter=0):
        while len(words.encode()) > WORDS_BYTES_MAX:
            words = words[:-1]
        self._reject_due = (session, counter, (code, words, nonce))

    # What goes out.

    def data_to_send(self, now_ms):
        """Return all bytes that may leave now; b"" when none. Also runs the timers."""
        if self.session_state != IDLE and now_ms - self._heard_ms >= self._silence_ms:
            self._end("silence")
        data = b""
        if self._reject_due:
            session, counter, items = self._reject_due
            self._reject_due = None
            data += self._frame(session, counter, REJECT, items)
        if self._welcome_due:
            data += self._send_welcome(now_ms)
        if self._ack_due and self._room(now_ms):
            data += self._send_ack(now_ms)
        return data

    def next_deadline_ms(self, now_ms):
        """Return the moment (now_ms's clock) at which data_to_send wants a call, or None."""
        if self._reject_due or self._welcome_due or (self._ack_due and self._room(now_ms)):
            return now_ms
        if self.session_state == IDLE:
            return None
        deadline_ms = self._heard_ms + self._silence_ms
        if self._ack_due:
            for _, sent_ms, unanswered_bytes in self._link.sent:
                if unanswered_bytes and sent_ms + UNANSWERED_MS > now_ms:
                    deadline_ms = min(deadline_ms, sent_ms + UNANSWERED_MS)
        return deadline_ms

    def _room(self, now_ms):
        """Whether the board can buffer one more ACK."""
        unanswered_bytes = ACK_BYTES_MAX
        for _, sent_ms, frame_bytes in self._link.sent:
            if now_ms - sent_ms < UNANSWERED_MS:
                unanswered_bytes += frame_bytes
        return unanswered_bytes <= self._link.hello.limits[1]

    def _send_welcome(self, now_ms):
        offer = self._offer
        log_id, stream = self._welcome_due
        self._welcome_due = None
        items = (
            LINK_VERSION,
            log_id,
            stream,
            offer.durable,
            offer.credit,
            offer.hello.nonce,
            offer.nonce,
            b"",
        )
        return self._send(offer, now_ms, WELCOME, items)

    def _send_ack(self, now_ms):
        link = self._link
        self._ack_due = False
        items = (link.durable, link.credit, self._reorder.seen(link.durable))
        return self._send(link, now_ms, ACK, items)

    def _send(self, link, now_ms, kind, items):
        if link.counter >= COUNTER_MAX:
            self._end("counter")
            return b""
        link.counter += 1
        frame = self._frame(link.session, link.counter, kind, items)
        link.sent.append([link.counter, now_ms, len(frame)])
        if len(link.sent) > SENT_FRAMES_MAX:
            link.sent.pop(0)
        return frame

    def _frame(self, session, counter, kind, items):
        self._count("frames_sent")
        encoder = self._encoder
        at = encoder.begin(session, counter)
        return bytes(encoder.finish(put_all(encoder.buffer, at, kind, items)))


def _check_start(link, reader):
    nonce = reader.bytes(8, 8)
    reader.bytes(0, 0)
    reader.finish()
    if nonce != link.nonce:
        raise FrameFault("nonce")


def _next_state(table, state, event):
    following = table[state].get(event)
    if following is None:
        if event in _OWNERS_EVENTS:
            raise LocalError("%s does not belong into the state %s" % (event, state))
        raise FrameFault("illegal", "%s in %s" % (event, state))
    return following
