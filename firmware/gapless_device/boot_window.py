"""The first moment after a reset: is there a person at the cable, or a gateway?

A person presses Ctrl-C (0x03), and mpremote sends "\\r", 0x03. A frame of a gateway may contain
0x03 as well, and must not throw the board into the REPL, where it would stay until a person comes.
So the interrupt character is off, and the bytes are looked at here. What tells them apart:

- a frame always ends in 0x00, and soon. 0x03 without any 0x00 within 50 ms is a person.
- a frame never *begins* with "\\r", 0x03, since its second byte is the version. That answer needs
  no waiting and no further reading, which leaves mpremote's next bytes to the REPL.
"""

TICKS_MASK = 0x3FFFFFFF
FRAME_END_MS = 50
_POLL_MS = 5
_INTERRUPT = 3
_RETURN = 13


def wants_maintenance(port, ticks_ms, window_ms):
    """Look at what arrives at `port` for `window_ms`; return whether a person asked to come in."""
    one = bytearray(1)
    began_ms = ticks_ms()
    asked_ms = -1  # when the 0x03 came that no 0x00 has followed yet
    place = 0  # bytes since the last 0x00
    previous = 0
    while True:
        now_ms = ticks_ms()
        if asked_ms >= 0:
            if (now_ms - asked_ms) & TICKS_MASK >= FRAME_END_MS:
                return True
        elif (now_ms - began_ms) & TICKS_MASK >= window_ms:
            return False
        if not port.read_into(one):
            port.wait(_POLL_MS)
            continue
        byte = one[0]
        place += 1
        if byte == 0:
            asked_ms = -1
            place = 0
        elif byte == _INTERRUPT:
            if place == 2 and previous == _RETURN:
                return True
            if asked_ms < 0:
                asked_ms = now_ms
        previous = byte
