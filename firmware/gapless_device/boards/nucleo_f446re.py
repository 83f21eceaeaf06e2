"""NUCLEO-F446RE: the link is UART 2 behind the ST-LINK, which is the REPL's. Compiled, not yet
tested on hardware.
"""

import machine
import pyb

from gapless_device.boards import stm32

_UART = 2
_BAUD = 115200
# UART.write has no buffer and waits for the last stop bit: 16 bytes are 1.4 ms.
_WRITE_BYTES = 16


class Board(stm32.Board):
    """See boards/__init__.py. The REPL's receive buffer is static, 259 bytes: hence the limits."""

    name = "NUCLEO-F446RE"

    def __init__(self):
        super().__init__()
        self.port = UartPort()


class UartPort(stm32.StreamPort):
    """The UART, taken from the REPL."""

    def open(self):
        """Claim the UART."""
        pyb.repl_uart(None)
        self._claim(machine.UART(_UART, _BAUD))

    def close(self):
        """Give it back to the REPL."""
        self._release()
        pyb.repl_uart(pyb.UART(_UART, _BAUD))

    def read_into(self, buffer):
        """Return the number of bytes read, 0 when there are none."""
        count = min(self._stream.any(), len(buffer))
        return self._stream.readinto(buffer, count) if count else 0

    def write(self, view):
        """Write a few bytes, so that sampling goes on between."""
        return self._stream.write(view[:_WRITE_BYTES])
