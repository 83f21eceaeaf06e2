"""What the STM32 profiles share: backup registers, ports, reset causes. Compiled, not yet tested on
hardware: the virtual board runs everything above this file, and nothing in it.
"""

import os
import select
import sys
import time

import machine
import micropython
import stm

TICKS_MASK = 0x3FFFFFFF
# Backup registers 16..19 of the RTC, 32 bits each, far from those that other firmware likes to use.
_FIRST_REGISTER = 16


class Registers:
    """RTC backup registers: they survive every reset, and with VBAT a power cut."""

    def __init__(self):
        self._base = stm.RTC + stm.RTC_BKP0R + 4 * _FIRST_REGISTER

    def read(self, index):
        """Return the value of a register."""
        return stm.mem32[self._base + 4 * index]

    def write(self, index, value):
        """Set a register; values below 2**30."""
        stm.mem32[self._base + 4 * index] = value


class StreamPort:
    """A UART or USB VCP as the link's port."""

    def __init__(self):
        self._poll = select.poll()
        self._claimed = False

    def _claim(self, stream):
        # Frames hold 0x03.
        micropython.kbd_intr(-1)
        self._stream = stream
        self._poll.register(stream, select.POLLIN)
        self._claimed = True

    def _release(self):
        if self._claimed:
            self._claimed = False
            self._poll.unregister(self._stream)
        micropython.kbd_intr(3)

    def wait(self, wait_ms):
        """Return when bytes arrive or `wait_ms` have passed."""
        self._poll.poll(wait_ms)


class Board:
    """What all STM32 boards have. A profile sets `name`, `port` and the limits."""

    frame_bytes_max = 128
    unanswered_bytes_max = 256
    watchdog_ms = 0  # 0: none; once armed, it cannot be stopped

    def __init__(self):
        self.uid = machine.unique_id()
        self.registers = Registers()
        self.sensors = {"temperature_mdegC": self._temperature_mdegc}
        self._watchdog = None

    def _temperature_mdegc(self, now_ms):
        """Read the MCU's own sensor; a profile of a real use brings its own sensors."""
        import pyb

        return int(pyb.ADCAll(12, 0x70000).read_core_temp() * 1000)

    def ticks_ms(self):
        """Return ms in [0, 2**30)."""
        return time.ticks_ms() & TICKS_MASK  # type: ignore[operator]

    def reset_cause(self):
        """Return why the board started."""
        cause = machine.reset_cause()
        for name in ("PWRON_RESET", "WDT_RESET", "SOFT_RESET", "HARD_RESET", "DEEPSLEEP_RESET"):
            if cause == getattr(machine, name, None):
                return name[:-6].lower()
        return "unknown"

    def feed(self):
        """Feed the watchdog; armed by the first progress of the loop, so not in the boot window."""
        if self.watchdog_ms:
            if self._watchdog is None:
                self._watchdog = machine.WDT(timeout=self.watchdog_ms)
            self._watchdog.feed()

    def show(self, linked):
        """The first LED is on while the board is linked."""
        import pyb

        led = pyb.LED(1)
        if linked:
            led.on()
        else:
            led.off()

    def sync(self):
        """Write what the file system holds back."""
        os.sync()

    def sleep(self, wait_ms):
        """Sleep; Ctrl-C ends it while the port is closed."""
        time.sleep_ms(wait_ms)

    def reset(self):
        """Reset the MCU; files are synced first, since the reset flushes nothing."""
        os.sync()
        machine.reset()
        sys.exit()
