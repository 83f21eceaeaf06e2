"""Run the tests of the link under MicroPython (or CPython): no pytest, no unittest needed.

    micropython -X heapsize=4M tests/link/run_micropython.py [NAME ...]

Runs every ``test_*`` function of the ``test_*.py`` files beside it, but not ``test_cpython_*.py``;
with names, only the functions whose names hold one of them. Exit status 1 when one fails.
"""

import gc
import os
import sys


def _find_root():
    here = __file__.replace("\\", "/").rsplit("/", 1)[0] if "/" in __file__ else "."
    return here + "/../.."


def _modules(folder):
    for name in sorted(os.listdir(folder)):
        if name.startswith("test_") and name.endswith(".py") and "cpython" not in name:
            yield "tests.link." + name[:-3]


def _print_failure(name, error):
    print("FAILED", name)
    if hasattr(sys, "print_exception"):
        sys.print_exception(error)
    else:
        sys.excepthook(type(error), error, error.__traceback__)


def run(wanted):
    root = _find_root()
    sys.path[:0] = [root, root + "/shared"]
    passed = failed = 0
    for module_name in _modules(root + "/tests/link"):
        module = __import__(module_name, None, None, ("x",))
        for name in sorted(dir(module)):
            function = getattr(module, name)
            if not name.startswith("test_") or not callable(function):
                continue
            if wanted and not any(part in name for part in wanted):
                continue
            gc.collect()
            try:
                function()
                passed += 1
            except Exception as error:
                failed += 1
                _print_failure(module_name + "." + name, error)
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
