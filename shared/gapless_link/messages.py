"""The messages of the link: numbers, limits, and what both ends need (docs/wire-format.md).

What only a gateway needs is in gateway_messages.py, what only a board does in sender.py: each
name here takes memory on every board.
"""

from gapless_link import const
from gapless_link.cbor import ARRAY
from gapless_link.errors import FrameFault

HELLO = const(1)
WELCOME = const(2)
START = const(3)
RECORDS = const(4)
LOST = const(5)
ACK = const(6)
REJECT = const(7)
PING = const(8)

KIND_SAMPLE = const(0)
KIND_EVENT = const(1)

# The only reason that a board's outbox has; the others are in gateway_messages.py.
REASON_OVERFLOW = const(1)

LINK_VERSION = const(1)

# Numbers of the link stay below 2**30: a small int on a 32-bit MicroPython.
SEQ_MAX = const(0x3FFFFFFF)
TICKS_MASK = const(0x3FFFFFFF)

FRAME_BYTES_MAX = const(512)
# The largest record for which a RECORDS frame of FRAME_BYTES_MAX has room, keyed or not.
RECORD_BYTES_MAX = const(440)

# Items of each message's array, by type; RECORDS has at least so many.
#           HELLO WELCOME START RECORDS LOST ACK REJECT PING
ITEMS = (0, 19,   9,      4,    4,      6,   4,  4,     2)  # fmt: skip


def read_head(reader):
    """Read the head of a message; return its type. ``reader.items``: how many items it has."""
    items = reader.items = reader.head(ARRAY)
    kind = reader.uint()
    if not 0 < kind < len(ITEMS):
        raise FrameFault("unknown_type", str(kind))
    # RECORDS has what it has; a HELLO of another version may be shorter or longer than ours.
    if items < 3 if kind == HELLO else items < 4 if kind == RECORDS else items != ITEMS[kind]:
        raise FrameFault("schema", "items")
    return kind
