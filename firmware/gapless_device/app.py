"""The board's loop: sample, number, keep, and hand over to the link. Nothing here blocks.

`App.poll` does whatever is due and returns how long nothing will be due; the port waits that long
or until bytes arrive. The link's frame is written as the port takes it, piece by piece, and
sampling goes on between the pieces: a host that does not read never stops it.
"""

import gc

from gapless_device import VERSION
from gapless_device.numbering import Numbering
from gapless_device.outbox import Outbox
from gapless_device.sampling import plan
from gapless_link import cbor
from gapless_link.messages import KIND_EVENT, KIND_SAMPLE, RECORD_BYTES_MAX, SEQ_MAX, TICKS_MASK
from gapless_link.sender import DURABLE, LINKED, UNLINKED, WELCOMED, Identity, Sender

WAIT_MS_MAX = 1000
# After this long without an exception, and with this boot's first record durable, the crashes
# before it no longer count.
HEALTHY_MS = 60000
_READ_BYTES = 128


class App:
    """Everything between a board (see boards/__init__.py) and the link. `ring`: see Outbox."""

    def __init__(self, board, settings, ring, state, runtime):
        self.board = board
        self.state = state
        self.wraps = 0
        self._ticks_ms = self._began_ms = board.ticks_ms()
        self._healthy = False
        self.numbering = Numbering(state, board.registers, settings["reservation_block"])
        self.outbox = Outbox(
            self.numbering.next_seq,
            settings["outbox_records"],
            ring,
            settings["overflow"],
        )
        self.samples, self.unknown = plan(settings, board.sensors, self._ticks_ms)
        self.identity = Identity(
            settings["device"] or default_name(board.uid),
            board.uid,
            stream=state.stream,
            boot=state.boot,
            exact=state.exact,
            acked=state.acked,
            acked_by=state.acked_by,
            firmware=VERSION,
            board=board.name,
            runtime=runtime,
            frame_bytes_max=board.frame_bytes_max,
            unanswered_bytes_max=board.unanswered_bytes_max,
        )
        self.sender = Sender(self.identity, self.outbox)
        self._record = bytearray(RECORD_BYTES_MAX)
        self._input = bytearray(_READ_BYTES)
        self._input_view = memoryview(self._input)
        self._output = b""
        self._written = 0

    def run(self):
        """Poll for ever."""
        while True:
            wait_ms = self.poll()
            self.board.feed()
            # The one place where garbage is collected, before the wait rather than in a sample.
            gc.collect()
            if wait_ms:
                self.board.port.wait(wait_ms)

    def poll(self):
        """Do what is due; return ms (0..WAIT_MS_MAX) until something will be."""
        now_ms = self._now_ms()
        wait_ms = WAIT_MS_MAX
        for sample in self.samples:
            if not sample.wait_ms(now_ms):
                self._add(sample.read(now_ms, self._record, self._head(KIND_SAMPLE)))
            wait_ms = min(wait_ms, sample.wait_ms(now_ms))
        self._receive(now_ms)
        if not self._send(now_ms):
            return 1  # the port is full: look again soon
        deadline_ms = self.sender.next_deadline_ms(now_ms)
        return wait_ms if deadline_ms is None else min(wait_ms, deadline_ms)

    def add_event(self, name, **words):
        """Make an event record."""
        words["event"] = name
        self._add(cbor.put_value(self._record, self._head(KIND_EVENT), words))

    def _head(self, kind):
        """Begin the next record; return the place of its body."""
        buffer = self._record
        at = cbor.put_head(buffer, 0, cbor.ARRAY, 5)
        at = cbor.put_uint(buffer, at, self.state.boot)
        at = cbor.put_uint(buffer, at, self.wraps)
        at = cbor.put_uint(buffer, at, self._ticks_ms)
        return cbor.put_uint(buffer, at, kind)

    def _add(self, length):
        """Number the record that is ready, and keep it until it is durable."""
        seq = self.outbox.next_seq
        if seq <= SEQ_MAX:  # beyond it the stream is full; a number is never used twice
            self.numbering.use(seq)
            self.outbox.append(self._record, length)

    def _now_ms(self):
        now_ms = self.board.ticks_ms()
        if now_ms < self._ticks_ms:
            self.wraps += 1
            self.sender.wraps = self.wraps
        self._ticks_ms = now_ms
        return now_ms

    def _receive(self, now_ms):
        while True:
            count = self.board.port.read_into(self._input)
            if count:
                self.sender.receive(self._input_view[:count], now_ms)
            event = self.sender.next_event()
            while event is not None:
                self._handle(event)
                event = self.sender.next_event()
            if count < _READ_BYTES:
                return

    def _send(self, now_ms):
        """Write until there is nothing to write (True) or the port takes no more (False)."""
        while True:
            if self._written == len(self._output):
                self._output = self.sender.data_to_send(now_ms)
                self._written = 0
                if not len(self._output):
                    return True
            count = self.board.port.write(memoryview(self._output)[self._written :])
            if not count:
                return False
            self._written += count

    def _handle(self, event):
        if event == DURABLE:
            self._durable(self.sender.durable)
        elif event == WELCOMED:
            self._welcome(self.sender)
        elif event == LINKED:
            self.board.show(True)
        elif event == UNLINKED:
            self.board.show(False)

    def _durable(self, seq):
        state = self.state
        state.acked = seq
        if state.acked_by != self.identity.acked_by:
            state.acked_by = self.identity.acked_by
            state.save()
        if self.numbering.settled(seq):
            self.identity.exact = True
        if not self._healthy and (self._ticks_ms - self._began_ms) & TICKS_MASK >= HEALTHY_MS:
            self._healthy = True
            from gapless_device.crash import forget

            forget()

    def _welcome(self, sender):
        """Store what the gateway said before it counts: START leaves after this."""
        if sender.durable >= self.outbox.next_seq:
            self.outbox.renumber(sender.durable + 1)
            self.numbering.use(self.outbox.next_seq - 1)
        if self.state.stream != sender.stream:
            self.state.stream = sender.stream
            self.state.save()
        sender.confirm()


def default_name(uid):
    """Return the name of a board that nobody named."""
    return "unnamed-" + "".join("%02x" % byte for byte in uid[:8])
