"""PYBV11: the link is its USB serial port (VCP). Compiled, not yet tested on hardware."""

import os

import pyb

from gapless_device.boards import stm32


class Board(stm32.Board):
    """See boards/__init__.py."""

    name = "PYBV11"
    frame_bytes_max = 512
    unanswered_bytes_max = 512

    def __init__(self):
        super().__init__()
        self.port = UsbPort()


class UsbPort(stm32.StreamPort):
    """The VCP, taken from the REPL: attached, a host that does not read blocks 500 ms a byte."""

    def open(self):
        """Claim the VCP."""
        vcp = pyb.USB_VCP()
        os.dupterm(None, 1)  # slot 1 is the VCP's
        vcp.setinterrupt(-1)
        self._claim(vcp)

    def close(self):
        """Give it back to the REPL."""
        vcp = pyb.USB_VCP()
        vcp.setinterrupt(3)
        self._release()
        os.dupterm(vcp, 1)

    def read_into(self, buffer):
        """Return the number of bytes read, 0 when there are none."""
        return self._stream.recv(buffer, timeout=0)

    def write(self, view):
        """Write what the VCP takes at once; a host that does not read takes nothing."""
        return self._stream.send(view, timeout=0)
