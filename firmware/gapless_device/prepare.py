"""What is needed once, between reset and loop; start.py forgets this module then."""

import sys

from gapless_device.boot_window import wants_maintenance
from gapless_device.crash import last
from gapless_device.settings import load


def prepare_board():
    """Return (Board, settings, words on what was wrong with them, the outbox's ring)."""
    settings, faults = load()
    # The largest piece first, while the heap is whole.
    ring = bytearray(settings["outbox_bytes"])
    # Without a profile, that of the machine this runs on.
    profile = settings["profile"] or ("virtual" if sys.platform == "linux" else "pybv11")
    module = __import__("gapless_device.boards." + profile, None, None, ("Board",))
    return module.Board(), settings, faults, ring


def events_of_this_boot(board, window_ms, faults):
    """Claim the port; return [(event, words), ...] for the first records, None for the REPL.

    None: a person at the cable wants the port back, and has it.
    """
    board.port.open()
    if wants_maintenance(board.port, board.ticks_ms, window_ms):
        board.port.close()
        return None
    events = [("boot", {"cause": board.reset_cause()})]
    if faults:
        events.append(("settings", {"faults": " ".join(faults)[:200]}))
    if last():
        events.append(("crash", {"what": last()}))
    return events
