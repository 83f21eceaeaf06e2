"""Who a board says it is, against who it was: the pair of device id and uid is its identity.

A port's name never is. Whatever does not fit is refused with a code of the link's REJECT, counted,
and shown to a person; nothing of it enters the account.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gapless_gateway.account.settling import HelloFacts, settle
from gapless_link.gateway_messages import REJECT_DEVICE_ID, REJECT_IDENTITY, REJECT_STREAM_CLOSED

if TYPE_CHECKING:
    from gapless_gateway.account.account import Account


# Levels of the gateway's own topics, gapless/GATEWAY/status and gapless/GATEWAY/receipt/DEVICE: a
# device of that name would speak under them.
RESERVED_NAMES = frozenset({"receipt", "status"})


class HelloIdentity(HelloFacts, Protocol):
    """What the check reads of a HELLO."""

    @property
    def device_id(self) -> str:
        """The provisioned name."""

    @property
    def uid(self) -> bytes:
        """The microcontroller's own number."""

    @property
    def stream(self) -> bytes | None:
        """The stream that the board numbers its records in; None before it has one."""


@dataclass(frozen=True, slots=True)
class IdentityFault:
    """Why a HELLO is refused: the REJECT code, a word for metrics, one sentence for people."""

    code: int
    what: str
    words: str


def check(hello: HelloIdentity, account: Account) -> IdentityFault | None:
    """What is wrong with the identity in a HELLO, or None.

    Looked at is only what the account witnessed: names, uids, streams and their numbering.
    """
    return _check_name(hello, account) or _check_stream(hello, account)


def _check_name(hello: HelloIdentity, account: Account) -> IdentityFault | None:
    name, uid = hello.device_id, bytes(hello.uid)
    if name in RESERVED_NAMES:
        words = f"no board may be named {name}: it is a topic of the gateway's own"
        return IdentityFault(REJECT_DEVICE_ID, "name_reserved", words)
    known_uid, known_name = account.uid_of(name), account.name_of(uid)
    if known_uid is not None and known_uid != uid:
        words = f"{name} is known with uid {known_uid.hex()}, and this board's is {uid.hex()}"
        return IdentityFault(REJECT_IDENTITY, "name_taken", words)
    if known_name is not None and known_name != name:
        words = f"the board with uid {uid.hex()} is known as {known_name}, and now says {name}"
        return IdentityFault(REJECT_IDENTITY, "uid_taken", words)
    return None


def _check_stream(hello: HelloIdentity, account: Account) -> IdentityFault | None:
    stream = account.streams.get(bytes(hello.stream)) if hello.stream is not None else None
    if stream is None:
        return None
    label = stream.stream.hex()
    nameless = not stream.uid  # the Session that opened it cannot be read any more
    if not nameless and (stream.device, stream.uid) != (hello.device_id, bytes(hello.uid)):
        words = f"stream {label} belongs to {stream.device}, not to {hello.device_id}"
        return IdentityFault(REJECT_IDENTITY, "stream_taken", words)
    if stream.ended:
        words = f"stream {label} of {stream.device} was closed, and another one follows it"
        return IdentityFault(REJECT_STREAM_CLOSED, "stream_closed", words)
    backwards = settle(hello, stream, account.log_id).went_backwards
    if backwards is not None:
        return IdentityFault(REJECT_STREAM_CLOSED, "numbering_lost", backwards)
    return None
