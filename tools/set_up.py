#!/usr/bin/env python3
"""Sets up what `make demo` and `make test` need, inside the checkout, then runs it.

Only the standard library, and syntax that an old python3 can read, so that a Python too old to
run Gapless gets a sentence and not a SyntaxError.

    tools/set_up.py tox  -- ARGUMENTS     .venv with tox in it, then tox with ARGUMENTS
    tools/set_up.py demo -- ARGUMENTS     the same, then tox's `demo` environment, then
                                          `gapless demo` directly: tox would kill it half a second
                                          after a Ctrl-C, before it could stop its children
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENVIRONMENT = os.path.join(ROOT, ".venv")
NEW_ENVIRONMENT = os.path.join(ROOT, ".venv.new")
ENVIRONMENT_STAMP = os.path.join(ENVIRONMENT, "gapless-ready")
DEMO_ENVIRONMENT = os.path.join(ROOT, ".tox", "demo")
DEMO_STAMP = os.path.join(DEMO_ENVIRONMENT, "gapless-ready")
LOCK = os.path.join(ROOT, ".setup.lock")
OLDEST_PYTHON = (3, 11)
TOX = "tox>=4.18"
# What the demo's environment is built from; a change of any of it builds it again.
DEMO_SOURCES = ("pyproject.toml", "tox.ini", "shared", "firmware", "gateway", "tools")


def main(arguments):
    what, rest = arguments[0], arguments[2:]
    use_new_enough_python()
    with SetUpLock():
        make_environment()
        if what == "demo":
            make_demo_environment()
    os.chdir(ROOT)
    if what == "demo":
        command = [os.path.join(DEMO_ENVIRONMENT, "bin", "gapless"), "demo"]
    else:
        command = tox_command()
    sys.stdout.flush()
    os.execv(command[0], command + rest)


def tox_command():
    # As a module: a console script would carry the path of the temporary name it was made under.
    return [os.path.join(ENVIRONMENT, "bin", "python"), "-m", "tox"]


def use_new_enough_python():
    """Go on with the newest python3.x on the PATH when this one is too old."""
    if sys.version_info >= OLDEST_PYTHON:
        return
    for minor in range(19, OLDEST_PYTHON[1] - 1, -1):
        path = shutil.which("python3.%d" % minor)
        if path and subprocess.call([path, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            os.execv(path, [path, os.path.abspath(__file__)] + sys.argv[1:])
    stop(
        "Gapless needs Python 3.11 or newer, and %s is %d.%d. Install a newer one, or name it: "
        "make PYTHON=/path/to/python3.12 ..."
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )


class SetUpLock:
    """One set-up at a time in a checkout; a second one waits and then finds the work done."""

    def __enter__(self):
        self.file = open(LOCK, "w")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another set-up is at work in this checkout; waiting for it")
            fcntl.flock(self.file, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_):
        self.file.close()


def make_environment():
    if os.path.exists(ENVIRONMENT_STAMP):
        return
    say("making a virtual environment with tox in it: .venv (once, needs the network)")
    try:
        import ensurepip  # noqa: F401  Debian ships it in a package of its own
    except ImportError:
        stop("Python's venv module is incomplete here. Install it: sudo apt install python3-venv")
    for leftover in (NEW_ENVIRONMENT, ENVIRONMENT):
        shutil.rmtree(leftover, ignore_errors=True)
    run([sys.executable, "-m", "venv", NEW_ENVIRONMENT], "could not make .venv")
    pip = [os.path.join(NEW_ENVIRONMENT, "bin", "python"), "-m", "pip"]
    run(
        pip + ["install", "-qq", "--disable-pip-version-check", TOX],
        "could not install tox; is there a network?",
    )
    os.rename(NEW_ENVIRONMENT, ENVIRONMENT)
    write_stamp(ENVIRONMENT_STAMP, "")


def make_demo_environment():
    digest = digest_of_sources()
    if os.path.exists(DEMO_STAMP) and open(DEMO_STAMP).read() == digest:
        return
    say("installing Gapless and the parts of the demo: .tox/demo (the first time takes a minute)")
    run(
        tox_command() + ["run", "-q", "-e", "demo", "--notest"],
        "could not set up the demo; the lines above say why",
    )
    write_stamp(DEMO_STAMP, digest)


def digest_of_sources():
    digest = hashlib.sha256()
    for name in DEMO_SOURCES:
        path = os.path.join(ROOT, name)
        if os.path.isfile(path):
            add_file(digest, path)
        for folder, folders, files in sorted(os.walk(path)):
            folders[:] = [f for f in folders if f != "__pycache__"]
            for file in sorted(files):
                add_file(digest, os.path.join(folder, file))
    return digest.hexdigest()


def add_file(digest, path):
    digest.update(os.path.relpath(path, ROOT).encode() + b"\0")
    with open(path, "rb") as file:
        digest.update(hashlib.sha256(file.read()).digest())


def write_stamp(path, text):
    with open(path, "w") as file:
        file.write(text)


def run(command, sentence):
    # The caller's own Python settings must not leak into an environment that is to be its own.
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    if subprocess.call(command, cwd=ROOT, env=clean) != 0:
        stop(sentence)


def say(sentence):
    print("set-up: " + sentence, flush=True)


def stop(sentence):
    print("set-up: " + sentence, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("tox", "demo"):
        stop("say what to run: tools/set_up.py tox|demo -- ARGUMENTS")
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        stop("interrupted; the next run goes on from here")
