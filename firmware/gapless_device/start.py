"""From reset to the loop, and from a crash to the next reset.

What is needed once is in modules of its own and forgotten then, before the link is loaded: a
board's heap is small.
"""

import gc
import sys

import gapless_device


def run():
    """Start the board and never return, unless a person asked for the REPL."""
    board, settings, faults, ring = _prepare("prepare_board")
    try:
        events = _prepare("events_of_this_boot", board, settings["boot_window_ms"], faults)
        if events is None:
            print("gapless: maintenance, the REPL follows")
            return
        _forget_preparation()
        start(board, settings, ring, events).run()
    except Exception as error:
        recover(board, error)


def start(board, settings, ring, events):
    """Return the App, with the event records of this boot in its outbox."""
    # Garbage between what stays leaves holes that are too small: collected before each of them.
    from gapless_device.state import State

    state = State(board.sync)
    gc.collect()
    import gapless_link.sender  # noqa: F401

    gc.collect()
    from gapless_device.app import App

    gc.collect()
    app = App(board, settings, ring, state, runtime())
    for name, words in events:
        app.add_event(name, **words)
    if app.unknown:
        app.add_event("settings", faults=" ".join(app.unknown)[:200])
    gc.collect()
    if settings["debug_memory"] and hasattr(gc, "mem_free"):
        print("gapless: heap free", gc.mem_free())
    return app


def runtime():
    """Return the interpreter and its version, as HELLO tells it."""
    version = sys.implementation.version
    return "%s %d.%d.%d" % (sys.implementation.name, version[0], version[1], version[2])


def recover(board, error):
    """Tell of an exception, and reset after a wait that grows from crash to crash."""
    from gapless_device.crash import note

    board.port.close()
    sys.print_exception(error)
    wait_ms = note(error)
    print("gapless: reset in", wait_ms, "ms; Ctrl-C for the REPL")
    # The interrupt character is on again: this wait is also the way in for a person.
    board.sleep(wait_ms)
    board.reset()


def _prepare(name, *arguments):
    """Call a function of prepare.py; in a frame of its own, since a name that stays keeps it."""
    import gapless_device.prepare

    return getattr(gapless_device.prepare, name)(*arguments)


def _forget_preparation():
    for name in ("prepare", "settings", "boot_window", "crash"):
        del sys.modules["gapless_device." + name]
        delattr(gapless_device, name)
    gc.collect()
