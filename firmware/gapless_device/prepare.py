"""Everything that is needed once, between reset and loop; start.py forgets this module then."""

import gc
import sys

from gapless_device.boot_window import wants_maintenance
from gapless_device.crash import last
from gapless_device.settings import load


def prepare_board():
    """Return (Board, settings, words on what was wrong with them, the outbox's ring)."""
    settings, faults = load()
    ring = bytearray(settings["outbox_bytes"])
    # Without a profile, that of the machine this runs on.
    profile = settings["profile"] or ("virtual" if sys.platform == "linux" else "pybv11")
    module = __import__("gapless_device.boards." + profile, None, None, ("Board",))
    return module.Board(), settings, faults, ring


def person_at_cable(board, window_ms):
    """Claim the port, and say whether a person wants it back."""
    board.port.open()
    wanted = wants_maintenance(board.port, board.ticks_ms, window_ms)
    if wanted:
        board.port.close()
    return wanted


def prepare_app(board, settings, faults, ring):
    """Return the App, with an event record on this boot in its outbox."""
    # Garbage between what stays leaves holes that are too small: collected before each of them.
    gc.collect()
    from gapless_device.state import State

    gc.collect()
    import gapless_link.sender  # noqa: F401

    gc.collect()
    from gapless_device.app import App

    gc.collect()
    app = App(board, settings, ring, State(board.sync), runtime())
    app.add_event("boot", cause=board.reset_cause())
    if faults or app.unknown:
        app.add_event("settings", faults=" ".join(faults + app.unknown)[:200])
    if last():
        app.add_event("crash", what=last())
    return app


def runtime():
    """Return the interpreter and its version, as HELLO tells it."""
    version = sys.implementation.version
    return "%s %d.%d.%d" % (sys.implementation.name, version[0], version[1], version[2])
