"""Whether the kernel's clock is disciplined, asked of the kernel itself by adjtimex(2).

Linux keeps the answer in the status word that ntpd, chronyd and systemd-timesyncd set; the call
with modes = 0 only reads and needs no privilege. Source of the layout: <sys/timex.h>.
"""

from __future__ import annotations

import ctypes

STA_UNSYNC = 0x0040
TIME_ERROR = 5


class _Timex(ctypes.Structure):
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time_s", ctypes.c_long),
        ("time_us", ctypes.c_long),
        ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long),
        ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long),
        ("jitcnt", ctypes.c_long),
        ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long),
        ("stbcnt", ctypes.c_long),
        ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    )


def kernel_clock_synchronised() -> bool:
    """True when the kernel reports a synchronised clock; False when not, or when it cannot say."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return False
    adjtimex.argtypes = (ctypes.POINTER(_Timex),)
    adjtimex.restype = ctypes.c_int
    timex = _Timex()
    state: int = adjtimex(ctypes.byref(timex))
    return says_synchronised(state, timex.status)


def says_synchronised(state: int, status: int) -> bool:
    """What the return value and the status word of adjtimex(2) say together."""
    return 0 <= state < TIME_ERROR and not status & STA_UNSYNC
