"""What only the gateway writes or reads of the messages (docs/wire-format.md).

``put_...`` write into a buffer and return the position behind it; ``read_...`` take a reader that
stands behind the type number (behind the clock, where there is one), and raise FrameFault.
"""

from gapless_link import cbor
from gapless_link.errors import FrameFault
from gapless_link.gateway_cbor import ValueReader
from gapless_link.messages import (
    FRAME_BYTES_MAX,
    HELLO,
    ITEMS,
    LINK_VERSION,
    REASON_OVERFLOW,
    RECORD_BYTES_MAX,
    SEQ_MAX,
)

REASON_RESET = 2
REASON_REPLACED = 3
REASON_RETIRED = 4
REASON_QUOTA = 5
REASON_CORRUPTION = 6
REASON_GATEWAY_ROLLBACK = 7

REJECT_VERSION = 1
REJECT_IDENTITY = 2
REJECT_DEVICE_ID = 3
REJECT_STREAM_CLOSED = 4
REJECT_NOT_REGISTERED = 5
REJECT_KEY_UNKNOWN = 6
REJECT_INGEST_STOPPED = 7
REJECT_MALFORMED = 8

# The session of a HELLO, and of a REJECT that answers one.
NO_SESSION = b"\0\0\0\0"
COUNTER_MAX = 0x3FFFFFFF
# The seqs after ``durable`` about which an ACK can say "seen", and so the widest window.
BITMAP_BYTES_MAX = 32
TEXT_BYTES_MAX = 48
WORDS_BYTES_MAX = 88
HELD_RANGES_MAX = 8
# The shortest frame that every board can buffer.
FRAME_BYTES_MIN = 128
DEVICE_ID_CHARS_MAX = 32
UID_BYTES_MAX = 16
_BYTES_OF_ONE_BYTE_LENGTH = 0x58


class Hello:
    """What a board says of itself; the attributes are named as in docs/wire-format.md."""

    def __init__(self):
        self.vmin = self.vmax = 0
        self.device_id = ""
        self.uid = b""
        self.stream = None  # bytes of 4
        self.boot = self.wraps = self.ticks_ms = 0
        self.next = 1
        self.exact = True
        self.held = []  # [(first, last), ...]
        self.acked = 0
        self.acked_by = None  # bytes of 8
        self.nonce = b""
        self.limits = (0, 0)  # frame_bytes_max, unanswered_bytes_max
        self.firmware = self.board = self.runtime = ""


def device_id_is_valid(device_id):
    """Whether a str is 1 to 32 of A-Z a-z 0-9 . _ - and begins with a letter or a digit."""
    for at, char in enumerate(device_id):
        if not ("a" <= char <= "z" or "A" <= char <= "Z" or "0" <= char <= "9"):
            if not at or char not in "._-":
                return False
    return 1 <= len(device_id) <= DEVICE_ID_CHARS_MAX


def put_all(buffer, at, kind, items):
    """Write a message whose items (of ``cbor.put_value``) are given."""
    at = cbor.put_head(buffer, at, cbor.ARRAY, 1 + len(items))
    at = cbor.put_uint(buffer, at, kind)
    for item in items:
        at = cbor.put_value(buffer, at, item)
    return at


def read_hello(reader):
    """Read HELLO to the end. ``FrameFault("version")``: of a version that is not spoken here."""
    items = reader.items
    hello = Hello()
    hello.vmin = reader.uint()
    hello.vmax = reader.uint()
    if not hello.vmin <= LINK_VERSION <= hello.vmax:
        for _ in range(items - 3):
            reader.value()
        reader.finish()
        raise FrameFault("version", "%d to %d" % (hello.vmin, hello.vmax))
    if items != ITEMS[HELLO]:
        raise FrameFault("schema", "number of items")
    # Longer than allowed is read too, so that the refusal can name what is wrong.
    hello.device_id = reader.text(FRAME_BYTES_MAX)
    hello.uid = reader.bytes(1, UID_BYTES_MAX)
    hello.stream = None if reader.null() else reader.bytes(4, 4)
    hello.boot = reader.uint()
    hello.wraps = reader.uint()
    hello.ticks_ms = reader.uint()
    hello.next = reader.uint()
    hello.exact = reader.bool()
    hello.held = _read_held(reader, hello.next)
    hello.acked = reader.uint()
    hello.acked_by = None if reader.null() else reader.bytes(8, 8)
    hello.nonce = reader.bytes(8, 8)
    hello.limits = _read_limits(reader)
    hello.firmware = reader.text(TEXT_BYTES_MAX)
    hello.board = reader.text(TEXT_BYTES_MAX)
    hello.runtime = reader.text(TEXT_BYTES_MAX)
    reader.finish()
    if not hello.next:
        raise FrameFault("schema", "next is 0")
    return hello


def _read_held(reader, next_seq):
    held: list = []
    before = 0
    for _ in range(reader.array()):
        if reader.array() != 2:
            raise FrameFault("schema", "held")
        first = reader.uint()
        last = reader.uint()
        if not before < first <= last < next_seq or len(held) == HELD_RANGES_MAX:
            raise FrameFault("schema", "held")
        held.append((first, last))
        before = last
    return held


def _read_limits(reader):
    if reader.array() != 2:
        raise FrameFault("schema", "limits")
    limits = (reader.uint(), reader.uint())
    if limits[0] < FRAME_BYTES_MIN or limits[1] < limits[0]:
        raise FrameFault("schema", "limits")
    return limits


def read_clock(reader):
    """Read a clock; return (wraps, ticks_ms, echo, age_ms)."""
    if reader.array() != 4:
        raise FrameFault("schema", "clock")
    return reader.uint(), reader.uint(), reader.uint(), reader.uint()


def read_lost(reader):
    """Read what follows the clock of a LOST; return (first, last, reason, at_most)."""
    first = reader.uint()
    last = reader.uint()
    reason = reader.uint()
    at_most = reader.bool()
    reader.finish()
    if not 0 < first <= last or not REASON_OVERFLOW <= reason <= REASON_GATEWAY_ROLLBACK:
        raise FrameFault("schema", "lost")
    return first, last, reason, at_most


def read_records(reader, first, count):
    """Read the records of a RECORDS, numbered from ``first`` on, to its end; return them.

    The reader reads from bytes, of which each record is a slice.
    """
    if not first or first + count - 1 > SEQ_MAX:
        raise FrameFault("schema", "seq")
    buffer = reader.buffer
    at = reader.at
    records = []
    for _ in range(count):
        # Nearly all that a gateway reads is these, and nearly all have 24 to 255 bytes.
        if at + 2 <= reader.end and buffer[at] == _BYTES_OF_ONE_BYTE_LENGTH:
            end = at + 2 + buffer[at + 1]
            if at + 26 <= end <= reader.end:
                records.append(buffer[at + 2 : end])
                at = end
                continue
        reader.at = at
        records.append(reader.bytes(1, RECORD_BYTES_MAX))
        at = reader.at
    reader.at = at
    reader.finish()
    return records


def record_head(data):
    """Return (boot, wraps, ticks_ms, kind) of a record; FrameFault when it is no sound record."""
    reader = ValueReader().load(data, 0, len(data))
    if reader.array() != 5:
        raise FrameFault("schema", "record")
    head = (reader.uint(), reader.uint(), reader.uint(), reader.uint())
    if not isinstance(reader.value(), dict):
        raise FrameFault("schema", "record")
    reader.finish()
    return head
