"""One open serial line as a non-blocking file descriptor, and what can be wrong with opening it.

pyserial opens and configures (raw, exclusive by TIOCEXCL and flock, never a BREAK); reading and
writing go to the descriptor directly, since pyserial's own calls wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import getpass
import grp
import os
import socket
import stat
import termios
from pathlib import Path
from typing import Protocol

import serial

from gapless_gateway.errors import PortIsNoSerialLine

CONNECT_TIMEOUT_S = 5.0
_SOCKET_SCHEME = "socket://"


class PortFault(Exception):
    """A port cannot be opened now and may be later. `code` is the metric's label."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code = code


class Line(Protocol):
    """An open line: a non-blocking descriptor, and how to let go of it."""

    def fileno(self) -> int:
        """Return the descriptor, to be watched by the event loop."""

    def pending_bytes(self) -> int:
        """Return how many written bytes have not left the kernel yet."""

    def close(self) -> None:
        """Let go of the line at once; what has not left is discarded."""


class SerialLine:
    """A tty, opened exclusively."""

    def __init__(self, path: str, baud: int) -> None:
        # inter_byte_timeout=0 makes pyserial set VMIN=1: a read of nothing then means EAGAIN, and
        # an empty read means that the other end is gone.
        self._serial = serial.Serial(
            path, baud, timeout=0, write_timeout=0, inter_byte_timeout=0, exclusive=True
        )
        try:
            fcntl.ioctl(self._serial.fileno(), termios.TIOCEXCL)
        except OSError:
            self._serial.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor."""
        return int(self._serial.fileno())

    def pending_bytes(self) -> int:
        """Return how many bytes wait in the driver."""
        try:
            return int(self._serial.out_waiting)
        except OSError:
            return 0  # unplugged: nothing waits any more

    def close(self) -> None:
        """Discard what has not left (closing would wait for it, up to 30 s) and close."""
        with contextlib.suppress(OSError, termios.error):
            termios.tcflush(self._serial.fileno(), termios.TCOFLUSH)
        with contextlib.suppress(OSError, termios.error):
            fcntl.ioctl(self._serial.fileno(), termios.TIOCNXCL)
        with contextlib.suppress(OSError):
            self._serial.close()


class SocketLine:
    """A TCP connection to a serial server, `socket://host:port`."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def pending_bytes(self) -> int:
        """Return 0: TCP delivers what it has taken, also after close."""
        return 0

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def check_is_serial(path: str) -> None:
    """Raise PortIsNoSerialLine when `path` exists and can never become a serial line.

    A path that is not there, or not to be opened now, passes: that can heal.
    """
    if path.startswith(_SOCKET_SCHEME):
        return
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return
    what = _what_is_it(mode)
    if what is None and not _is_terminal(path):
        what = "a device of another kind"
    if what is not None:
        raise PortIsNoSerialLine(
            f"the port {path} is {what} and no serial line; set path in its [[port]] to a serial "
            "device, see `ls /dev/serial/by-id`"
        )


async def open_line(path: str, baud: int) -> Line:
    """Open a line. Raises PortFault (can heal) or PortIsNoSerialLine (a mistake)."""
    if path.startswith(_SOCKET_SCHEME):
        return await _connect(path)
    check_is_serial(path)
    try:
        return SerialLine(path, baud)
    except OSError as error:  # serial.SerialException is one
        raise _fault(path, error) from None
    except (termios.error, ValueError) as error:
        raise PortFault("failed", f"the port {path} cannot be set up: {error}") from None


async def _connect(path: str) -> Line:
    host, _, port = path.removeprefix(_SOCKET_SCHEME).rpartition(":")
    loop = asyncio.get_running_loop()
    connection: socket.socket | None = None
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            family, kind, protocol, _, address = (
                await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            )[0]
            connection = socket.socket(family, kind, protocol)
            connection.setblocking(False)
            await loop.sock_connect(connection, address)
    except (OSError, TimeoutError) as error:
        if connection is not None:
            connection.close()
        reason = getattr(error, "strerror", None) or "no answer"
        raise PortFault("unreachable", f"{path} cannot be reached ({reason})") from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return SocketLine(connection)


def _fault(path: str, error: OSError) -> PortFault:
    if error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO}:
        return PortFault("missing", f"the port {path} is not there; plug the board in")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return PortFault("permission", _permission_words(path))
    if error.errno in {errno.EBUSY, errno.EAGAIN}:
        return PortFault("busy", f"the port {path} is held by another program; end that program")
    reason = error.strerror or str(error)
    return PortFault("failed", f"the port {path} cannot be opened ({reason})")


def _permission_words(path: str) -> str:
    try:
        group_id = Path(path).stat().st_gid
        group = grp.getgrgid(group_id).gr_name
    except (OSError, KeyError):
        return f"the port {path} may not be opened by this user"
    user = getpass.getuser()
    return (
        f"the port {path} may be opened by the group {group} only and {user} is not in it; "
        f"run `sudo usermod -aG {group} {user}` and start the gateway anew"
    )


def _what_is_it(mode: int) -> str | None:
    if stat.S_ISCHR(mode):
        return None
    if stat.S_ISREG(mode):
        return "a regular file"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe, a socket or a disk"


def _is_terminal(path: str) -> bool:
    """Return whether the device at `path` is a tty; True when that cannot be seen now."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return True
    try:
        return os.isatty(descriptor)
    finally:
        os.close(descriptor)
