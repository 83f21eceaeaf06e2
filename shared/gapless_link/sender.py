"""The board's side of the link: bytes and ticks in, bytes, events and a deadline out.

Theory of operation
-------------------
The owner (the firmware's loop) does, for ever:

    data = whatever the line has            sender.receive(data, now_ms)
    while True: event = sender.next_event() until it is None, and act on it
    while True: frame = sender.data_to_send(now_ms) until it is empty, and write each
    sleep until sender.next_deadline_ms(now_ms), bytes arrive, or a record was added

``now_ms``: ticks in [0, 2**30), compared modulo 2**30. When the ticks wrap, the owner sets
``sender.wraps`` to the new number of wraps before the next call.

``outbox`` is what the owner keeps of records that are not yet durable at the gateway:

    outbox.next_seq              the seq that the next record will get (int)
    outbox.find(seq)             the lowest seq >= seq that the outbox answers for, as a record or
                                 as LOST; 0 when there is none
    outbox.size(seq)             bytes of the record (at most messages.RECORD_BYTES_MAX); 0 when
                                 this seq is LOST or not the outbox's
    outbox.read_into(seq, buffer, at)   copies the record's bytes to buffer[at:], returns their
                                 number
    outbox.lost_range(seq)       (first, last, reason, at_most) of the LOST that seq lies in
    outbox.free_through(seq)     seq is durable at the gateway: forget everything up to it
    outbox.held()                [(first, last), ...] ascending, not adjacent, at most 8: all that
                                 the board will still send, as records or as LOST

Between two calls of the sender the outbox may grow, and a record may become LOST (overflow). It
never answers for a number it does not hold, and never changes a record's bytes.

What was sent and not yet acked is kept per frame, in a fixed number of slots: first and last seq,
when, how often, and under which counter. A frame is sent again when its time is over, or as soon
as the gateway has seen a frame that was sent after it: the line keeps the order, so it was lost.
Only the highest seq of an ACK's ``durable`` frees; its bitmap spares sending again.
"""

from struct import pack

from gapless_link import cbor
from gapless_link.errors import FrameFault, LocalError
from gapless_link.flights import WINDOW_SEQS, Flights, Jitter, since
from gapless_link.frame import (
    FLAG_KEYED,
    FLAG_TOWARDS_BOARD,
    HEADER_BYTES,
    NO_SESSION,
    FrameEncoder,
    Framer,
)
from gapless_link.messages import (
    ACK,
    BITMAP_BYTES_MAX,
    COUNTER_MAX,
    FRAME_BYTES_MAX,
    LINK_VERSION_MAX,
    LINK_VERSION_MIN,
    LOST,
    PING,
    RECORDS,
    RECORDS_PER_FRAME_MAX,
    REJECT,
    SEQ_MAX,
    START,
    WELCOME,
    put_clock,
    put_hello,
    put_message,
    read_head,
    read_reject,
    read_welcome,
)


class Identity:
    """What a board says about itself in HELLO; the owner fills it in from its own storage.

    The sender keeps ``stream``, ``acked`` and ``acked_by`` up to date; the owner stores them.
    """

    def __init__(
        self,
        device_id,  # str, 1..32 of A-Z a-z 0-9 . _ -, first a letter or digit
        uid,  # bytes, 1..16, the MCU's own
        *,
        stream=None,  # bytes of 4, or None when none was minted yet
        boot=1,  # int, counts boots; below 2**30
        exact=True,  # False: next_seq was reserved after a power cut
        acked=0,  # int, highest seq acked so far, 0 none
        acked_by=None,  # bytes of 8, the log_id that acked it
        firmware="",  # str, version
        board="",  # str
        runtime="",  # str, interpreter and version
        frame_bytes_max=512,  # longest frame this board can buffer, at least 128
        unanswered_bytes_max=2048,  # bytes it can buffer in all
    ):
        self.device_id = device_id
        self.uid = uid
        self.stream = stream
        self.boot = boot
        self.exact = exact
        self.acked = acked
        self.acked_by = acked_by
        self.firmware = firmware
        self.board = board
        self.runtime = runtime
        self.frame_bytes_max = frame_bytes_max
        self.unanswered_bytes_max = unanswered_bytes_max


