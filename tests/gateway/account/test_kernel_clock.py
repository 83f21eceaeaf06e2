"""What the kernel says of its clock is read as adjtimex(2) documents it."""

from __future__ import annotations

import pytest

from gapless_gateway.account import kernel_clock


@pytest.mark.parametrize(
    ("state", "status", "synchronised"),
    [
        (0, 0x0001, True),  # TIME_OK, STA_PLL
        (1, 0x2001, True),  # a leap second is announced
        (5, 0x0001, False),  # TIME_ERROR
        (0, 0x0041, False),  # STA_UNSYNC
        (5, 0x0040, False),
        (-1, 0x0000, False),  # the call failed
    ],
)
def test_the_words_of_the_kernel(state: int, status: int, synchronised: bool) -> None:
    assert kernel_clock.says_synchronised(state, status) is synchronised


def test_the_kernel_here_answers() -> None:
    assert kernel_clock.kernel_clock_synchronised() in {True, False}


def test_a_system_without_adjtimex_is_not_synchronised(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_here(*_: object, **__: object) -> object:
        raise OSError("no such library")

    monkeypatch.setattr(kernel_clock.ctypes, "CDLL", none_here)
    assert kernel_clock.kernel_clock_synchronised() is False
