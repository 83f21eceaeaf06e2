"""An exception in the loop: remembered for an event record, and slowed down.

crash.txt holds the number of crashes in a row, then a newline, then what happened. A board that
crashes at every start resets less and less often, which also spares its flash.
"""

import os

FILE = "crash.txt"
WAIT_MS_MIN = 1000
WAIT_MS_MAX = 60000
_WORDS_MAX = 120


def note(error):
    """Store what happened; return ms to wait before the reset."""
    count = _read()[0] + 1
    words = "%s: %s" % (type(error).__name__, error)
    try:
        with open(FILE, "w") as file:
            file.write("%d\n%s" % (count, words[:_WORDS_MAX]))
    except OSError:
        pass  # the reset matters more than its story
    return min(WAIT_MS_MIN << min(count - 1, 10), WAIT_MS_MAX)


def last():
    """Return what the last crash was, "" when there was none since the board last ran well."""
    return _read()[1]


def forget():
    """The board runs well: the next crash is the first in a row."""
    if _read()[0]:
        os.remove(FILE)


def _read():
    try:
        with open(FILE) as file:
            count, words = file.read().split("\n", 1)
            return int(count), words
    except (OSError, ValueError):
        return 0, ""
