"""A running session: what a board sends after its START becomes entries of the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from gapless_gateway.account.dating import uptime_ms
from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.account.settling import ELSEWHERE, Settlement, settle, settle_closed
from gapless_gateway.ingest import RecordEntries
from gapless_gateway.rates import RateMeter, SparseLog
from gapless_gateway.wal.entries import (
    CONFLICT_BYTES_DIFFER,
    CONFLICT_RECORD_AFTER_LOST,
    REASON_CORRUPTION,
    T_SOURCE_NONE,
    Conflict,
    Elsewhere,
    Lost,
    Session,
    reason_word,
)

if TYPE_CHECKING:
    from gapless_gateway.account.stream_account import StreamAccount
    from gapless_gateway.ingest import Ingest
    from gapless_link.receiver import ClockSample, LostReceived, RecordsReceived

log = logging.getLogger("gapless.session")


class LinkedStream:
    """One stream on one port, from its START to the end of the session."""

    def __init__(self, port: str, hello: Any, stream: bytes, ingest: Ingest) -> None:
        self.port = port
        self.stream = stream
        self.device: str = hello.device_id
        self.rate = RateMeter()
        self._hello = hello
        self._ingest = ingest
        self._entries = RecordEntries(ingest.dating, stream)
        self._counters = ingest.metrics.device(self.device)
        self._sparse = SparseLog(log)
        self._acked = 0
        self._opening_lsn = 0  # of the last entry that opened it: before that, nothing is acked
        self._taken_through = 0  # what came in this session, and was skipped, without a hole
        self._stored_through = 0  # what was in the log when it began
        self._reclaiming = IntervalSet()  # unreadable here, and on its way again from the board

    def open(self) -> Settlement:
        """Settle the HELLO against the account and append the Session; the account is current.

        Returns what the receiver begins with.
        """
        account, now_ms = self._ingest.account, self._ingest.clock.utc_ms()
        former = account.by_device(self.device)
        settlement = settle(self._hello, account.streams.get(self.stream), account.log_id)
        self._acked, self._taken_through = settlement.stored, settlement.durable
        known = account.streams.get(self.stream)
        self._stored_through = known.durable if known is not None else settlement.durable
        self._reclaiming = IntervalSet(settlement.reclaimed)
        # Before the Session of its successor, which closes it: should a crash part them, the next
        # START declares the rest again, and nothing is left behind in a stream that was closed.
        if former is not None and former.stream != self.stream and not former.closed:
            self._declare_rest_of(former, now_ms)
        self._ingest.append_session(self._session_entry(settlement.base, now_ms))
        for first, last, log_id in settlement.elsewhere:
            self._ingest.committer.append(Elsewhere(self.stream, first, last, log_id))
        self._opening_lsn = self._ingest.committer.next_lsn - 1
        for first, last in settlement.given_up:
            self._append_lost(
                Lost(
                    self.stream, first, last, REASON_CORRUPTION, False, True, now_ms,
                    self._ingest.outage_id(),
                )
            )  # fmt: skip
        return settlement

    @property
    def acked(self) -> int:
        """The seq that the board was told last is durable."""
        return self._acked

    def durable_to_ack(self) -> int | None:
        """Return the durable seq if it has moved since the last call, else None."""
        known = self._account()
        if known is None or self._ingest.committer.applied_lsn < self._opening_lsn:
            return None
        # Of a board that is asked again, only what came again: it frees all that is acked.
        durable = min(known.durable, self._taken_through)
        if self._reclaiming:
            self._reclaiming = self._reclaiming.intersection(known.unreadable_quarantined.keys())
            durable = min([durable, *(first - 1 for first, _ in self._reclaiming)])
        if durable <= self._acked:
            return None
        self._acked = durable
        return durable

    def take_records(self, event: RecordsReceived, rx_ms: int) -> None:
        """Date the records of a frame and append them."""
        first, records = event.first, event.records
        self._taken_through = first + len(records) - 1
        if first <= self._stored_through:
            first, records = self._take_stored(first, records, rx_ms)
        if records:
            self._append_records(first, records, rx_ms)

    def _take_stored(self, first: int, records: list[bytes], rx_ms: int) -> tuple[int, list[bytes]]:
        """Of a board that is asked again: what the log lacks is taken, the rest is a repeat.

        Returns those beyond what the log had when the session began.
        """
        known = self._stored_through - first + 1
        for seq, data in enumerate(records[:known], first):
            if self._reclaiming.contains(seq):
                self._append_records(seq, [data], rx_ms)
            else:
                self.take_repeat(seq, data, rx_ms)
        return max(first, self._stored_through + 1), records[known:]

    def _append_records(self, first: int, records: list[bytes], rx_ms: int) -> None:
        entries = self._entries.make(first, records, rx_ms, self._ingest.outage_id())
        self._ingest.committer.append_many(entries)
        self.rate.add(len(records), rx_ms)
        self._counters.records.inc(len(records))
        undated = [entry.t_source for entry in entries].count(T_SOURCE_NONE)
        if undated:
            self._counters.undated.inc(undated)

    def take_lost(self, event: LostReceived, rx_ms: int) -> None:
        """Append a range that the board, or the settling, declares lost."""
        self._taken_through = event.last
        if event.reason == ELSEWHERE:
            return  # its Elsewhere entry stands in the log since the session was opened
        for first, last in self._not_stored(event.first, event.last):
            self._append_lost(
                Lost(
                    self.stream, first, last, event.reason, event.at_most,
                    event.by_gateway, rx_ms, self._ingest.outage_id(),
                )
            )  # fmt: skip

    def _not_stored(self, first: int, last: int) -> list[tuple[int, int]]:
        """The parts of a range that the log does not answer for already."""
        if first > self._stored_through:
            return [(first, last)]
        # Apart, though they may touch: the former are given up behind what was stored since.
        parts = self._reclaiming.within(first, last).ranges()
        if last > self._stored_through:
            parts.append((self._stored_through + 1, last))
        return parts

    def take_repeat(self, seq: int, data: bytes, rx_ms: int) -> None:
        """Compare a seq that came again with what is stored, once that is in the account."""
        self._ingest.committer.when_durable(lambda: self._compare(seq, data, rx_ms))

    def take_clock(self, event: ClockSample) -> None:
        """Learn what the board's ticks mean."""
        self._ingest.observe_clock(self.stream, self._hello.boot, event)

    def _account(self) -> StreamAccount | None:
        return self._ingest.account.streams.get(self.stream)

    def _session_entry(self, base: int, now_ms: int) -> Session:
        hello = self._hello
        return Session(
            device=hello.device_id,
            uid=bytes(hello.uid),
            stream=self.stream,
            at_ms=now_ms,
            port=self.port,
            boot=hello.boot,
            next=hello.next,
            exact=hello.exact,
            held=tuple((first, last) for first, last in hello.held),
            acked=hello.acked,
            acked_by=None if hello.acked_by is None else bytes(hello.acked_by),
            uptime_ms=uptime_ms(hello.wraps, hello.ticks_ms),
            firmware=hello.firmware,
            board=hello.board,
            runtime=hello.runtime,
            base=base,
        )

    def _declare_rest_of(self, former: StreamAccount, now_ms: int) -> None:
        """Declare what the former stream of a wiped board left behind: the new one closed it."""
        for first, last, reason, at_most in settle_closed(former):
            outage = self._ingest.outage_id()
            self._append_lost(
                Lost(former.stream, first, last, reason, at_most, True, now_ms, outage)
            )

    def _append_lost(self, entry: Lost) -> None:
        self._ingest.committer.append(entry)
        reason = reason_word(entry.reason)
        self._ingest.metrics.lost_ranges.labels(self.device, reason).inc()

    def _compare(self, seq: int, data: bytes, rx_ms: int) -> None:
        """The same bytes are dropped and counted; others are kept as evidence, never swallowed."""
        known = self._account()
        if known is None:  # the commit failed: the board still has its record
            return
        verdict = known.check_repeat(seq, data)
        if verdict == "same":
            known.live.suppressed += 1
            self._counters.suppressed.inc()
        elif verdict == "unverifiable":
            known.live.unverifiable += 1
            self._counters.unverifiable.inc()
        else:
            after_lost = verdict == "after-lost"
            what = CONFLICT_RECORD_AFTER_LOST if after_lost else CONFLICT_BYTES_DIFFER
            self._ingest.metrics.conflicts.labels(self.device, what).inc()
            self._ingest.committer.append(Conflict(self.stream, seq, rx_ms, what, data))
            self._sparse.warning(
                "a record contradicts what is stored", port=self.port, device=self.device,
                seq=seq, what=what,
            )  # fmt: skip
