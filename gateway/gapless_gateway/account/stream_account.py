"""The fold of one stream: what each entry adds to its facts, and what is wrong with an entry.

Three ways for the entries to be wrong are counted apart:

    unexplained       a number that no entry explains: something was left out
    order_violations  an entry that cannot stand where it stands: doubled, swapped, or telling of
                      something that the entries before it rule out. `findings` says which
    conflicts         one number, two stories: other bytes, or a record after its LOST
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from gapless_gateway.account.balance import Balance, Totals
from gapless_gateway.account.intervals import IntervalMap, IntervalSet
from gapless_gateway.account.settling import ELSEWHERE, Gap, doubt_of, settle, settle_closed
from gapless_gateway.account.stream_facts import RECENT_CRCS_MAX, StreamFacts
from gapless_gateway.wal.entries import (
    GIVEN_UP_REASONS,
    REASON_CORRUPTION,
    REASON_REPLACED,
    REASON_RETIRED,
    REASON_WORDS,
    Conflict,
    Delivered,
    Elsewhere,
    Lost,
    Quarantined,
    Record,
    Session,
    Unreadable,
)

__all__ = ["FINDINGS_MAX", "RECENT_CRCS_MAX", "SEQ_MAX", "Balance", "StreamAccount", "Totals"]

SEQ_MAX = (1 << 30) - 1
FINDINGS_MAX = 16

REASONS = frozenset(REASON_WORDS)
CLOSING_REASONS = frozenset({REASON_REPLACED, REASON_RETIRED})


class StreamAccount(StreamFacts):
    """One stream of one device. Folded by `Account`; read by everyone."""

    def take_record(self, entry: Record) -> None:
        """A record: the next number, or a finding."""
        seq = entry.seq
        self.last_heard_ms = entry.rx_ms
        if seq == self.durable + 1 and seq >= self.announced_next:  # the hot path, all of it
            self.stored.add(seq, seq)
            self.recent_crcs[seq % RECENT_CRCS_MAX] = crc32(entry.data)
            self.durable = seq
            self.claimed = max(self.claimed, seq)
        elif seq <= self.durable:
            self._take_late_record(entry)
        else:
            self._take_announced_record(entry)

    def take_run(self, batch: Sequence[tuple[int, object]], at: int, outages: int) -> int:
        """Fold records of `batch` from `at` on while each is simply the next; returns how many.

        What is not (other entries, a hole, a record of an outage beyond `outages`) ends the run.
        """
        stream, first = self.stream, self.durable + 1
        seq, run = first, []
        if first >= self.announced_next:
            for index in range(at, len(batch)):
                entry = batch[index][1]
                if type(entry) is not Record or entry.seq != seq or entry.stream != stream:
                    break
                if entry.outage > outages:
                    break
                run.append(entry)
                seq += 1
        if run:
            self.last_heard_ms = run[-1].rx_ms
            self.stored.add(first, seq - 1)
            self.durable = seq - 1
            self.claimed = max(self.claimed, self.durable)
            crcs = self.recent_crcs  # of the newest only: the others would be overwritten at once
            for record in run[-RECENT_CRCS_MAX:]:
                crcs[record.seq % RECENT_CRCS_MAX] = crc32(record.data)
        return seq - first

    def _take_announced_record(self, entry: Record) -> None:
        """A record that the last HELLO held, or one with a hole before it."""
        seq = entry.seq
        known = self.announced.contains(seq) or self.uncertain
        if seq < self.announced_next and not known:
            self.violate(f"record {seq} came although the last HELLO held it no longer")
        self.elsewhere.remove(seq, seq)  # it is here after all
        self.stored.add(seq, seq)
        self.recent_crcs[seq % RECENT_CRCS_MAX] = crc32(entry.data)
        self._advance(seq)

    def _take_late_record(self, entry: Record) -> None:
        seq = entry.seq
        if self.quarantined.contains(seq):
            self._take_requeued_record(entry)
            return
        self.violate(f"record {seq} stands behind {self.durable}")
        same = self.check_repeat(seq, entry.data)
        if same in {"differs", "after-lost"}:
            self.conflicts += 1
        elif self.unexplained.contains(seq):
            self.stored.add(seq, seq)  # it fills a hole: explained, though out of order
            if seq > self.durable - RECENT_CRCS_MAX:
                self.recent_crcs[seq % RECENT_CRCS_MAX] = crc32(entry.data)

    def _take_requeued_record(self, entry: Record) -> None:
        """Out of quarantine: the board still had it, or the owner wants it sent again."""
        seq = entry.seq
        self.quarantined.remove(seq, seq)
        self.unreadable.remove(seq, seq)
        self.requeued.add(seq, seq)
        if seq > self.durable - RECENT_CRCS_MAX:
            self.recent_crcs[seq % RECENT_CRCS_MAX] = crc32(entry.data)

    def take_gone(self, first: int, last: int) -> None:
        """Numbers that stood in the log once; their bytes are gone. Only seen where it is folded.

        They count as stored until an Unreadable or a Lost says what became of them.
        """
        if first <= self.durable:
            self.violate(f"gone {first}..{last} stands behind {self.durable}")
            first = self.durable + 1
        if last < first:
            return
        self.elsewhere.remove(first, last)
        self.stored.add(first, last)
        self.unreadable.assign(first, last, True)
        self._advance(last)

    def take_unreadable(self, entry: Unreadable) -> None:
        """Stored and undelivered numbers that cannot be read: quarantined."""
        first, last = entry.first, entry.last
        if not self._records(self.logged.delivered_through + 1, self.durable).covers(first, last):
            self.violate(f"unreadable {first}..{last} is not stored, or was delivered")
            return
        self.quarantined.add(first, last)
        self.unreadable.assign(first, last, entry.may_be_sent)

    def take_delivered(self, entry: Delivered) -> None:
        """Numbers out of quarantine that the broker has now."""
        if not self.requeued.covers(entry.first, entry.last):
            self.violate(f"delivered {entry.first}..{entry.last} out of turn was not requeued")
        self.requeued.remove(entry.first, entry.last)

    def take_lost(self, entry: Lost) -> None:
        """A declared range: the next numbers, or what was stored and is given up."""
        first, last = entry.first, entry.last
        self.last_heard_ms = entry.rx_ms
        if not self.base < first <= last or entry.reason not in REASONS:
            self.violate(f"LOST {first}..{last} of reason {entry.reason} is none of this stream")
            return
        verdict = (entry.reason, entry.at_most)
        if last <= self.durable:
            self._take_late_lost(entry, verdict)
            return
        if first <= self.durable:
            self.violate(f"LOST {first}..{last} reaches behind {self.durable}")
            first = self.durable + 1
        grounds = self.uncertain or not entry.by_gateway or self._settled(first, last, verdict)
        if not grounds:
            self.violate(f"LOST {first}..{last} by the gateway, which no HELLO justifies")
        self.elsewhere.remove(first, last)
        self.lost.assign(first, last, verdict)
        self._advance(last)
        if entry.reason in CLOSING_REASONS:
            self._expect_only(settle_closed(self, entry.reason))

    def _settled(self, first: int, last: int, verdict: tuple[int, bool]) -> bool:
        """Whether the gateway had grounds to declare this: a settled gap, or a closed stream."""
        if verdict[0] == REASON_CORRUPTION:
            return True
        if verdict[0] in CLOSING_REASONS:
            in_doubt = self.doubtful.within(first, last)
            doubt_agrees = in_doubt.covers(first, last) if verdict[1] else not in_doubt
            return last <= self.claimed and doubt_agrees
        return self.awaited.within(first, last) == [(first, last, verdict)]

    def _expect_only(self, gaps: tuple[Gap, ...]) -> None:
        """The stream ends with these: a record from here on is one that no HELLO announced."""
        self.ended = True
        self.announced, self.announced_next = IntervalSet(), SEQ_MAX + 1
        self.awaited = IntervalMap((a, b, (reason, most)) for a, b, reason, most in gaps)

    def _take_late_lost(self, entry: Lost, verdict: tuple[int, bool]) -> None:
        """LOST of numbers that stand before it: right only for what is stored and given up."""
        first, last = entry.first, entry.last
        undelivered = self._records(self.logged.delivered_through + 1, last)
        may_go = undelivered.union(self.quarantined).covers(first, last)
        if not entry.by_gateway:  # the board dropped what cannot be read here any more
            may_go = self.unreadable_quarantined.keys().covers(first, last)
        if (not entry.by_gateway or entry.reason in GIVEN_UP_REASONS) and may_go:
            self.stored.remove(first, last)
            self.quarantined.remove(first, last)
            if entry.by_gateway:
                self.unreadable.remove(first, last)
            self.lost.assign(first, last, verdict)
            return
        self.violate(f"LOST {first}..{last} stands behind {self.durable}")
        for one in self.unexplained.within(first, last):
            self.lost.assign(*one, verdict)

    def take_session(self, entry: Session, log_id: bytes, opens: bool) -> None:
        """An accepted HELLO: what it claims, what it holds, what it leaves to be settled."""
        if self.uncertain and not self.uid:  # the Session that opened it is gone
            self.device, self.uid = entry.device, entry.uid
        settlement = settle(entry, None if opens else self, log_id)
        if entry.base != settlement.base and not self.uncertain:
            self.violate(f"session says base {entry.base}, its facts say {settlement.base}")
        if (entry.device, entry.uid) != (self.device, self.uid):
            self.violate(f"session of {entry.device} on the stream of {self.device}")
        if (entry.boot, entry.uptime_ms) <= (self.boot, self.uptime_ms):
            self.violate(f"session at {entry.uptime_ms} ms of boot {entry.boot} goes back in time")
        if self.ended:
            self.violate("session on a stream that was closed")
        if any(not 0 < first <= last < entry.next for first, last in entry.held):
            self.violate(f"session holds {entry.held} and numbers next {entry.next}")
        # What is settled here may rest on a HELLO that is gone: it knew more of what is in doubt.
        self.uncertain = self.uncertain and bool(settlement.gaps)
        self.sessions += 1
        self.boot, self.uptime_ms = entry.boot, entry.uptime_ms
        self.last_heard_ms = entry.at_ms
        self.acked, self.acked_by = entry.acked, entry.acked_by
        if settlement.went_backwards is not None:
            self.violate(settlement.went_backwards)
            return
        if entry.exact:
            self.exact_through = max(self.exact_through, entry.next - 1)
        self.doubtful = self.doubtful.union(doubt_of(entry, self))
        self.announced = IntervalSet((first, last) for first, last in entry.held)
        self.announced_next = entry.next
        self.awaited = IntervalMap(
            (first, last, (reason, at_most)) for first, last, reason, at_most in settlement.gaps
        )
        for first, last, _ in settlement.elsewhere:
            self.awaited.assign(first, last, (ELSEWHERE, False))
        self.claimed = max(self.claimed, entry.next - 1)

    def take_elsewhere(self, entry: Elsewhere) -> None:
        """Numbers that another gateway answers for. May stand ahead of the records before it."""
        first, last = entry.first, entry.last
        taken = self.stored.union(self.lost.keys()).union(self.elsewhere.keys())
        if not self.base < first <= last or taken.within(first, last) or first <= self.durable:
            self.violate(f"elsewhere {first}..{last} names numbers that are accounted for here")
        settled = self.awaited.within(first, last) == [(first, last, (ELSEWHERE, False))]
        if not self.uncertain and (not settled or entry.log_id != self.acked_by):
            self.violate(f"elsewhere {first}..{last} was not acked by that log, says the HELLO")
        for one in IntervalSet([(first, last)]).difference(taken):
            self.elsewhere.assign(*one, entry.log_id)
        self.claimed = max(self.claimed, last)
        self._advance(self.durable)

    def take_quarantined(self, entry: Quarantined) -> None:
        """The broker refuses a number for good."""
        seq = entry.seq
        if self.requeued.contains(seq):  # and not for the first time
            self.requeued.remove(seq, seq)
            self.quarantined.add(seq, seq)
            return
        if seq <= self.logged.delivered_through or not self.stored.contains(seq):
            self.violate(f"quarantined {seq} is not stored, or was delivered")
            return
        if self.quarantined.contains(seq):
            self.violate(f"quarantined {seq} twice")
        self.quarantined.add(seq, seq)

    def take_conflict(self, entry: Conflict) -> None:
        """Evidence that one number has two stories."""
        self.conflicts += 1
        if entry.seq > self.durable:
            self.violate(f"conflict about {entry.seq}, which was never stored or lost")

    def take_totals(self, totals: Totals) -> None:
        """A row of a Progress entry. Delivered through less than `base` means nothing yet."""
        before = self.logged
        totals.delivered_through = max(totals.delivered_through, self.base)
        if totals.delivered_through > self.durable:
            self.violate(f"delivered through {totals.delivered_through}, stored {self.durable}")
        if (
            totals.delivered_through < before.delivered_through
            or totals.suppressed < before.suppressed
            or totals.redelivered < before.redelivered
            or totals.unverifiable < before.unverifiable
        ):
            self.violate("progress goes backwards")
        self.logged.raise_to(totals)
        self.live.raise_to(self.logged)

    def close(self) -> None:
        """Another stream follows this one; what never got here was declared before that."""
        if self.held and self.uncertain:
            self._take_closing_lost()
        elif self.held:
            self.violate(f"closed before {self.held.ranges()} at the board were declared lost")
        self._expect_only(())
        self.closed = True

    def _take_closing_lost(self) -> None:
        """A stream is closed only behind the LOST of all it left behind: they are what is gone."""
        held = self.held
        for first, last, reason, at_most in settle_closed(self):
            for one in held.within(first, last):
                self.lost.assign(*one, (reason, at_most))
        self._advance(self.claimed)

    def violate(self, words: str) -> None:
        """Count an entry that cannot stand where it stands; keep the first few findings' words."""
        self.violations += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(words)

    def _advance(self, through: int) -> None:
        """All up to `through` is behind us, and whatever another log answers for right after."""
        if self.elsewhere:
            known = self.elsewhere.keys().range_at(through + 1)
            through = known[1] if known is not None else through
        self.durable = through
        self.claimed = max(self.claimed, through)
