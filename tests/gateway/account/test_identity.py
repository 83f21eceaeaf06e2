"""A board is its name and its uid together; whatever does not fit is refused in one sentence."""

from __future__ import annotations

import pytest

from gapless_gateway.account import identity
from gapless_gateway.account.account import Account
from gapless_gateway.account.settling import settle_closed
from gapless_gateway.wal.entries import Lost
from tests.support.account_story import fold, hello, record, run, session, verdict


@pytest.fixture
def account() -> Account:
    greeting = hello(3, held=((1, 2),))
    return fold([run(1), session(greeting, 0), record(1), record(2)])


@pytest.mark.parametrize(
    ("greeting", "what", "code"),
    [
        (hello(3), None, 0),
        (hello(1, device_id="pump-2", uid=b"uid-2", stream=b"new1"), None, 0),
        (hello(1, device_id="pump-2", uid=b"uid-2", stream=None), None, 0),
        (hello(1, stream=b"new1"), None, 0),
        (hello(3, uid=b"uid-2"), "name_taken", identity.REJECT_IDENTITY),
        (hello(1, uid=b"uid-2", stream=None), "name_taken", identity.REJECT_IDENTITY),
        (hello(3, device_id="pump-2"), "uid_taken", identity.REJECT_IDENTITY),
        (hello(3, device_id="a", uid=b"b"), "stream_taken", identity.REJECT_IDENTITY),
        (
            hello(1, device_id="receipt", uid=b"uid-3", stream=None),
            "name_reserved",
            identity.REJECT_DEVICE_ID,
        ),
        (
            hello(1, device_id="status", uid=b"uid-3", stream=None),
            "name_reserved",
            identity.REJECT_DEVICE_ID,
        ),
        (hello(2), "numbering_lost", identity.REJECT_STREAM_CLOSED),
    ],
)
def test_who_is_let_in(account: Account, greeting: object, what: str | None, code: int) -> None:
    fault = identity.check(greeting, account)  # type: ignore[arg-type]
    assert (fault.what if fault else None) == what
    if fault is not None:
        assert fault.code == code
        assert fault.words
        assert "\n" not in fault.words


def test_a_closed_stream_does_not_come_back(account: Account) -> None:
    account.apply(account.next_lsn or 0, session(hello(1, stream=b"new1"), 0, boot=2))
    fault = identity.check(hello(3), account)
    assert fault is not None
    assert fault.what == "stream_closed"
    assert account.by_device("pump-1") is account.streams[b"new1"]
    assert account.by_uid(b"uid-1") is account.streams[b"new1"]
    assert verdict(account) == (0, 0, 0)


def test_a_stream_declared_lost_to_its_end_is_refused_before_its_successor_is_known(
    account: Account,
) -> None:
    lsn = account.next_lsn or 0
    account.apply(lsn, session(hello(6, held=((3, 5),)), 0, uptime_ms=9))
    stream = account.streams[b"strm"]
    for at, (first, last, reason, at_most) in enumerate(settle_closed(stream), lsn + 1):
        account.apply(at, Lost(b"strm", first, last, reason, at_most, True, 1, 0))
    fault = identity.check(hello(6), account)
    assert fault is not None
    assert fault.what == "stream_closed"
    assert stream.balance().lost == 3
    assert verdict(account) == (0, 0, 0)


def test_the_codes_are_those_of_the_link() -> None:
    messages = pytest.importorskip("gapless_link.gateway_messages")
    assert messages.REJECT_IDENTITY == identity.REJECT_IDENTITY
    assert messages.REJECT_STREAM_CLOSED == identity.REJECT_STREAM_CLOSED
