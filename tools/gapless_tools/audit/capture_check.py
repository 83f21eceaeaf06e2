"""The capture of a consumer, compared with the books: what arrived, how often, in what order.

The books are read first and the capture after them, so a running gateway cannot make a delivered
record look missing; what the gateway took in after the books end is counted and not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from pathlib import Path
from typing import Any

from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.account.stream_account import StreamAccount
from gapless_gateway.wal.entries import REASON_GATEWAY_ROLLBACK, reason_word
from gapless_tools.audit.books import Books
from gapless_tools.audit.capture_streams import (
    REASON_ELSEWHERE,
    REASON_QUARANTINED,
    StreamCapture,
    tx_number,
)
from gapless_tools.audit.content import (
    KIND_EVENT,
    KIND_SAMPLE,
    ContentUnreadableError,
    digest_of_message,
    rx_ms_of,
)
from gapless_tools.audit.scales import ranges
from gapless_tools.capture_messages import (
    CapturedLost,
    CapturedOther,
    CapturedRecord,
    CapturedStatus,
)
from gapless_tools.capture_store import CaptureItem, Damaged

DELIVERED_WHEN = ("puback", "receipt")
LINE_WORDS_KEPT_MAX = 5
GATEWAY_TOPICS = ("/data", "/event", "/lost", "/status")

Key = tuple[bytes, bytes]  # (log_id, stream)


@dataclass(slots=True)
class CaptureReading:
    """Everything that the capture told."""

    path: Path
    messages: int = 0
    from_ms: int | None = None  # the consumer's clock
    to_ms: int | None = None
    streams: dict[Key, StreamCapture] = field(default_factory=dict)
    strangers: dict[str, int] = field(default_factory=dict)  # streams of no book -> messages
    bad_lines: int = 0
    bad_line_words: list[str] = field(default_factory=list)
    torn_line: bool = False  # the last one: the consumer was writing it, or died while it did
    delivered_when: dict[str, str] = field(default_factory=dict)  # gateway -> puback, receipt

    def of(self, books: Books, account: StreamAccount) -> StreamCapture:
        """What was captured of one stream; empty if nothing was."""
        key = (books.account.log_id, account.stream)
        if key not in self.streams:
            self.streams[key] = StreamCapture(account.device, account.stream.hex())
        return self.streams[key]


class CaptureReader:
    """Takes the capture's items one by one and compares each with the books at once."""

    def __init__(self, path: Path, books: Sequence[Books]) -> None:
        self.reading = CaptureReading(path)
        self._books = books

    def take(self, item: CaptureItem) -> None:
        """The next line of the capture."""
        reading = self.reading
        if isinstance(item, Damaged):
            if item.torn:
                reading.torn_line = True
            else:
                self._bad(item.line, item.why)
            return
        reading.messages += 1
        reading.from_ms = min(item.rx_ms, reading.from_ms or item.rx_ms)
        reading.to_ms = max(item.rx_ms, reading.to_ms or item.rx_ms)
        try:
            if isinstance(item, CapturedRecord):
                self._take_record(item)
            elif isinstance(item, CapturedLost):
                self._take_lost(item)
            elif isinstance(item, CapturedStatus):
                self._take_status(item)
            else:
                self._take_other(item)
        except (KeyError, TypeError, ValueError) as error:
            self._bad(
                item.line, f"it has no {error}" if isinstance(error, KeyError) else str(error)
            )

    def _bad(self, line: int, why: str) -> None:
        self.reading.bad_lines += 1
        if len(self.reading.bad_line_words) < LINE_WORDS_KEPT_MAX:
            self.reading.bad_line_words.append(f"line {line}: {why}")

    def _take_status(self, item: CapturedStatus) -> None:
        gateway, when = item.message.get("gateway"), item.message.get("delivered_when")
        if isinstance(gateway, str) and when in DELIVERED_WHEN:
            self.reading.delivered_when[gateway] = when

    def _take_other(self, item: CapturedOther) -> None:
        """A message of no documented form; only on a topic of the gateway's own it is a finding."""
        if item.topic.endswith(GATEWAY_TOPICS):
            self._bad(item.line, f"{item.why} (on {item.topic})")

    def _take_record(self, item: CapturedRecord) -> None:
        found = self._stream_of(item.device, item.stream, item.seq)
        if found is None:
            return
        books, account, captured = found
        tx = tx_number(*item.sent.tx)
        captured.take_record(item.seq, tx, item.sent.redelivery, event=item.event)
        _compare_record(books, account, captured, item)

    def _take_lost(self, item: CapturedLost) -> None:
        found = self._stream_of(item.device, item.stream, item.first)
        if found is None:
            return
        books, account, captured = found
        tx = tx_number(*item.sent.tx)
        captured.take_range(item.first, item.last, item.reason, tx, item.sent.redelivery)
        _compare_range(books, account, captured, item)

    def _stream_of(
        self, device: str, stream: bytes, seq: int
    ) -> tuple[Books, StreamAccount, StreamCapture] | None:
        """The books that answer for this number; None (and counted) if none knows the stream."""
        knowing = [one for one in self._books if stream in one.account.streams]
        answering = knowing
        if len(knowing) > 1:  # a board that moved from gateway to gateway
            answering = [one for one in knowing if seq in one.account.streams[stream].produced]
        books = next(reversed(answering or knowing), None)
        if books is None or books.account.streams[stream].device != device:
            name = f"{device}, stream {stream.hex()}"
            self.reading.strangers[name] = self.reading.strangers.get(name, 0) + 1
            return None
        account = books.account.streams[stream]
        return books, account, self.reading.of(books, account)


