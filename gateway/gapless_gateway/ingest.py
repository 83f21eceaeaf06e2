"""What all sessions share: the log, the account, the clocks, who is linked where."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import cbor2

from gapless_gateway.account.account import Account
from gapless_gateway.account.dating import TICKS_PERIOD_MS, Dated, Dating, uptime_ms
from gapless_gateway.account.kernel_clock import kernel_clock_synchronised
from gapless_gateway.committer import Committer
from gapless_gateway.metrics import Metrics
from gapless_gateway.wal.entries import T_SOURCE_NONE, TIME_UNKNOWN, Session, TimePair

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
    ) -> None:
        self.account = account
        self.committer = committer
        self.metrics = metrics
        self.clock = clock
        self.random_bytes = random_bytes
        self.outage_id = outage_id
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

    def date_all(self, stream: bytes, records: Iterable[bytes], rx_ms: int) -> list[Dated]:
        """Date records, once, as they are appended."""
        dated: list[Dated] = []
        for boot, uptimes_ms in moments_of(records):
            if boot is None:
                dated += [Dated(TIME_UNKNOWN, rx_ms, T_SOURCE_NONE)] * len(uptimes_ms)
            else:
                dated += self.dating.date_all(stream, boot, uptimes_ms, rx_ms)
        return dated

    def observe_clock(self, stream: bytes, boot: int, sample: ClockSample) -> None:
        """Take a pair of the board's uptime and our time in; log it where it tells something."""
        utc_offset_ms = self.clock.utc_ms() - self.clock.monotonic_ms()
        pair = TimePair(
            stream=stream,
            boot=boot,
            uptime_ms=uptime_ms(sample.wraps, sample.ticks_ms),
            utc_lo_ms=sample.sent_ms + utc_offset_ms,
            utc_hi_ms=sample.received_ms + utc_offset_ms,
            synced=self.clock.synchronised(),
        )
        if self.dating.add(pair):
            self.committer.append(pair)


def moments_of(records: Iterable[bytes]) -> list[tuple[int | None, list[int]]]:
    """Return when records were made, in runs of one boot: (boot, uptimes in ms).

    The boot is None for bytes that are no record; there is a number in their place too.

    Nearly all records of a run begin with the same bytes, up to the ticks, which alone are read
    then: all of a record's CBOR is read once a run. So a record whose body is no sound CBOR may
    have a time.
    """
    runs: list[tuple[int | None, list[int]]] = []
    uptimes_ms: list[int] = []
    boot: int | None = None
    wraps_ms, same, end = 0, b"", -1
    for data in records:
        if len(data) > end > 0 and data.startswith(same):
            uptimes_ms.append(wraps_ms + int.from_bytes(data[end - 4 : end], "big"))
            continue
        moment = _moment_of(data)
        now_boot = moment[0] if moment is not None else None
        if not runs or now_boot != boot:
            uptimes_ms = []
            runs.append((now_boot, uptimes_ms))
        boot = now_boot
        uptimes_ms.append(moment[1] if moment is not None else 0)
        wraps_ms = uptimes_ms[-1] // TICKS_PERIOD_MS * TICKS_PERIOD_MS
        same = b"\x85" + cbor2.dumps(boot) + cbor2.dumps(wraps_ms // TICKS_PERIOD_MS) + b"\x1a"
        # Ticks of another length are of the first minute of a boot.
        end = len(same) + 4 if moment is not None and data.startswith(same) else -1
    return runs


def _moment_of(data: bytes) -> tuple[int, int] | None:
    """Return (boot, uptime_ms) of a record's bytes (docs/wire-format.md), None for other bytes."""
    try:
        boot, wraps, ticks_ms, _, _ = cbor2.loads(data)
        return int(boot), uptime_ms(wraps, ticks_ms)
    except (cbor2.CBORDecodeError, ValueError, TypeError):
        return None
