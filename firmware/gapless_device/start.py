"""From reset to the loop, and from a crash to the next reset.

What is needed once is in modules of its own and forgotten then: a board's heap is small.
"""

import gc
import sys

import gapless_device


def run():
    """Start the board and never return, unless a person asked for the REPL."""
    from gapless_device.prepare import prepare_board

    board, settings, faults, ring = prepare_board()
    try:
        app = prepare(board, settings, faults, ring)
        if app is not None:
            app.run()
    except Exception as error:
        recover(board, error)


def prepare(board, settings, faults, ring):
    """Return the application that is ready to run, None when a person wants the REPL."""
    from gapless_device.prepare import person_at_cable, prepare_app

    if person_at_cable(board, settings["boot_window_ms"]):
        print("gapless: maintenance, the REPL follows")
        return None
    app = prepare_app(board, settings, faults, ring)
    for name in ("prepare", "settings", "boot_window", "crash"):
        del sys.modules["gapless_device." + name]
        delattr(gapless_device, name)
    gc.collect()
    if settings["debug_memory"] and hasattr(gc, "mem_free"):
        print("gapless: heap free", gc.mem_free())
    return app


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
