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

from gapless_link import cbor, const, frame, messages
from gapless_link.errors import FrameFault, LocalError
from gapless_link.flights import WINDOW_SEQS, Flights, since

# The session of a HELLO, and of a REJECT that answers one.
NO_SESSION = b"\0\0\0\0"

# States. Each call of ``_move`` belongs to one of the events below.
GREETING = const(0)
WELCOMED = const(1)
_STARTING = const(2)
LINKED = const(3)

# What ``next_event`` returns. Beside these, the states WELCOMED and LINKED: they were reached.
# WELCOMED: the gateway offers a session. Store ``sender.stream`` (bytes of 4, minted now if the
#     board had none) and ``sender.log_id`` (bytes of 8), then ``sender.confirm()``. When
#     ``sender.durable >= outbox.next_seq``, numbers up to it were used before and forgotten here:
#     move ``next_seq`` beyond it before confirming.
# LINKED: the session runs, records flow.
# DURABLE: everything up to ``sender.durable`` is on the gateway's disk; the outbox knows already.
DURABLE = const(4)
# REJECTED: the gateway refuses: ``sender.rejection`` = (code, words as UTF-8 in bytes). HELLO goes
#     on, slowly.
REJECTED = const(5)
# UNLINKED: the session ended.
UNLINKED = const(6)

# What happens in the states: the first place of its row in the table.
_ON_WELCOME = const(0)
_ON_CONFIRM = const(4)
_ON_ACK = const(8)
_ON_END = const(12)

# An illegal frame is the peer's fault; what the owner must not do is a LocalError.
_ILLEGAL = const(-1)
_TRANSITIONS = (
    # GREETING  WELCOMED   _STARTING  LINKED
    WELCOMED,   _ILLEGAL,  _ILLEGAL,  _ILLEGAL,  # _ON_WELCOME
    _ILLEGAL,   _STARTING, _ILLEGAL,  _ILLEGAL,  # _ON_CONFIRM
    _ILLEGAL,   _ILLEGAL,  LINKED,    LINKED,    # _ON_ACK
    GREETING,   GREETING,  GREETING,  GREETING,  # _ON_END
)  # fmt: skip

# First and longest wait for an answer to HELLO and START; each wait doubles the next one.
_GREETING_MIN_MS = const(500)
_GREETING_MAX_MS = const(8000)
_DOUBLINGS_MAX = const(8)
# How often a board asks whether a credit that is used up has grown.
_PROBE_MS = const(1000)
_COUNTER_MAX = const(0x3FFFFFFF)
_TEXT = const(3)  # as in cbor.py
_TEXT_BYTES_MAX = const(48)
_WORDS_BYTES_MAX = const(88)
_PROOF_BYTES_MAX = const(32)
_BITMAP_BYTES_MAX = const(32)
# Where the records of a frame begin at the latest: the array's head and type 2, clock 21, seq 5.
_RECORDS_HEAD_END_MAX = const(1 + 9 + 28)
# So that the head of the array of a RECORDS message is one byte.
_RECORDS_PER_FRAME_MAX = const(20)


