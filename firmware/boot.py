"""Runs at every start and at every mpremote call, so it does next to nothing.

An exception here would keep main.py from running for ever: what can fail is guarded.
"""

try:
    import pyb

    # Serial only: with the default (serial and disk) a host's write to the disk can tear the files
    # that this board keeps its state in.
    pyb.usb_mode("VCP")
except (ImportError, AttributeError, ValueError, OSError):
    pass  # no USB, or no pyb: nothing to set