def _compare_record(
    books: Books, account: StreamAccount, captured: StreamCapture, item: CapturedRecord
) -> None:
    seq, message = item.seq, item.message
    kind = KIND_EVENT if item.event else KIND_SAMPLE
    if seq not in account.stored:
        given_up = account.lost.get(seq)
        if given_up is not None and given_up[0] == REASON_GATEWAY_ROLLBACK:
            return  # delivered before the log was set back to an older state
        beyond = seq > account.durable and rx_ms_of(message) > books.judged_to_ms
        (captured.beyond if beyond else captured.unknown).add(seq, seq)
        return
    digests = books.digests.get(account.stream)
    logged = 0 if digests is None else digests.get(seq)
    if logged and not _says(message, kind, logged):
        captured.differing.append(seq)


def _says(message: Mapping[str, Any], kind: int, logged: int) -> bool:
    try:
        return digest_of_message(message, kind) == logged
    except ContentUnreadableError:
        return False


def _compare_range(
    books: Books, account: StreamAccount, captured: StreamCapture, item: CapturedLost
) -> None:
    first, last, reason = item.first, item.last, item.reason
    if reason == REASON_ELSEWHERE:
        known = account.elsewhere.keys()
    elif first > account.durable and rx_ms_of(item.message) > books.judged_to_ms:
        captured.beyond.add(first, last)
        return
    elif reason == REASON_QUARANTINED:
        known = account.stored.union(account.lost.keys())
    else:
        known = IntervalSet(
            (a, b)
            for a, b, (code, at_most) in account.lost.within(first, last)
            if reason_word(code) == reason and at_most == item.at_most
        )
    if not known.covers(first, last):
        captured.wrong_ranges.append(f"{ranges([(first, last)])} ({reason})")


def delivered_but_missing(account: StreamAccount, captured: StreamCapture) -> IntervalSet:
    """The numbers that the books call delivered and the capture does not have."""
    records = account.delivered.difference(captured.records)
    told = captured.lost.union(captured.quarantined).union(captured.records)
    declared = account.lost.keys().union(account.quarantined)
    return records.union(declared.within(1, account.delivered_through).difference(told))


def sent_out_of_order(captured: StreamCapture) -> list[int]:
    """The seqs whose first transmission left before that of a lower seq, records and LOST.

    One unflagged tx a seq: the seqs rise with the tx exactly if the tx rise with the seqs.
    """
    found, highest = [], 0
    in_order_of_seq = merge(
        captured.of_records.first_tx.items(), captured.of_ranges.first_tx.items()
    )
    for seq, tx in in_order_of_seq:
        if tx < highest:
            found.append(seq)
        highest = max(highest, tx)
    return found
