"""The messages of the link: numbers, limits, and what is in each (docs/wire-format.md).

``put_...`` write into a buffer and return the position behind it; ``read_...`` take a
``cbor.Reader`` that stands behind the type number, and raise FrameFault. ``read_head`` comes first.
What only a gateway writes or reads is in gateway_messages.py, which no board needs to hold.
"""

from gapless_link import cbor
from gapless_link.errors import FrameFault

LINK_VERSION_MIN = 1
LINK_VERSION_MAX = 1

HELLO = 1
WELCOME = 2
START = 3
RECORDS = 4
LOST = 5
ACK = 6
REJECT = 7
PING = 8

KIND_SAMPLE = 0
KIND_EVENT = 1

REASON_OVERFLOW = 1
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

# Numbers of the link stay below 2**30: a small int on a 32-bit MicroPython.
SEQ_MAX = 0x3FFFFFFF
COUNTER_MAX = 0x3FFFFFFF
TICKS_MASK = 0x3FFFFFFF

TEXT_BYTES_MAX = 48
WORDS_BYTES_MAX = 88
PROOF_BYTES_MAX = 32
HELD_RANGES_MAX = 8
# The seqs after ``durable`` about which an ACK can say "seen", and so the widest window.
BITMAP_BYTES_MAX = 32
FRAME_BYTES_MAX = 512
FRAME_BYTES_MIN = 128
# The largest record for which a RECORDS frame of FRAME_BYTES_MAX has room, keyed or not.
RECORD_BYTES_MAX = 440
# So that the head of the array of a RECORDS message is one byte.
RECORDS_PER_FRAME_MAX = 20

# Items of each message's array, by type; RECORDS has at least so many.
ITEMS = {HELLO: 19, WELCOME: 9, START: 4, RECORDS: 4, LOST: 6, ACK: 4, REJECT: 4, PING: 2}


class Welcome:
    """The gateway's offer of a session: version, log_id, stream, durable, credit, nonces, proof."""


def put_clock(buffer, at, wraps, ticks_ms, echo, age_ms):  # noqa: PLR0917 (no garbage per frame)
    """Write the clock that opens START, RECORDS, LOST and PING."""
    buffer[at] = 0x84
    at = cbor.put_uint(buffer, at + 1, wraps)
    at = cbor.put_uint(buffer, at, ticks_ms)
    at = cbor.put_uint(buffer, at, echo)
    return cbor.put_uint(buffer, at, age_ms)


def put_message(buffer, at, kind, items=0):
    """Write the head of a message's array and its type."""
    at = cbor.put_head(buffer, at, cbor.ARRAY, items or ITEMS[kind])
    return cbor.put_uint(buffer, at, kind)


def put_hello(buffer, at, identity, outbox, wraps, ticks_ms, nonce):  # noqa: PLR0917 (the same)
    """Write HELLO from an ``Identity`` and an outbox (see sender.py)."""
    at = put_message(buffer, at, HELLO)
    at = cbor.put_uint(buffer, at, LINK_VERSION_MIN)
    at = cbor.put_uint(buffer, at, LINK_VERSION_MAX)
    held = outbox.held()
    items = (
        identity.device_id,
        identity.uid,
        identity.stream,
        identity.boot,
        wraps,
        ticks_ms,
        outbox.next_seq,
        identity.exact,
        held,
        identity.acked,
        identity.acked_by,
        nonce,
        (identity.frame_bytes_max, identity.unanswered_bytes_max),
        identity.firmware[:TEXT_BYTES_MAX],
        identity.board[:TEXT_BYTES_MAX],
        identity.runtime[:TEXT_BYTES_MAX],
    )
    for item in items:
        at = cbor.put_value(buffer, at, item)
    return at


def read_head(reader):
    """Read the head of a message; return its type. ``reader.items``: how many items it has."""
    items = reader.items = reader.array()
    kind = reader.uint()
    if kind not in ITEMS:
        raise FrameFault("unknown_type", str(kind))
    # RECORDS has what it has; a HELLO of another version may be shorter or longer than ours.
    if items < 3 if kind == HELLO else items < 4 if kind == RECORDS else items != ITEMS[kind]:
        raise FrameFault("schema", "number of items")
    return kind


def read_welcome(reader):
    """Read WELCOME to the end."""
    welcome = Welcome()
    welcome.version = reader.uint()
    welcome.log_id = reader.bytes(8, 8)
    welcome.stream = reader.bytes(4, 4)
    welcome.durable = reader.uint()
    welcome.credit = reader.uint()
    welcome.device_nonce = reader.bytes(8, 8)
    welcome.gateway_nonce = reader.bytes(8, 8)
    welcome.proof = reader.bytes(0, PROOF_BYTES_MAX)
    reader.finish()
    return welcome


def read_reject(reader):
    """Read REJECT to the end; return (code, words, device_nonce or None)."""
    code = reader.uint()
    words = reader.text(WORDS_BYTES_MAX)
    nonce = None if reader.null() else reader.bytes(8, 8)
    reader.finish()
    return code, words, nonce
