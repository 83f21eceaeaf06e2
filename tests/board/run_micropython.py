"""Run the plain tests of the firmware under MicroPython: no pytest needed.

    micropython -X heapsize=1M run_micropython.py WORK_FOLDER PATH...

PATHs are the folders of gapless_device, gapless_link and of these tests. Each test function runs in
an empty folder of its own. Exit status 1 when one fails.
"""

import gc
import os
import sys

MODULES = ("test_outbox", "test_numbering", "test_settings", "test_boot_window", "test_sampling")


def run(folder):
    failed = count = 0
    for name in MODULES:
        module = __import__(name)
        for test in sorted(dir(module)):
            if not test.startswith("test_"):
                continue
            count += 1
            own = "%s/%d" % (folder, count)
            os.mkdir(own)
            os.chdir(own)
            gc.collect()
            try:
                getattr(module, test)()
            except Exception as error:
                failed += 1
                print("FAILED", name, test)
                sys.print_exception(error)
        sys.modules.pop(name)
    print(count - failed, "passed,", failed, "failed")
    return failed


sys.path[:0] = sys.argv[2:]
sys.exit(1 if run(sys.argv[1]) else 0)
