"""Frames made by hand, so that a test can be the peer and say anything."""

from gapless_link import sender as board_side
from gapless_link.errors import FrameFault
from gapless_link.frame import FLAG_TOWARDS_BOARD, HEADER_BYTES, FrameEncoder, Framer
from gapless_link.gateway_cbor import ValueReader
from gapless_link.gateway_messages import put_all

NO_SESSION = b"\0\0\0\0"
UID = b"uid-1"
NONCE = b"nonce-01"
LOG_ID = b"logid-01"
STREAM = b"strm"


def frame(session, counter, message, flags=0):
    """A frame with this message; flags FLAG_TOWARDS_BOARD: from a gateway."""
    encoder = FrameEncoder(1024, flags)
    at = encoder.begin(session, counter)
    return bytes(encoder.finish(put_all(encoder.buffer, at, message[0], message[1:])))


def from_gateway(session, counter, message):
    return frame(session, counter, message, FLAG_TOWARDS_BOARD)


def messages(data, towards_board):
    """[(session, counter, message)] of all frames in some bytes."""
    framer = Framer(1024, FLAG_TOWARDS_BOARD if towards_board else 0)
    framer.feed(bytes(data))
    found = []
    while framer.next_frame():
        reader = ValueReader().load(framer.body, HEADER_BYTES, framer.cbor_end)
        found.append((bytes(framer.body[1:5]), framer.counter, reader.value()))
    return found


def hello(next_seq=1, nonce=NONCE, device_id="pump-1", held=(), limits=(512, 2048), stream=STREAM):
    ranges = [list(item) for item in held]
    return [
        1, 1, 1, device_id, UID, stream, 1, 0, 100, next_seq, True, ranges, 0, None, nonce,
        list(limits), "", "", "",
    ]  # fmt: skip


def encoded_bytes_max(length):
    """How long COBS may make ``length`` bytes, the ending 0x00 included."""
    return length + (length + 253) // 254 + 1 if length else 2


def clock(ticks_ms=0, echo=0, age_ms=0):
    return [0, ticks_ms, echo, age_ms]


def drain(end):
    """All events of a sender or receiver."""
    events = []
    while True:
        event = end.next_event()
        if event is None:
            return events
        events.append(event)


BOARD_EVENTS = {
    board_side.WELCOMED: "WELCOMED",
    board_side.LINKED: "LINKED",
    board_side.DURABLE: "DURABLE",
    board_side.REJECTED: "REJECTED",
    board_side.UNLINKED: "UNLINKED",
}


def name(event):
    """A fault's code, the name of a sender's event, or the class of a receiver's."""
    if isinstance(event, FrameFault):
        return event.code
    return BOARD_EVENTS[event] if isinstance(event, int) else type(event).__name__


def names(events):
    return [name(event) for event in events]
