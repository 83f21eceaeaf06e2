"""A real sender and a real receiver on a simulated line, with small owners around them."""

from gapless_link import receiver as gateway_side
from gapless_link import sender as board_side
from gapless_link.errors import FrameFault
from gapless_link.gateway_messages import REASON_RESET
from gapless_link.messages import REASON_OVERFLOW, TICKS_MASK
from tests.link.handmade import names
from tests.link.simulated_line import Random, SimulatedLine

LOG_ID = b"logid-01"
STREAM = b"strm"


def record_bytes(seq, length=0):
    """The bytes of a record, of which a test can tell the seq."""
    text = b"record %d " % seq
    return text + b"\0\xff." * ((length - len(text)) // 3 + 1) if length else text


class ListOutbox:
    """The simplest outbox: everything in lists, the oldest are dropped beyond ``capacity``."""

    def __init__(self, capacity=1000):
        self.next_seq = 1
        self.freed_through = 0
        self.capacity = capacity
        self.on_free = None
        self._records = {}
        self._lost = []

    def add(self, data):
        self._records[self.next_seq] = data
        self.next_seq += 1
        while len(self._records) > self.capacity:
            self._drop(min(self._records))
        return self.next_seq - 1

    def _drop(self, seq):
        del self._records[seq]
        if self._lost and self._lost[-1][1] == seq - 1:
            self._lost[-1] = (self._lost[-1][0], seq, REASON_OVERFLOW, False)
        else:
            self._lost.append((seq, seq, REASON_OVERFLOW, False))

    def find(self, seq):
        found = [s for s in self._records if s >= seq]
        found += [max(first, seq) for first, last, _, _ in self._lost if last >= seq]
        return min(found) if found else 0

    def size(self, seq):
        return len(self._records.get(seq, b""))

    def read_into(self, seq, buffer, at):
        data = self._records[seq]
        buffer[at : at + len(data)] = data
        return len(data)

    def lost_range(self, seq):
        for item in self._lost:
            if item[0] <= seq <= item[1]:
                return item
        raise KeyError(seq)

    def free_through(self, seq):
        if self.on_free:
            self.on_free(seq)
        self.freed_through = max(self.freed_through, seq)
        for old in [s for s in self._records if s <= seq]:
            del self._records[old]
        self._lost = [
            (max(first, seq + 1), last, reason, at_most)
            for first, last, reason, at_most in self._lost
            if last > seq
        ]

    def held(self):
        spans = [(s, s) for s in self._records] + [(item[0], item[1]) for item in self._lost]
        joined = []
        for first, last in sorted(spans):
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
            else:
                joined.append((first, last))
        return joined[-8:]


class GatewayOwner:
    """Takes the receiver's events; its "disk" is a dict that is synced after ``sync_ms``."""

    def __init__(self, random, sync_ms=5, credit_ahead=1000):
        self.receiver = gateway_side.Receiver(random.bytes)
        self.sync_ms = sync_ms
        self.credit_ahead = credit_ahead
        self.stored = {}
        self.lost = {}
        self.taken_through = 0
        self.durable = 0
        self.conflicts = []
        self.faults = []
        self.clock_samples = []
        self.ended = []
        self.greeted = 0
        self.answer = True
        self._syncs = []

    def handle_events(self, now_ms):
        while True:
            event = self.receiver.next_event()
            if event is None:
                return
            self._handle(event, now_ms)

    def _handle(self, event, now_ms):
        if isinstance(event, FrameFault):
            self.faults.append(event)
        elif isinstance(event, gateway_side.HelloReceived):
            self.greeted += 1
            if self.answer:
                stream = event.hello.stream or STREAM
                credit = self.durable + self.credit_ahead
                self.receiver.welcome(LOG_ID, stream, self.durable, credit)
        elif isinstance(event, gateway_side.Started):
            # What was taken and not synced is settled again, as after a crash.
            self.forget_unsynced()
            self.receiver.begin(self.durable + 1, self._gaps(event.hello))
        elif isinstance(event, gateway_side.RecordsReceived):
            for seq, data in enumerate(event.records, event.first):
                self._in_order(seq, seq)
                self.stored[seq] = data
                self._syncs.append((now_ms + self.sync_ms, seq))
        elif isinstance(event, gateway_side.LostReceived):
            self._in_order(event.first, event.last)
            for seq in range(event.first, event.last + 1):
                self.lost[seq] = (event.reason, event.by_gateway)
            self._syncs.append((now_ms + self.sync_ms, event.last))
        elif isinstance(event, gateway_side.RecordRepeated):
            if self.stored.get(event.seq) != event.data:
                self.conflicts.append(event.seq)
        elif isinstance(event, gateway_side.ClockSample):
            self.clock_samples.append(event)
        elif isinstance(event, gateway_side.Ended):
            self.ended.append(event.why)

    def _in_order(self, first, last):
        assert first == self.taken_through + 1, (first, self.taken_through)
        assert last >= first
        self.taken_through = last

    def forget_unsynced(self):
        self._syncs = []
        self.taken_through = self.durable
        self.stored = {s: d for s, d in self.stored.items() if s <= self.durable}
        self.lost = {s: d for s, d in self.lost.items() if s <= self.durable}

    def _gaps(self, hello):
        gaps = []
        expected = self.durable + 1
        for first, last in list(hello.held) + [(hello.next, hello.next)]:
            if first > expected:
                gaps.append((expected, first - 1, REASON_RESET, False))
            expected = max(expected, last + 1)
        return gaps

    def sync(self, now_ms):
        durable = self.durable
        while self._syncs and self._syncs[0][0] <= now_ms:
            durable = self._syncs.pop(0)[1]
        if durable != self.durable:
            self.durable = durable
            self.receiver.acknowledge(durable, durable + self.credit_ahead)

    def next_sync_ms(self):
        return self._syncs[0][0] if self._syncs else None


class TwoEnds:
    """Board, line and gateway with one clock. ``faults`` as of SimulatedLine, both ways."""

    def __init__(self, seed=1, faults=None, delay_ms_max=0, piece_bytes_max=0, **options):
        print("seed", seed)
        random = Random(seed)
        self.random = random
        self.now_ms = 0
        # Far enough on that the board's ticks wrap during a test.
        self.ticks_ahead_ms = TICKS_MASK - 3000
        self.outbox = ListOutbox(options.get("capacity", 1000))
        self.outbox.on_free = self._check_freed
        self.identity = board_side.Identity("pump-1", b"uid-1", stream=options.get("stream"))
        self.identity.unanswered_bytes_max = options.get("unanswered_bytes_max", 2048)
        self.identity.frame_bytes_max = options.get("frame_bytes_max", 512)
        self.sender = self.new_sender()
        self.gateway = GatewayOwner(
            random, options.get("sync_ms", 5), options.get("credit_ahead", 1000)
        )
        self.up = SimulatedLine(random, faults, delay_ms_max, piece_bytes_max)
        self.down = SimulatedLine(random, faults, delay_ms_max, piece_bytes_max)
        self.board_events = []
        self.produced = {}

    def new_sender(self):
        return board_side.Sender(self.identity, self.outbox)

    def restart_board(self, boot):
        """The board resets: what it held in RAM is gone, its next number is not."""
        next_seq = self.outbox.next_seq
        self.outbox = ListOutbox(self.outbox.capacity)
        self.outbox.next_seq = next_seq
        self.outbox.freed_through = self.gateway.durable
        self.outbox.on_free = self._check_freed
        self.identity.boot = boot
        self.sender = self.new_sender()

    def restart_gateway(self):
        """The gateway is killed: what was not synced is gone."""
        self.gateway.forget_unsynced()
        self.gateway.receiver = gateway_side.Receiver(self.random.bytes)

    def ticks_ms(self):
        ticks_ms = self.now_ms + self.ticks_ahead_ms
        self.sender.wraps = ticks_ms // (TICKS_MASK + 1)
        return ticks_ms & TICKS_MASK

    def produce(self, count, length=0):
        for _ in range(count):
            data = record_bytes(self.outbox.next_seq, length)
            self.produced[self.outbox.add(data)] = data

    def step(self):
        """Let both ends act at this moment, then go to the next moment at which one will."""
        ticks_ms = self.ticks_ms()
        for data in self.down.read(self.now_ms):
            self.sender.receive(data, ticks_ms)
            self._handle_board_events()
        while True:
            frame = self.sender.data_to_send(ticks_ms)
            if not len(frame):
                break
            self.up.write(frame, self.now_ms)
        self._handle_board_events()
        receiver = self.gateway.receiver
        for data in self.up.read(self.now_ms):
            receiver.receive(data, self.now_ms)
            self.gateway.handle_events(self.now_ms)
        self.gateway.sync(self.now_ms)
        data = receiver.data_to_send(self.now_ms)
        if data:
            self.down.write(data, self.now_ms)
        self.gateway.handle_events(self.now_ms)
        self.now_ms += self._until_next_ms(ticks_ms)

    def _until_next_ms(self, ticks_ms):
        moments = [
            self.up.next_arrival_ms(),
            self.down.next_arrival_ms(),
            self.gateway.next_sync_ms(),
            self.gateway.receiver.next_deadline_ms(self.now_ms),
        ]
        waits_ms = [moment - self.now_ms for moment in moments if moment is not None]
        board_ms = self.sender.next_deadline_ms(ticks_ms)
        if board_ms is not None:
            waits_ms.append(board_ms)
        # A step is never shorter than the clock, and never so long that a producer starves.
        return min(max(min(waits_ms) if waits_ms else 50, 1), 50)

    def _handle_board_events(self):
        while True:
            event = self.sender.next_event()
            if event is None:
                return
            self.board_events.append(event)
            if event == board_side.WELCOMED:
                self.sender.confirm()

    def _check_freed(self, seq):
        assert seq <= self.gateway.durable, "the board forgot %d, durable is %d" % (
            seq,
            self.gateway.durable,
        )

    def run_ms(self, time_ms):
        end_ms = self.now_ms + time_ms
        while self.now_ms < end_ms:
            self.step()

    def run_until_settled(self, time_ms_max=120000):
        """Run until the board has nothing left; fails when that takes too long (simulated)."""
        end_ms = self.now_ms + time_ms_max
        while self.outbox.freed_through + 1 < self.outbox.next_seq:
            assert self.now_ms < end_ms, "no progress: %d of %d acked, board %s, gateway %s" % (
                self.outbox.freed_through,
                self.outbox.next_seq - 1,
                self.sender.state,
                self.gateway.receiver.session_state,
            )
            self.step()

    def check_account(self):
        """Every seq is stored with its bytes or declared lost, once; nothing else is there."""
        gateway = self.gateway
        assert not gateway.conflicts, gateway.conflicts
        for seq in range(1, self.outbox.next_seq):
            if seq in gateway.stored:
                assert gateway.stored[seq] == self.produced[seq], seq
                assert seq not in gateway.lost, seq
            else:
                assert seq in gateway.lost, "%d is unexplained" % seq
        assert gateway.taken_through == self.outbox.next_seq - 1
        assert len(gateway.stored) + len(gateway.lost) == self.outbox.next_seq - 1

    def kinds(self):
        return names(self.board_events)