class Welcomed:
    """The gateway offers a session. Store ``stream`` and ``log_id``, then ``sender.confirm()``.

    ``stream``: bytes of 4 (minted now if the board had none). ``log_id``: bytes of 8.
    ``durable``: int. When ``durable >= outbox.next_seq``, numbers up to it were used before and
    forgotten here: move ``next_seq`` beyond it before confirming.
    """

    def __init__(self, stream, log_id, durable):
        self.stream = stream
        self.log_id = log_id
        self.durable = durable


class Linked:
    """The session runs: records flow."""


class Durable:
    """Everything up to ``seq`` is on the gateway's disk; the outbox was told already."""

    def __init__(self, seq):
        self.seq = seq


class Rejected:
    """The gateway refuses: ``code`` (messages.REJECT_*), ``words`` (str). HELLO goes on, slowly."""

    def __init__(self, code, words):
        self.code = code
        self.words = words


class Unlinked:
    """The session ended. ``why``: "silence", "rejected" or "restart"."""

    def __init__(self, why):
        self.why = why


# States, and what happens in them. A missing entry is the peer's fault (an "illegal" frame), or,
# for what the owner does, a LocalError.
GREETING = "greeting"
WELCOMED = "welcomed"
STARTING = "starting"
LINKED = "linked"

CONFIRM = "confirm"
END = "end"

TRANSITIONS = {
    GREETING: {WELCOME: WELCOMED, REJECT: GREETING, END: GREETING},
    WELCOMED: {CONFIRM: STARTING, REJECT: GREETING, END: GREETING},
    STARTING: {ACK: LINKED, REJECT: GREETING, END: GREETING},
    LINKED: {ACK: LINKED, REJECT: GREETING, END: GREETING},
}

# First and longest wait for an answer to HELLO and START; each wait doubles the next one.
GREETING_MIN_MS = 500
GREETING_MAX_MS = 8000
# How often a board asks whether a credit that is used up has grown.
PROBE_MS = 1000
# Events that wait for the owner. Beyond it they are counted, not kept.
EVENTS_MAX = 8
# Where the records of a frame begin at the latest: the array's head and type 2, clock 21, seq 5.
_RECORDS_HEAD_END_MAX = 1 + HEADER_BYTES + 28


