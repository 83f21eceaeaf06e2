"""The verdict: what was found wrong, who did it, and the words for it.

Every check of findings.CHECKS has its place here (the log and the ledger have theirs in books.py,
where they are read). A check either finds nothing or names a culprit; where the evidence cannot
tell two of them apart it names both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.account.stream_account import Balance, StreamAccount
from gapless_gateway.wal.entries import CONFLICT_BYTES_DIFFER
from gapless_tools.audit.books import Books
from gapless_tools.audit.capture_check import (
    CaptureReading,
    delivered_but_missing,
    sent_out_of_order,
)
from gapless_tools.audit.capture_streams import StreamCapture
from gapless_tools.audit.findings import BROKER, CONSUMER, DEVICE, US, Findings
from gapless_tools.audit.scales import ranges

PASS = "PASS"  # noqa: S105 - a verdict
FAIL = "FAIL"

# Who answers for what the books call delivered and the capture lacks, by what delivered meant.
MISSING_CULPRITS = {
    "puback": (BROKER,),
    "receipt": (CONSUMER, US),
}
MISSING_CULPRITS_UNKNOWN_MODE = (BROKER, CONSUMER, US)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit came to."""

    word: str  # PASS or FAIL
    complete: bool  # every number produced was delivered
    lost: int
    lost_at_most: int
    culprits: tuple[str, ...]

    @property
    def words(self) -> str:
        """The verdict as it is printed everywhere."""
        if self.word == FAIL:
            return f"FAIL ({', '.join(self.culprits)})"
        if self.complete:
            return "PASS, complete"
        return f"PASS, {self.lost} declared lost (at most {self.lost_at_most} more)"


def verdict_of(books: Sequence[Books], findings: Findings) -> Verdict:
    """The verdict over all books; FAIL as soon as there is one finding."""
    balances = [one.account.balance() for one in books]
    return Verdict(
        word=FAIL if findings.items else PASS,
        complete=not findings.items and all(map(_is_complete, balances)),
        lost=sum(one.lost for one in balances),
        lost_at_most=sum(one.lost_at_most for one in balances),
        culprits=findings.culprits(),
    )


def _is_complete(balance: Balance) -> bool:
    return balance.holds and balance.produced == balance.delivered


def judge_books(books: Books, findings: Findings) -> None:
    """The checks that the books alone answer."""
    account = books.account
    for words in account.findings[: account.violations]:
        findings.add("order", (US,), f"{books.gateway}: {words}")
    for stream in account.streams.values():
        _judge_explained(stream, findings)
        _judge_order(stream, findings)
        _judge_conflicts(books, stream, findings)


def _judge_explained(stream: StreamAccount, findings: Findings) -> None:
    balance, unexplained = stream.balance(), stream.unexplained
    if unexplained:
        count = unexplained.count()
        words = f"{count} of its numbers have no explanation: {ranges(unexplained.ranges())}"
        _OfStream(stream, findings).add("explained", (US,), words, count)
    elif not balance.holds:
        words = (
            f"its account does not add up: {balance.produced} produced, and its states hold "
            f"{_sum_of_states(balance)}"
        )
        _OfStream(stream, findings).add("explained", (US,), words)


def _sum_of_states(balance: Balance) -> int:
    return (
        balance.delivered
        + balance.pending_device
        + balance.pending_gateway
        + balance.quarantined
        + balance.lost
        + balance.lost_at_most
    )


def _judge_order(stream: StreamAccount, findings: Findings) -> None:
    if stream.violations:
        words = "; ".join(stream.findings) or "an entry stands where it cannot stand"
        _OfStream(stream, findings).add("order", (US,), words, stream.violations)
    if stream.delivered_through > stream.durable:
        words = (
            f"delivered through {stream.delivered_through} is claimed, "
            f"and only {stream.durable} are in the log"
        )
        _OfStream(stream, findings).add("order", (US,), words)


def _judge_conflicts(books: Books, stream: StreamAccount, findings: Findings) -> None:
    if not stream.conflicts:
        return
    told = [one for one in books.conflicts if one.stream == stream.stream]
    differ = [(one.seq, one.seq) for one in told if one.what == CONFLICT_BYTES_DIFFER]
    after = [(one.seq, one.seq) for one in told if one.what != CONFLICT_BYTES_DIFFER]
    words = []
    if differ:
        words.append(f"sent again with other contents: {ranges(differ)}")
    if after:
        words.append(f"sent after having been declared lost: {ranges(after)}")
    if not told:
        words.append("the log counts them and no longer holds their entries")
    _OfStream(stream, findings).add("conflicts", (DEVICE,), "; ".join(words), stream.conflicts)