class Identity:
    """What a board says about itself in HELLO; the owner fills it in from its own storage.

    The sender keeps ``stream``, ``acked`` and ``acked_by`` up to date; the owner stores them.
    """

    def __init__(  # noqa: PLR0917 (keyword-only would take a dict on a board)
        self,
        device_id,  # str, 1..32 of A-Z a-z 0-9 . _ -, first a letter or digit
        uid,  # bytes, 1..16, the MCU's own
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


class Sender:
    """One board's end of the link. See the top of this file.

    ``durable``, ``credit``: what the gateway said last. Totals: ``frames_sent``,
    ``frames_repeated``, ``frames_received``, ``faults``.
    """

    def __init__(self, identity, outbox, keep_alive_ms=2000, silence_ms=5000):
        self.identity = identity
        self.outbox = outbox
        self.state = GREETING
        self.wraps = 0
        self.durable = 0
        self.credit = 0
        self.rejection = None
        self.frames_sent = self.frames_repeated = self.frames_received = self.faults = 0
        self._keep_alive_ms = keep_alive_ms
        self._silence_ms = silence_ms
        self._framer = frame.Framer(identity.frame_bytes_max, frame.FLAG_TOWARDS_BOARD)
        self._encoder = frame.FrameEncoder(messages.FRAME_BYTES_MAX, 0)
        self._reader = cbor.Reader()
        self._flights = Flights(identity.uid)
        self._events = []
        self._hellos = 0
        self._nonce = b""
        self._session = NO_SESSION
        self._counter = 0
        self._echo = 0
        self._received_ms = 0
        self._heard_ms = 0
        self._sent_ms = 0
        # The wait for WELCOME or for the ACK of START, and how often it was doubled.
        self._wait_ms = 0
        self._attempts = 0
        self._line_ended = False
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
        """Parse on; return the next event (WELCOMED ... UNLINKED, or a FrameFault), or None."""
        while not self._events:
            try:
                if not self._framer.next_frame():
                    return None
                self._take_frame()
            except FrameFault as fault:
                self.faults += 1
                return fault
        return self._events.pop(0)

    def _push(self, event):
        """Queue an event. None waits twice: the newer one says what the older one said."""
        if event in self._events:
            self._events.remove(event)
        self._events.append(event)

    def _take_frame(self):
        framer = self._framer
        self.frames_received += 1
        if framer.flags & frame.FLAG_KEYED:
            raise FrameFault("keyed")
        reader = self._reader.load(framer.body, frame.HEADER_BYTES, framer.cbor_end)
        kind = messages.read_head(reader)
        if kind == messages.WELCOME:
            self._take_welcome(reader)
            return
        greeting = kind == messages.REJECT and framer.session_is(NO_SESSION)
        if not greeting:
            if self._session is NO_SESSION or not framer.session_is(self._session):
                raise FrameFault("session")
            if framer.counter <= self._echo:
                raise FrameFault("counter")
        if kind == messages.REJECT:
            self._take_reject(reader, greeting)
        elif kind == messages.ACK:
            self._take_ack(reader)
        else:
            raise FrameFault("illegal", str(kind))

    def _move(self, event):
        """Go to the next state; nothing else assigns it."""
        state = _TRANSITIONS[event + self.state]
        if state == _ILLEGAL:
            if event == _ON_CONFIRM:
                raise LocalError("confirm()")
            raise FrameFault("illegal")
        self.state = state

    def _take_welcome(self, reader):
        version = reader.uint()
        log_id = reader.bytes(8, 8)
        stream = reader.bytes(4, 4)
        durable = reader.uint()
        credit = reader.uint()
        device_nonce = reader.bytes(8, 8)
        gateway_nonce = reader.bytes(8, 8)
        reader.skip_string(cbor.BYTES, 0, _PROOF_BYTES_MAX)
        reader.finish()
        if device_nonce != self._nonce:
            raise FrameFault("nonce")
        if version != messages.LINK_VERSION:
            raise FrameFault("version", str(version))
        if self._framer.session_is(NO_SESSION):
            raise FrameFault("session")
        if self.identity.stream not in (None, stream):
            raise FrameFault("schema", "stream")
        self._move(_ON_WELCOME)
        self.log_id = log_id
        self.stream = stream
        self.durable = durable
        self.credit = credit
        self._gateway_nonce = gateway_nonce
        self._session = bytes(self._framer.body[1:5])
        self._echo = self._framer.counter
        self._heard_ms = self._received_ms
        self._push(WELCOMED)

    def _take_reject(self, reader, greeting):
        code = reader.uint()
        words_at = reader.skip_string(_TEXT, 0, _WORDS_BYTES_MAX)
        words = bytes(self._framer.body[words_at : reader.at])
        nonce = None if reader.null() else reader.bytes(8, 8)
        reader.finish()
        if greeting and (self.state != GREETING or nonce not in (None, self._nonce)):
            raise FrameFault("nonce")
        self._end()
        # A gateway that refuses is asked again at the slowest pace.
        self._attempts = _DOUBLINGS_MAX
        self._wait(self._received_ms)
        self.rejection = (code, words)
        self._push(REJECTED)

    def _take_ack(self, reader):
        durable = reader.uint()
        credit = reader.uint()
        bitmap_at = reader.skip_string(cbor.BYTES, 0, _BITMAP_BYTES_MAX)
        reader.finish()
        if not self.durable <= durable < self.outbox.next_seq:
            raise FrameFault("ack", str(durable))
        linked = self.state == LINKED
        self._move(_ON_ACK)
        self._echo = self._framer.counter
        self._heard_ms = self._received_ms
        self.credit = credit
        if not linked:
            self._attempts = 0
            self._push(LINKED)
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
        self.identity.acked_by = self.log_id
        self._push(DURABLE)

    def _end(self):
        linked = self.state == LINKED
        self._move(_ON_END)
        self._session = NO_SESSION
        self._nonce = b""
        self._attempts = 0
        self._wait_ms = 0
        if linked:
            self._push(UNLINKED)

    # What the owner says.

    def confirm(self):
        """The owner stored what WELCOMED said: START may leave."""
        self._move(_ON_CONFIRM)
        self.identity.stream = self.stream
        self._next = self.durable + 1
        self._flights.forget_from(0)
        self._counter = 0
        self._attempts = 0
        self._wait_ms = 0
        if self.durable:
            self._free(self.durable)

    def restart(self):
        """Forget the session and greet anew at once (the line was away)."""
        self._end()
        self._framer.reset()

    # What goes out.

    def data_to_send(self, now_ms):
        """Return the next frame as a memoryview, valid until the next call; b"" when none is due.

        Call until empty. A frame that was handed out must be written before the next call.
        """
        if self.state >= _STARTING and (
            since(now_ms, self._heard_ms) >= self._silence_ms or self._counter >= _COUNTER_MAX
        ):
            self._end()
        if self.state == LINKED:
            return self._send_linked(now_ms)
        if self.state == WELCOMED or self._still_waiting_ms(now_ms):
            return b""
        if self.state == GREETING and not self._line_ended:
            # Ends whatever stands on the line (a boot message), so that it costs no HELLO.
            self._line_ended = True
            return b"\0"
        self._line_ended = False
        self._wait(now_ms)
        if self.state == GREETING:
            return self._send_hello(now_ms)
        at = self._begin(messages.START, now_ms)
        buffer = self._encoder.buffer
        at = cbor.put_value(buffer, at, self._gateway_nonce)
        return self._finish(cbor.put_value(buffer, at, b""), now_ms)

    def next_deadline_ms(self, now_ms):
        """Return in how many ms (>= 0) ``data_to_send`` will be due without anything happening.

        None when nothing is timed. A *duration*, not a moment, since ticks wrap.
        """
        if self.state == WELCOMED:
            return None
        if self.state == GREETING:
            return self._still_waiting_ms(now_ms)
        wait_ms = self._silence_ms - since(now_ms, self._heard_ms)
        if self.state == _STARTING:
            return max(0, min(wait_ms, self._still_waiting_ms(now_ms)))
        if self._flights.free_slot() >= 0 and self._sendable():
            return 0
        idle_ms = self._idle_ms() - since(now_ms, self._sent_ms)
        return max(0, min(wait_ms, idle_ms, self._flights.left_ms(now_ms)))

    def _wait(self, now_ms):
        wait_ms = min(_GREETING_MIN_MS << self._attempts, _GREETING_MAX_MS)
        self._wait_ms = self._flights.spread(wait_ms)
        self._attempts = min(self._attempts + 1, _DOUBLINGS_MAX)
        self._sent_ms = now_ms

    def _still_waiting_ms(self, now_ms):
        return max(0, self._wait_ms - since(now_ms, self._sent_ms))

    def _send_hello(self, now_ms):
        self._hellos += 1
        identity = self.identity
        outbox = self.outbox
        # Never used before by this board: boots, HELLOs of this boot, and the time.
        self._nonce = pack(">HHI", identity.boot & 0xFFFF, self._hellos & 0xFFFF, now_ms)
        at = self._encoder.begin(NO_SESSION, self._hellos)
        buffer = self._encoder.buffer
        at = cbor.put_head(buffer, at, cbor.ARRAY, messages.ITEMS[messages.HELLO])
        for item in (
            messages.HELLO,
            messages.LINK_VERSION,
            messages.LINK_VERSION,
            identity.device_id,
            identity.uid,
            identity.stream,
            identity.boot,
            self.wraps,
            now_ms,
            outbox.next_seq,
            identity.exact,
            outbox.held(),
            identity.acked,
            identity.acked_by,
            self._nonce,
            (identity.frame_bytes_max, identity.unanswered_bytes_max),
            identity.firmware[:_TEXT_BYTES_MAX],
            identity.board[:_TEXT_BYTES_MAX],
            identity.runtime[:_TEXT_BYTES_MAX],
        ):
            at = cbor.put_value(buffer, at, item)
        return self._finish(at, now_ms)

    def _send_linked(self, now_ms):
        flights = self._flights
        if not flights.left_ms(now_ms):
            return self._send_again(flights.due, now_ms)
        slot = flights.free_slot()
        if slot >= 0:
            seq = self._sendable()
            if seq:
                last_max = min(self.credit, self.durable + WINDOW_SEQS)
                data = self._send_flight(slot, seq, last_max, now_ms)
                self._next = flights.last[slot] + 1
                return data
        if since(now_ms, self._sent_ms) >= self._idle_ms():
            return self._finish(self._begin(messages.PING, now_ms), now_ms)
        return b""

    def _send_again(self, slot, now_ms):
        flights = self._flights
        last = flights.last[slot]
        seq = self.outbox.find(flights.first[slot])
        if not seq or seq > last:
            flights.first[slot] = 0
            return self._send_linked(now_ms)
        self.frames_repeated += 1
        data = self._send_flight(slot, seq, last, now_ms)
        if flights.last[slot] < last:
            # Part of the flight became LOST and needs a frame of its own: go back behind this one.
            self._next = flights.last[slot] + 1
            flights.forget_from(self._next)
        return data

    def _send_flight(self, slot, seq, last_max, now_ms):
        """Send what begins at ``seq`` and note it in the slot."""
        buffer = self._encoder.buffer
        if self.outbox.size(seq):
            at = self._begin(messages.RECORDS, now_ms)
            at, last = self._put_records(at, seq, last_max)
        else:
            at = self._begin(messages.LOST, now_ms)
            _, last, reason, at_most = self.outbox.lost_range(seq)
            if self._flights.tries[slot]:
                last = min(last, last_max)
            for item in (seq, last, reason, bool(at_most)):
                at = cbor.put_value(buffer, at, item)
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
        while seq <= last_max and count < _RECORDS_PER_FRAME_MAX:
            size = outbox.size(seq)
            if not size or at + 3 + size > limit:
                break
            at = cbor.put_head(buffer, at, cbor.BYTES, size)
            at += outbox.read_into(seq, buffer, at)
            count += 1
            seq += 1
        # A record may have RECORD_BYTES_MAX bytes.
        if not count:
            raise LocalError("too long")
        # The head of the array counts one record already.
        buffer[1 + frame.HEADER_BYTES] += count - 1
        return at, seq - 1

    def _begin(self, kind, now_ms):
        """Begin a frame of the session with a message of this type and its clock."""
        self._counter += 1
        at = self._encoder.begin(self._session, self._counter)
        buffer = self._encoder.buffer
        at = cbor.put_head(buffer, at, cbor.ARRAY, messages.ITEMS[kind])
        buffer[at] = kind
        buffer[at + 1] = cbor.ARRAY << 5 | 4
        at = cbor.put_uint(buffer, at + 2, self.wraps)
        at = cbor.put_uint(buffer, at, now_ms)
        at = cbor.put_uint(buffer, at, self._echo)
        return cbor.put_uint(buffer, at, since(now_ms, self._heard_ms))

    def _finish(self, at, now_ms):
        self.frames_sent += 1
        if self.state == LINKED:
            self._sent_ms = now_ms
        return self._encoder.finish(at)

    def _sendable(self):
        """Return the next seq that credit and window allow to be sent, or 0."""
        seq = self.outbox.find(self._next)
        return seq if seq <= self.credit and seq <= self.durable + WINDOW_SEQS else 0

    def _idle_ms(self):
        """After how long without a frame of ours a PING is due."""
        return _PROBE_MS if self.outbox.find(self._next) else self._keep_alive_ms
