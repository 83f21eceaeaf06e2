"""Whatever comes in, only events come out, and memory stays bounded. Seeded; both runtimes."""

from gapless_link.errors import FrameFault
from gapless_link.frame import FLAG_TOWARDS_BOARD, FrameEncoder
from gapless_link.receiver import (
    ClockSample,
    Ended,
    HelloReceived,
    LostReceived,
    Receiver,
    RecordRepeated,
    RecordsReceived,
    Started,
)
from gapless_link.sender import WELCOMED, Identity, Sender
from tests.link.handmade import (
    BOARD_EVENTS,
    LOG_ID,
    STREAM,
    clock,
    frame,
    from_gateway,
    hello,
    messages,
)
from tests.link.simulated_line import Random
from tests.link.two_ends import ListOutbox
from tests.link.vectors import rows, unhex

RECEIVER_EVENTS = (
    FrameFault, HelloReceived, Started, RecordsReceived, RecordRepeated, LostReceived, ClockSample,
    Ended,
)  # fmt: skip


def _sealed(session, counter, payload, flags):
    """A frame with a sound CRC around any bytes at all."""
    encoder = FrameEncoder(1024, flags)
    at = encoder.begin(session, counter)
    encoder.buffer[at : at + len(payload)] = payload
    return bytes(encoder.finish(at + len(payload)))


def _hostile_payload(random):
    """Mostly CBOR, with something wrong in it."""
    payload = b""
    heads = (0x80, 0x83, 0x84, 0x86, 0x9A, 0x9F, 0xA1, 0x1A, 0x1B, 0x40, 0x5B, 0x7F, 0xF6, 0xFB)
    for _ in range(1 + random.below(12)):
        if random.chance(500):
            payload += bytes((heads[random.below(len(heads))],))
        else:
            payload += random.bytes(1 + random.below(6))
    if random.chance(700):
        payload = bytes((0x80 + 2 + random.below(18), 1 + random.below(9))) + payload
    return payload


def _damaged(random, data):
    for _ in range(random.below(3)):
        at = random.below(len(data))
        data = data[:at] + bytes((random.below(256),)) + data[at + 1 :]
    return data


def test_a_receiver_gives_only_events_whatever_comes():
    for seed in range(6):
        print("seed", seed)
        random = Random(seed)
        receiver = Receiver(random.bytes)
        sound = [unhex(row["hex"]) for row in rows("frames") if row["towards"] == "gateway"]
        session, counter = b"\0\0\0\0", 1
        for now_ms in range(300):
            counter += 1
            kind = random.below(5)
            if kind == 0:
                data = random.bytes(random.below(60)) + b"\0"
            elif kind == 1:
                data = _damaged(random, sound[random.below(len(sound))])
            elif kind == 2:
                data = _sealed(session, counter, _hostile_payload(random), 0)
            elif kind == 3:
                first = 1 + random.below(700)
                body = [[4, clock(), first, b"x", b"y"], [5, clock(), first, first + 9, 1, False]]
                data = frame(session, counter, body[random.below(2)])
            else:
                data = frame(b"\0\0\0\0", 1, hello(nonce=random.bytes(8)))
            receiver.receive(data, now_ms)
            while True:
                event = receiver.next_event()
                if event is None:
                    break
                assert isinstance(event, RECEIVER_EVENTS), event
                if isinstance(event, HelloReceived):
                    receiver.welcome(LOG_ID, STREAM, 0, 600)
                if isinstance(event, Started):
                    receiver.begin(1, [(3, 5, 2, False)])
            for session_now, _, message in messages(receiver.data_to_send(now_ms), True):
                if message[0] == 2 and random.chance(600):
                    session, counter = session_now, 1
                    start = [3, clock(echo=1), message[7], b""]
                    receiver.receive(frame(session, 1, start), now_ms)
            if receiver._reorder:
                assert len(receiver._reorder._records) <= 256
                assert len(receiver._reorder._ranges) <= 17
            if receiver._link:
                assert len(receiver._link.sent) <= 64
        assert receiver.counters["frames_received"] > 50


def test_a_sender_gives_only_events_whatever_comes():
    for seed in range(6):
        print("seed", seed)
        random = Random(seed)
        outbox = ListOutbox(40)
        sender = Sender(Identity("pump-1", b"uid-1"), outbox)
        sound = [unhex(row["hex"]) for row in rows("frames") if row["towards"] == "board"]
        session, counter, now_ms = b"sess", 1, 0
        for _ in range(400):
            now_ms += random.below(900)
            counter += 1
            outbox.add(b"record")
            kind = random.below(4)
            if kind == 0:
                data = random.bytes(random.below(60)) + b"\0"
            elif kind == 1:
                data = _damaged(random, sound[random.below(len(sound))])
            elif kind == 2:
                data = _sealed(session, counter, _hostile_payload(random)[:100], FLAG_TOWARDS_BOARD)
            else:
                durable = outbox.freed_through + random.below(3)
                data = from_gateway(session, counter, [6, durable, 10**6, random.bytes(5)])
            sender.receive(data, now_ms)
            _take_sender_events(sender)
            sent = sender.data_to_send(now_ms)
            while len(sent):
                for _, _, message in messages(b"" if len(sent) == 1 else bytes(sent), False):
                    if message[0] == 1 and random.chance(500):
                        counter = 1
                        durable = min(outbox.freed_through, outbox.next_seq - 1)
                        welcome = [2, 1, LOG_ID, STREAM, durable, 10**6, message[14], b"n" * 8, b""]
                        sender.receive(from_gateway(session, 1, welcome), now_ms)
                        _take_sender_events(sender)
                sent = sender.data_to_send(now_ms)
            deadline_ms = sender.next_deadline_ms(now_ms)
            assert deadline_ms is None or 0 <= deadline_ms <= 20000
            assert len(sender._events) <= len(BOARD_EVENTS)
        assert sender.frames_received > 50


def _take_sender_events(sender):
    while True:
        event = sender.next_event()
        if event is None:
            return
        assert isinstance(event, FrameFault) or event in BOARD_EVENTS, event
        if event == WELCOMED:
            sender.confirm()
