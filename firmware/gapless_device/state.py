"""What a board remembers across resets: two small files, written in turn.

There is no rename: on FAT it is remove, then rename. Each write goes to the file that does not
hold the newest state, and ends with a CRC-32; the newest valid one wins. So a write that is cut
short costs that write, never the state before it.

A file, big endian: magic "GLS1" | generation u32 | boot u32 | used_through u32 |
reserved_through u32 | step u32 | acked u32 | flags u8 (1 stream, 2 acked_by, 4 exact) | stream 4 |
acked_by 8 | CRC-32 of all before it.
"""

import binascii
from struct import pack, unpack

FILES = ("state.a", "state.b")
_FORMAT = ">4sIIIIIIB4s8s"
_MAGIC = b"GLS1"
_BYTES = 41


class State:
    """The state, and where it is kept. Attributes are written by `save`."""

    def __init__(self, sync, folder=""):
        self.generation = 0  # 0: nothing was ever stored, or nothing of it could be read
        # One of the two files cannot be read: what it held may have been one write newer.
        self.doubtful = False
        self.boot = 0
        self.used_through = 0  # the highest seq known as used when this was written
        self.reserved_through = 0  # seqs up to here may be used without another write
        self.step = 0  # the next write raises reserved_through by at most this
        self.acked = 0
        self.exact = True  # False: numbers were skipped that may never have been used
        self.stream = None
        self.acked_by = None
        self._sync = sync
        self._folder = folder
        self._load()

    def save(self):
        """Write to the file that does not hold the newest state; raises OSError."""
        self.generation += 1
        body = pack(
            _FORMAT,
            _MAGIC,
            self.generation,
            self.boot,
            self.used_through,
            self.reserved_through,
            self.step,
            self.acked,
            (self.stream is not None) | (self.acked_by is not None) << 1 | self.exact << 2,
            self.stream or bytes(4),
            self.acked_by or bytes(8),
        )
        with open(self._folder + FILES[self.generation & 1], "wb") as file:
            file.write(body)
            file.write(pack(">I", binascii.crc32(body)))
        self._sync()

    def _load(self):
        newest = None
        for name in FILES:
            fields = _read(self._folder + name)
            if fields and (newest is None or fields[1] > newest[1]):
                newest = fields
        if newest is None:
            return
        (_, self.generation, self.boot, self.used_through, self.reserved_through) = newest[:5]
        self.step, self.acked, flags = newest[5:8]
        self.stream = newest[8] if flags & 1 else None
        self.acked_by = newest[9] if flags & 2 else None
        self.exact = bool(flags & 4)
        sibling = _read(self._folder + FILES[(self.generation + 1) & 1])
        # After the very first write there is one file only. Later, both must be there, and the
        # older one must be exactly one write old.
        if self.generation > 1:
            self.doubtful = sibling is None or sibling[1] != self.generation - 1
        else:
            self.doubtful = _exists(self._folder + FILES[0])


def _read(path):
    """Return the fields of a state file, None when it is missing or damaged."""
    try:
        with open(path, "rb") as file:
            data = file.read(_BYTES + 5)
    except OSError:
        return None
    if len(data) != _BYTES + 4 or data[:4] != _MAGIC:
        return None
    if unpack(">I", data[_BYTES:])[0] != binascii.crc32(data[:_BYTES]):
        return None
    return unpack(_FORMAT, data[:_BYTES])


def _exists(path):
    try:
        with open(path, "rb"):
            return True
    except OSError:
        return False
