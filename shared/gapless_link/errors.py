"""Errors of the link, by whose fault they are.

``LocalError`` is our own side's misuse of the protocol objects: a bug to be fixed.
``FrameFault`` is the peer's or the line's fault: it is counted and handed out as an event by
``Sender.next_event`` and ``Receiver.next_event``, and never leaves the protocol as an exception.
"""


class LocalError(Exception):
    """The program called a protocol object in a way that its state does not allow."""


class FrameFault(Exception):
    """What is wrong with one frame from the peer.

    It is raised between the modules of the link and is an *event* for everyone else.
    ``code``: one of cobs, crc, too_long, too_short, cbor, version, direction, keyed, counter,
    session, illegal, unknown_type, device_id, schema, nonce, ack, overrun.
    ``detail``: words for a log, "" when the code says it all.
    """

    def __init__(self, code, detail=""):
        self.code = code
        self.detail = detail
        super().__init__(code, detail)
