"""What all sessions share: the log, the account, the clocks, who is linked where."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import cbor2

from gapless_gateway.account.account import Account
from gapless_gateway.account.dating import (
    NO_STRETCH,
    TICKS_PERIOD_MS,
    ClockModel,
    Dated,
    Dating,
    uptime_ms,
)
from gapless_gateway.account.kernel_clock import kernel_clock_synchronised
from gapless_gateway.committer import Committer
from gapless_gateway.metrics import Metrics
from gapless_gateway.wal.entries import (
    T_SOURCE_LINK,
    T_SOURCE_NONE,
    T_SOURCE_UNSYNCED,
    TIME_UNKNOWN,
    Record,
    Session,
    TimePair,
)

if TYPE_CHECKING:
    from gapless_gateway.account.stream_account import StreamAccount
    from gapless_gateway.linked import LinkedStream
    from gapless_gateway.session import PortSession
    from gapless_link.receiver import ClockSample

SYNC_CHECK_PERIOD_MS = 1000


class Clock:
    """The two clocks of the gateway, in whole milliseconds, and what the kernel says of them."""

    def __init__(self, synchronised: Callable[[], bool] = kernel_clock_synchronised) -> None:
        self._synchronised = synchronised
        self._checked_ms: int | None = None
        self._answer = False

    def monotonic_ms(self) -> int:
        """Return the clock for timers and round trips."""
        return time.monotonic_ns() // 1_000_000

    def utc_ms(self) -> int:
        """Return the time of day, milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def synchronised(self) -> bool:
        """Return whether the kernel reports a synchronised clock; asked once a second."""
        now_ms = self.monotonic_ms()
        if self._checked_ms is None or now_ms - self._checked_ms >= SYNC_CHECK_PERIOD_MS:
            self._checked_ms = now_ms
            self._answer = self._synchronised()
        return self._answer


class Links:
    """Which port serves which device now. A board that starts on another port has moved there.

    Two ports for one board happen when it was plugged in elsewhere before the loss of the old
    port was seen. The newer one has just proved, by its START, that something lives behind it.
    """

    def __init__(self) -> None:
        self._session_of_device: dict[str, PortSession] = {}

    def take_over(self, device: str, session: PortSession) -> None:
        """Register the session as the one of this device, and end another one that was."""
        former = self._session_of_device.get(device)
        self._session_of_device[device] = session
        if former is not None and former is not session:
            former.moved_to(session.port)

    def leave(self, device: str, session: PortSession) -> None:
        """Forget the session, if it is still the one of this device."""
        if self._session_of_device.get(device) is session:
            del self._session_of_device[device]

    def linked(self, stream: StreamAccount) -> LinkedStream | None:
        """Return the running session of a stream, or None."""
        session = self._session_of_device.get(stream.device)
        linked = session.linked if session is not None else None
        return linked if linked is not None and linked.stream == stream.stream else None


class Ingest:
    """The shared ground of all port sessions."""

    def __init__(
        self,
        *,
        account: Account,
        committer: Committer,
        metrics: Metrics,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        outage_id: Callable[[], int],
        credit_window: Callable[[], int],
    ) -> None:
        """`credit_window`: how many seqs beyond the durable one a board may send now."""
        self.account = account
        self.committer = committer
        self.metrics = metrics
        self.clock = clock
        self.random_bytes = random_bytes
        self.outage_id = outage_id
        self.credit_window = credit_window
        self.links = Links()
        self._session_lsn = 0  # of the last Session appended
        # A copy that runs ahead of the account: the account's own changes only with its entries.
        self.dating = Dating.restore(account.dating.snapshot())

    @property
    def log_id(self) -> bytes:
        """The id of the log that everything goes to."""
        return self.account.log_id

    def append_session(self, entry: Session) -> None:
        """Append a Session; nobody is greeted or started before the account knows of it."""
        self._session_lsn = self.committer.append(entry)

    def when_account_is_current(self, callback: Callable[[], None]) -> None:
        """Call `callback` when all appended so far, and every Session, is in the account.

        Two boards that start at the same time are thereby judged one after the other.
        """

        def check() -> None:
            current = self.committer.applied_lsn >= self._session_lsn
            if current or self.committer.failed is not None:
                callback()
            else:
                self.committer.when_durable(check)

        self.committer.when_durable(check)

    def observe_clock(self, stream: bytes, boot: int, sample: ClockSample) -> None:
        """Take a pair of the board's uptime and our time in; log it where it tells something."""
        utc_offset_ms = self.clock.utc_ms() - self.clock.monotonic_ms()
        at_ms = uptime_ms(sample.wraps, sample.ticks_ms)
        lo_ms, hi_ms = sample.sent_ms + utc_offset_ms, sample.received_ms + utc_offset_ms
        synced = self.clock.synchronised()
        if self.dating.learn(stream, boot, at_ms, (lo_ms, hi_ms), synced=synced):
            self.committer.append(TimePair(stream, boot, at_ms, lo_ms, hi_ms, synced))


