"""The link between a board and its gateway: no I/O, no clock, one code on both sides."""

try:
    # On a board `_NAME = const(1)` is folded and takes no memory.
    from micropython import const as const
except ImportError:

    def const(value):  # type: ignore[misc]
        """Return the value: a constant is an ordinary name here."""
        return value
