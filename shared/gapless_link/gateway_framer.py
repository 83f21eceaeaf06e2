"""How a gateway finds frames: as ``frame.Framer``, with less work per byte and more memory."""

from gapless_link.errors import FrameFault
from gapless_link.frame import Framer, decode_in_place


class GatewayFramer(Framer):
    """A ``frame.Framer`` for who has room, and reads what many boards send.

    It cuts all that came in at the zeros at once, and undoes COBS by writing a zero over each
    code byte, where the board's framer goes byte by byte through its one buffer. ``body`` is a
    new bytes object for each frame. Memory: what was fed, and at most ``bytes_max`` of a frame
    that is arriving.
    """

    def __init__(self, bytes_max, flags_wanted):
        super().__init__(0, flags_wanted)
        self._bytes_max = bytes_max
        # The beginning of the frame that is arriving, and the whole ones from ``_at`` on.
        self._rest = b""
        self._frames = []
        self._at = 0

    def feed(self, data):
        """Store bytes."""
        pieces = bytes(data).split(b"\0")
        pieces[0] = self._rest + pieces[0]
        # What is cut off makes no difference: the frame is too long already.
        self._rest = pieces.pop()[: self._bytes_max]
        self._frames = self._frames[self._at :] + pieces
        self._at = 0

    def reset(self):
        """Forget everything stored."""
        self._rest = b""
        self._frames = []
        self._at = 0

    def next_frame(self):
        """Look for the next frame. See ``frame.Framer``."""
        frames = self._frames
        while self._at < len(frames):
            encoded = frames[self._at]
            self._at += 1
            if encoded:
                # One byte of the longest frame is the 0x00, which is not here.
                if len(encoded) >= self._bytes_max:
                    raise FrameFault("too_long")
                self.body = self._view = decode(encoded)
                self._check(len(self.body))
                return True
        self._frames = []
        self._at = 0
        return False


def decode(encoded):
    """Return what COBS made of bytes, given without the 0x00. FrameFault: these are no COBS."""
    length = len(encoded)
    body = bytearray(encoded)
    at = 0
    # Each code byte but the first stands where a zero was.
    while at < length:
        code = body[at]
        if code == 255:
            # Behind a full run there was none.
            return _decode_full_runs(encoded)
        body[at] = 0
        at += code
    if at != length:
        raise FrameFault("cobs")
    return bytes(memoryview(body)[1:])


def _decode_full_runs(encoded):
    body = bytearray(encoded)
    length = decode_in_place(body, len(body))
    if length < 0:
        raise FrameFault("cobs")
    return bytes(memoryview(body)[:length])