def judge_joined(books: Sequence[Books], findings: Findings) -> None:
    """What one gateway says another took over has to be accounted for there, if it is given."""
    by_log = {one.account.log_id: one for one in books}
    for one in books:
        for stream in one.account.streams.values():
            for first, last, log_id in stream.elsewhere:
                other = by_log.get(log_id)
                if other is None:
                    continue
                known = other.account.streams.get(stream.stream)
                explained = IntervalSet() if known is None else _explained(known)
                hole = IntervalSet([(first, last)]).difference(explained)
                if hole:
                    words = (
                        f"{ranges(hole.ranges())} were acknowledged by log {log_id.hex()}, "
                        f"which does not have them"
                    )
                    _OfStream(stream, findings).add("elsewhere", (US,), words, hole.count())


def _explained(stream: StreamAccount) -> IntervalSet:
    return stream.stored.union(stream.lost.keys()).union(stream.elsewhere.keys())


def judge_capture(books: Sequence[Books], reading: CaptureReading, findings: Findings) -> None:
    """The checks that compare the books with what a consumer captured."""
    if reading.bad_lines:
        words = f"{reading.bad_lines} of its lines cannot be read: " + "; ".join(
            reading.bad_line_words
        )
        findings.add("capture", (CONSUMER,), words, count=reading.bad_lines)
    for name, messages in reading.strangers.items():
        words = f"{messages} messages of {name}, a stream that none of the logs knows"
        findings.add("known", (US,), words, count=messages)
    for one in books:
        mode = reading.delivered_when.get(one.gateway)
        for stream in one.account.streams.values():
            captured = reading.of(one, stream)
            _judge_missing(stream, captured, mode, findings)
            _judge_known(stream, captured, findings)
            _judge_content(stream, captured, findings)
            _judge_transmissions(stream, captured, findings)


def _judge_missing(
    stream: StreamAccount, captured: StreamCapture, mode: str | None, findings: Findings
) -> None:
    missing = delivered_but_missing(stream, captured)
    if not missing:
        return
    culprits = MISSING_CULPRITS.get(mode or "", MISSING_CULPRITS_UNKNOWN_MODE)
    says = {
        "puback": "the broker had acknowledged that",
        "receipt": "the consumer had given a receipt for that",
    }.get(mode or "", "the log says that was delivered")
    words = f"missing in the capture: {ranges(missing.ranges())}; {says}"
    _OfStream(stream, findings).add("arrived", culprits, words, missing.count())


def _judge_known(stream: StreamAccount, captured: StreamCapture, findings: Findings) -> None:
    if captured.unknown:
        words = f"{ranges(captured.unknown.ranges())} arrived and are not in the log"
        _OfStream(stream, findings).add("known", (US,), words, captured.unknown.count())
    if captured.wrong_ranges:
        words = "declared otherwise than in the log: " + ", ".join(captured.wrong_ranges[:8])
        _OfStream(stream, findings).add(
            "content", (US, CONSUMER), words, len(captured.wrong_ranges)
        )


def _judge_content(stream: StreamAccount, captured: StreamCapture, findings: Findings) -> None:
    if captured.differing:
        words = f"{_seqs(captured.differing)} arrived with other contents than the log has"
        # TLS rules out the line; the one who wrote the message or the one who stored it did this.
        _OfStream(stream, findings).add("content", (US, CONSUMER), words, len(captured.differing))


def _judge_transmissions(
    stream: StreamAccount, captured: StreamCapture, findings: Findings
) -> None:
    both = (captured.of_records, captured.of_ranges)
    unflagged = [seq for one in both for seq in one.unflagged_duplicates]
    lied = [seq for one in both for seq in one.unflagged_after_flagged()]
    if unflagged or lied:
        words = f"{_seqs(unflagged + lied)} sent again as new, without the flag `redelivery`"
        _OfStream(stream, findings).add("flagged", (US,), words, len(unflagged) + len(lied))
    out_of_order = sent_out_of_order(captured)
    if out_of_order:
        words = f"{_seqs(out_of_order)} first sent after a higher number of the stream"
        _OfStream(stream, findings).add("sent-order", (US,), words, len(out_of_order))
    if captured.arrived_out_of_order:
        words = f"{_seqs(captured.arrived_out_of_order)} arrived after what was sent later"
        count = len(captured.arrived_out_of_order)
        _OfStream(stream, findings).add("arrival-order", (BROKER,), words, count)


def _seqs(seqs: list[int]) -> str:
    return ranges(IntervalSet((seq, seq) for seq in sorted(set(seqs))).ranges())


class _OfStream:
    """Notes findings about one stream."""

    def __init__(self, stream: StreamAccount, findings: Findings) -> None:
        self._stream, self._findings = stream, findings

    def add(self, check: str, culprits: tuple[str, ...], words: str, count: int = 1) -> None:
        self._findings.add(
            check,
            culprits,
            words,
            device=self._stream.device or "an unnamed device",
            stream=self._stream.stream.hex(),
            count=count,
        )