class RecordEntries:
    """Makes the entries of one stream's records, each dated once, as it is appended.

    Nearly all of them begin with the same bytes, up to the ticks, which alone are read then. All
    of a record's CBOR is read only where that changes: at another boot, or when the ticks wrap. So
    a record whose body is no sound CBOR may have a time.
    """

    def __init__(self, dating: Dating, stream: bytes) -> None:
        self._dating = dating
        self._stream = stream
        self._boot = 0
        self._wraps_ms = 0
        self._begin = b""  # of a record of this boot, up to its four bytes of ticks
        self._end = 0  # of the ticks; 0: not known yet

    def make(self, first: int, records: Iterable[bytes], rx_ms: int, outage: int) -> list[Record]:
        """Return the entries of records, numbered from `first` on, that were received together."""
        stream = self._stream
        entries: list[Record] = []
        model, source = self._model()
        first_ms, last_ms, lo_ms, hi_ms = NO_STRETCH
        begin, end, wraps_ms = self._begin, self._end, self._wraps_ms
        for seq, data in enumerate(records, first):
            if model is None or len(data) <= end or not data.startswith(begin):
                lo, hi, t_source = self._date_other(data, rx_ms)
                entries.append(Record(stream, seq, rx_ms, lo, hi, t_source, outage, data))
                model, source = self._model()
                first_ms, last_ms, lo_ms, hi_ms = NO_STRETCH
                begin, end, wraps_ms = self._begin, self._end, self._wraps_ms
                continue
            uptime = wraps_ms + int.from_bytes(data[end - 4 : end], "big")
            if not first_ms <= uptime <= last_ms:
                first_ms, last_ms, lo_ms, hi_ms = model.stretch(uptime)
            lo, hi = uptime + lo_ms, uptime + hi_ms
            if lo <= rx_ms < hi:
                hi = rx_ms
            entries.append(Record(stream, seq, rx_ms, lo, hi, source, outage, data))
        return entries

    def _model(self) -> tuple[ClockModel | None, int]:
        """What dates records that begin as the last ones did, and as what; None: nothing does."""
        model = self._dating.model(self._stream, self._boot) if self._end else None
        if model is None or not model.pairs:
            return None, T_SOURCE_NONE
        return model, T_SOURCE_LINK if model.synced else T_SOURCE_UNSYNCED

    def _date_other(self, data: bytes, rx_ms: int) -> Dated:
        """Date a record that begins otherwise, and note how it begins."""
        moment = _moment_of(data)
        if moment is None:
            return Dated(TIME_UNKNOWN, rx_ms, T_SOURCE_NONE)
        boot, at_ms = moment
        wraps = at_ms // TICKS_PERIOD_MS
        begin = b"\x85" + cbor2.dumps(boot) + cbor2.dumps(wraps) + b"\x1a"
        if data.startswith(begin):  # else its ticks are shorter: the first minute of a boot
            self._boot, self._wraps_ms = boot, wraps * TICKS_PERIOD_MS
            self._begin, self._end = begin, len(begin) + 4
        return self._dating.date(self._stream, boot, at_ms, rx_ms)


def _moment_of(data: bytes) -> tuple[int, int] | None:
    """Return (boot, uptime_ms) of a record's bytes (docs/wire-format.md), None for other bytes."""
    try:
        boot, wraps, ticks_ms, _, _ = cbor2.loads(data)
        return int(boot), uptime_ms(wraps, ticks_ms)
    except (cbor2.CBORDecodeError, ValueError, TypeError):
        return None