class Sender:
    """One board's end of the link. See the top of this file.

    ``counters``: totals by name, "frames_sent", "frames_repeated", "frames_received" and one
    "fault_CODE" for each FrameFault.
    """

    def __init__(self, identity, outbox, keep_alive_ms=2000, silence_ms=5000):
        self.identity = identity
        self.outbox = outbox
        self.state = GREETING
        self.wraps = 0
        self.durable = 0
        self.credit = 0
        self.counters = {}
        self._keep_alive_ms = keep_alive_ms
        self._silence_ms = silence_ms
        self._framer = Framer(identity.frame_bytes_max, FLAG_TOWARDS_BOARD)
        self._encoder = FrameEncoder(FRAME_BYTES_MAX, 0)
        self._reader = cbor.Reader()
        self._events = []
        self._durable_event = Durable(0)
        self._welcome = None
        self._hellos = 0
        self._nonce = b""
        self._session = NO_SESSION
        self._counter = 0
        self._echo = 0
        self._received_ms = 0
        self._heard_ms = 0
        self._sent_ms = None
        # The wait for WELCOME or for the ACK of START, and how often it was doubled.
        self._attempts = 0
        self._wait_ms = 0
        self._line_ended = False
        self._jitter = Jitter(identity.uid)
        self._flights = Flights(self._jitter)
        # The lowest seq that was not sent in this session.
        self._next = 0

    # What comes in.

    def receive(self, data, now_ms):
        """Store bytes from the line (bytes, bytearray or memoryview) that arrived at now_ms.

        They are read in place: leave them alone until ``next_event`` has returned None.
        """
        self._received_ms = now_ms
        self._framer.feed(data)

    def next_event(self):
        """Parse on; return the next event (Welcomed ... or a FrameFault), or None.

        An event is valid until the next call.
        """
        while not self._events:
            try:
                if not self._framer.next_frame():
                    return None
                self._take_frame()
            except FrameFault as fault:
                self._count("fault_" + fault.code)
                return fault
        return self._events.pop(0)

    def _take_frame(self):
        framer = self._framer
        self._count("frames_received")
        if framer.flags & FLAG_KEYED:
            raise FrameFault("keyed")
        reader = self._reader.load(framer.body, framer.cbor_at, framer.cbor_end)
        kind = read_head(reader)
        if kind == WELCOME:
            self._take_welcome(reader)
        elif kind == REJECT and framer.session_is(NO_SESSION):
            self._take_reject(reader, False)
        else:
            self._check_session()
            if kind == REJECT:
                self._take_reject(reader, True)
            elif kind == ACK:
                self._take_ack(reader)
            else:
                raise FrameFault("illegal", str(kind))

    def _check_session(self):
        if self._session is NO_SESSION or not self._framer.session_is(self._session):
            raise FrameFault("session")
        if self._framer.counter <= self._echo:
            raise FrameFault("counter")

    def _move(self, event):
        """Go to the next state; nothing else assigns it."""
        state = TRANSITIONS[self.state].get(event)
        if state is None:
            if event == CONFIRM:
                raise LocalError("confirm() belongs to a Welcomed event, not into " + self.state)
            raise FrameFault("illegal", "%s in %s" % (event, self.state))
        self.state = state

    def _accept(self):
        """The frame is sound and of this session: remember it for the next clock."""
        self._echo = self._framer.counter
        self._heard_ms = self._received_ms

    def _take_welcome(self, reader):
        welcome = read_welcome(reader)
        if welcome.device_nonce != self._nonce:
            raise FrameFault("nonce")
        if not LINK_VERSION_MIN <= welcome.version <= LINK_VERSION_MAX:
            raise FrameFault("version", str(welcome.version))
        if self._framer.session_is(NO_SESSION):
            raise FrameFault("session")
        if self.identity.stream not in (None, welcome.stream):
            raise FrameFault("schema", "another stream")
        self._move(WELCOME)
        self._welcome = welcome
        self._session = bytes(self._framer.body[1:5])
        self._accept()
        self._push(Welcomed(welcome.stream, welcome.log_id, welcome.durable))

    def _take_reject(self, reader, in_session):
        code, words, nonce = read_reject(reader)
        if not in_session and (self.state != GREETING or nonce not in (None, self._nonce)):
            raise FrameFault("nonce")
        self._end("rejected", REJECT)
        # A gateway that refuses is asked again at the slowest pace.
        self._attempts = 8
        self._wait(self._received_ms, GREETING_MIN_MS, GREETING_MAX_MS)
        self._push(Rejected(code, words))

    def _take_ack(self, reader):
        durable = reader.uint()
        credit = reader.uint()
        bitmap_at = reader.skip_string(cbor.BYTES, 0, BITMAP_BYTES_MAX)
        reader.finish()
        if not self.durable <= durable < self.outbox.next_seq:
            raise FrameFault("ack", str(durable))
        linked = self.state == LINKED
        self._move(ACK)
        self._accept()
        self.credit = credit
        if not linked:
            self._attempts = 0
            self._push(Linked())
        bitmap = self._framer.body
        self._flights.answered(durable, bitmap, bitmap_at, reader.at, self._received_ms)
        if durable > self.durable:
            self._free(durable)

    def _free(self, durable):
        """The one place where the outbox learns what it may forget."""
        self.durable = durable
        if self._next <= durable:
            self._next = durable + 1
        self.outbox.free_through(durable)
        self.identity.acked = durable
        self.identity.acked_by = self._welcome.log_id
        # One event object for all: what was not fetched yet is overtaken by the higher seq.
        self._durable_event.seq = durable
        if self._durable_event not in self._events:
            self._push(self._durable_event)

    def _end(self, why, event):
        linked = self.state == LINKED
        self._move(event)
        self._session = NO_SESSION
        self._nonce = b""
        self._attempts = 0
        self._sent_ms = None
        if linked:
            self._push(Unlinked(why))

    def _push(self, event):
        if len(self._events) < EVENTS_MAX:
            self._events.append(event)
        else:
            self._count("events_dropped")

    def _count(self, name):
        self.counters[name] = self.counters.get(name, 0) + 1

    # What the owner says.

    def confirm(self):
        """The owner stored what Welcomed said: START may leave."""
        self._move(CONFIRM)
        welcome = self._welcome
        self.identity.stream = welcome.stream
        self.durable = welcome.durable
        self.credit = welcome.credit
        self._next = welcome.durable + 1
        self._flights.forget_from(0)
        self._counter = 0
        self._attempts = 0
        self._sent_ms = None
        if welcome.durable:
            self._free(welcome.durable)

    def restart(self):
        """Forget the session and greet anew at once (the line was away)."""
        self._end("restart", END)
        self._framer.reset()

    # What goes out.

    def data_to_send(self, now_ms):
        """Return the next frame as a memoryview, valid until the next call; b"" when none is due.

        Call until empty. A frame that was handed out must be written before the next call.
        """
        if self.state in (STARTING, LINKED) and (
            since(now_ms, self._heard_ms) >= self._silence_ms or self._counter >= COUNTER_MAX
        ):
            self._end("silence", END)
        if self.state == LINKED:
            return self._send_linked(now_ms)
        if self.state == WELCOMED or self._still_waiting_ms(now_ms):
            return b""
        if self.state == GREETING and not self._line_ended:
            # Ends whatever stands on the line (a boot message), so that it costs no HELLO.
            self._line_ended = True
            return b"\0"
        self._line_ended = False
        self._wait(now_ms, GREETING_MIN_MS, GREETING_MAX_MS)
        if self.state == GREETING:
            return self._send_hello(now_ms)
        return self._send_start(now_ms)

    def next_deadline_ms(self, now_ms):
        """Return in how many ms (>= 0) ``data_to_send`` will be due without anything happening.

        None when nothing is timed. A *duration*, not a moment, since ticks wrap.
        """
        if self.state == WELCOMED:
            return None
        if self.state == GREETING:
            return self._still_waiting_ms(now_ms)
        wait_ms = self._silence_ms - since(now_ms, self._heard_ms)
        if self.state == STARTING:
            return max(0, min(wait_ms, self._still_waiting_ms(now_ms)))
        if self._flights.free_slot() >= 0 and self._sendable():
            return 0
        wait_ms = min(wait_ms, self._idle_ms() - since(now_ms, self._sent_ms))
        return max(0, self._flights.wait_ms(now_ms, wait_ms))

    def _wait(self, now_ms, first_ms, longest_ms):
        self._wait_ms = self._jitter.add(min(first_ms << self._attempts, longest_ms))
        self._attempts = min(self._attempts + 1, 8)
        self._sent_ms = now_ms

    def _still_waiting_ms(self, now_ms):
        if self._sent_ms is None:
            return 0
        return max(0, self._wait_ms - since(now_ms, self._sent_ms))

    def _send_hello(self, now_ms):
        self._hellos += 1
        # Never used before by this board: boots, HELLOs of this boot, and the time.
        self._nonce = pack(">HHI", self.identity.boot & 0xFFFF, self._hellos & 0xFFFF, now_ms)
        at = self._encoder.begin(NO_SESSION, self._hellos)
        buffer = self._encoder.buffer
        at = put_hello(buffer, at, self.identity, self.outbox, self.wraps, now_ms, self._nonce)
        return self._finish(at, now_ms)

    def _send_start(self, now_ms):
        at = self._begin(START, now_ms)
        buffer = self._encoder.buffer
        at = cbor.put_string(buffer, at, cbor.BYTES, self._welcome.gateway_nonce)
        return self._finish(cbor.put_string(buffer, at, cbor.BYTES, b""), now_ms)

    def _send_linked(self, now_ms):
        slot = self._flights.overdue_slot(now_ms)
        if slot >= 0:
            return self._send_again(slot, now_ms)
        slot = self._flights.free_slot()
        if slot >= 0:
            seq = self._sendable()
            if seq:
                frame = self._send_flight(
                    slot, seq, min(self.credit, self.durable + WINDOW_SEQS), now_ms
                )
                self._next = self._flights.last[slot] + 1
                return frame
        if since(now_ms, self._sent_ms) >= self._idle_ms():
            return self._finish(self._begin(PING, now_ms), now_ms)
        return b""

    def _send_again(self, slot, now_ms):
        flights = self._flights
        last = flights.last[slot]
        seq = self.outbox.find(flights.first[slot])
        if not seq or seq > last:
            flights.first[slot] = 0
            return self._send_linked(now_ms)
        self._count("frames_repeated")
        frame = self._send_flight(slot, seq, last, now_ms)
        if flights.last[slot] < last:
            # Part of the flight became LOST and needs a frame of its own: go back behind this one.
            self._next = flights.last[slot] + 1
            flights.forget_from(self._next)
        return frame

    def _send_flight(self, slot, seq, last_max, now_ms):
        """Send what begins at ``seq`` and note it in the slot."""
        if self.outbox.size(seq):
            at = self._begin(RECORDS, now_ms)
            at, last = self._put_records(at, seq, last_max)
        else:
            at = self._begin(LOST, now_ms)
            at, last = self._put_lost(at, seq, last_max if self._flights.tries[slot] else SEQ_MAX)
        self._flights.sent(slot, seq, last, self._counter, now_ms)
        return self._finish(at, now_ms)

    def _put_records(self, at, seq, last_max):
        outbox = self.outbox
        buffer = self._encoder.buffer
        at = cbor.put_uint(buffer, at, seq)
        # As if all numbers had their longest form: the same records fit again when they are
        # repeated later, with a longer clock.
        limit = self._encoder.limit - (_RECORDS_HEAD_END_MAX - at)
        count = 0
        while seq <= last_max and count < RECORDS_PER_FRAME_MAX:
            size = outbox.size(seq)
            if not size or at + 3 + size > limit:
                break
            at = cbor.put_head(buffer, at, cbor.BYTES, size)
            at += outbox.read_into(seq, buffer, at)
            count += 1
            seq += 1
        if not count:
            raise LocalError("a record is longer than RECORD_BYTES_MAX")
        buffer[1 + HEADER_BYTES] += count
        return at, seq - 1

    def _put_lost(self, at, seq, last_max):
        buffer = self._encoder.buffer
        _, last, reason, at_most = self.outbox.lost_range(seq)
        last = min(last, last_max)
        at = cbor.put_uint(buffer, at, seq)
        at = cbor.put_uint(buffer, at, last)
        at = cbor.put_uint(buffer, at, reason)
        return cbor.put_simple(buffer, at, cbor.TRUE if at_most else cbor.FALSE), last

    def _begin(self, kind, now_ms):
        """Begin a frame of the session with a message of this type and its clock."""
        self._counter += 1
        at = self._encoder.begin(self._session, self._counter)
        # RECORDS: the array's length is completed once the records are counted.
        at = put_message(self._encoder.buffer, at, kind, 3 if kind == RECORDS else 0)
        age_ms = since(now_ms, self._heard_ms)
        return put_clock(self._encoder.buffer, at, self.wraps, now_ms, self._echo, age_ms)

    def _finish(self, at, now_ms):
        self._count("frames_sent")
        if self.state == LINKED:
            self._sent_ms = now_ms
        return self._encoder.finish(at)

    def _sendable(self):
        """Return the next seq that credit and window allow to be sent, or 0."""
        seq = self.outbox.find(self._next)
        return seq if seq <= self.credit and seq <= self.durable + WINDOW_SEQS else 0

    def _idle_ms(self):
        """After how long without a frame of ours a PING is due."""
        return PROBE_MS if self.outbox.find(self._next) else self._keep_alive_ms
