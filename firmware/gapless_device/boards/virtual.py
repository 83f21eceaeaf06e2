"""The virtual board: a process whose terminal is the port. Runs on MicroPython and on CPython.

What a real board has in hardware is here: RTC backup registers are the file rtc_registers.bin in
the board's file system (it survives a killed process; deleting it is a power cut), the MCU's uid
and the cause of the reset come from the environment, and the sensors are simulated.
"""

import os
import select
import sys
import termios
import time

from gapless_device.boards.simulated_sensors import SENSORS

REGISTERS_FILE = "rtc_registers.bin"
REGISTERS = 4
RESET_STATUS = 75  # the process ends with it: start me again, this was a reset
TICKS_MASK = 0x3FFFFFFF
_WRITE_BYTES = 64
_LFLAG, _CC = 3, 6  # places in what tcgetattr returns
_VTIME, _VMIN = 5, 6
_CHANGED = (0, 1, _LFLAG)


class Board:
    """See boards/__init__.py."""

    name = "virtual"
    # As little as behind an ST-LINK: no message to a board needs more.
    frame_bytes_max = 128
    unanswered_bytes_max = 256
    sensors = SENSORS

    def __init__(self):
        self.uid = bytes.fromhex(os.getenv("GAPLESS_BOARD_UID") or "00")
        self.registers = Registers(REGISTERS_FILE)
        self.port = Terminal()
        self._zero_ms = _ticks_ms()

    def ticks_ms(self):
        """Return ms since the start, in [0, 2**30)."""
        return (_ticks_ms() - self._zero_ms) & TICKS_MASK

    def reset_cause(self):
        """Return what the supervisor says."""
        return os.getenv("GAPLESS_BOARD_RESET_CAUSE") or "power-on"

    def feed(self):
        """There is no watchdog."""

    def show(self, linked):
        """There is no LED."""

    def sync(self):
        """A process that is killed loses nothing of what it wrote."""

    def sleep(self, wait_ms):
        """Sleep; Ctrl-C ends it when the port is closed."""
        time.sleep(wait_ms / 1000)

    def reset(self):
        """End the process; its supervisor starts it again."""
        sys.exit(RESET_STATUS)


class Registers:
    """Backup registers of 32 bits as a file: each write is one write of 4 bytes."""

    def __init__(self, path):
        try:
            self._file = open(path, "r+b", 0)
        except OSError:
            with open(path, "wb") as file:
                file.write(bytes(4 * REGISTERS))
            self._file = open(path, "r+b", 0)
        self._word = bytearray(4)

    def read(self, index):
        """Return the value of a register."""
        self._file.seek(4 * index)
        return int.from_bytes(self._file.read(4), "big")

    def write(self, index, value):
        """Set a register."""
        word = self._word
        for place in range(4):
            word[3 - place] = value >> (8 * place) & 0xFF
        self._file.seek(4 * index)
        self._file.write(word)


class Terminal:
    """The process's terminal as a serial port: raw, eight bits, reads that never wait."""

    def __init__(self):
        # CPython's buffered streams have the plain one inside, MicroPython's are plain.
        self._input = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        self._output = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)
        self._readable = select.poll()
        self._readable.register(sys.stdin, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(sys.stdout, select.POLLOUT)
        self._restore = None

    def open(self):
        """Turn off echo, Ctrl-C and all translation."""
        mode = termios.tcgetattr(0)
        if self._restore is None:
            # Not the whole list: it is long, and stays.
            self._restore = [mode[place] for place in _CHANGED]
            self._restore += [mode[_CC][_VMIN], mode[_CC][_VTIME]]
        _set_mode(mode, (0, 0, 0, 0, 0))

    def close(self):
        """Make it a terminal again, with Ctrl-C."""
        if self._restore is not None:
            _set_mode(termios.tcgetattr(0), self._restore)

    def read_into(self, buffer):
        """Return the number of bytes read, 0 when there are none."""
        return self._input.readinto(buffer) or 0

    def write(self, view):
        """Write what the terminal takes at once; return the number of bytes."""
        if not self._writable.poll(0):
            return 0
        # A short write to a terminal that takes bytes does not wait.
        return self._output.write(view[:_WRITE_BYTES])

    def wait(self, wait_ms):
        """Return when bytes arrive or `wait_ms` have passed."""
        self._readable.poll(wait_ms)


def _set_mode(mode, values):
    for place, value in zip(_CHANGED, values):
        mode[place] = value
    mode[_CC] = list(mode[_CC])
    mode[_CC][_VMIN], mode[_CC][_VTIME] = values[3:]
    termios.tcsetattr(0, termios.TCSANOW, mode)


def _ticks_ms():
    return time.ticks_ms() if hasattr(time, "ticks_ms") else time.monotonic_ns() // 1000000  # type: ignore[attr-defined]
