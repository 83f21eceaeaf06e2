"""What is sent, what is delivered, and where sending resumes.

Every entry that was sent and is not delivered yet is a `Flight`. Flights stand in two kinds of
queue: one over all in the order of the log, whose head says where sending has to resume, and one
per stream, whose head says how far that stream is delivered. A broker may acknowledge in any
order; a stream's delivered-through only ever moves over what is delivered without a hole.

What makes a flight delivered depends on the mode: the broker's PUBACK, or the consumer's receipt.
What speaks of numbers that were passed before (a record out of quarantine, a LOST of one that was
in it) counts with its PUBACK in both. A record that the broker refuses for good waits for its
Quarantined entry to be durable, and then for the announcement, which flies in the record's place.

Which transmissions carry `redelivery`: those of an LSN at or below `resend_through`. At the start
of a run that is the send mark of the run before (or the end of the log that was recovered, where
the mark was reserved beyond it); after a loss of the connection, the highest LSN sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gapless_gateway.publisher.standing_in import SetAside
from gapless_gateway.wal.entries import Elsewhere, Lost, Record

Sendable = Record | Lost | Elsewhere | SetAside


class Flight:
    """One entry on its way."""

    __slots__ = ("delivered", "entry", "held_back", "last", "lsn", "out_of_turn")

    def __init__(self, lsn: int, entry: Sendable) -> None:
        self.lsn = lsn
        self.entry = entry
        self.last = last_seq(entry)
        self.held_back = False  # waits for an entry to be durable before it may count
        # Told about numbers that were passed before: no receipt will speak of it, so its PUBACK
        # counts in both modes.
        self.out_of_turn = False
        self.delivered = False


class Delivery:
    """The flights, and the position in the log. Knows no broker and no clock."""

    def __init__(
        self,
        *,
        resume_lsn: int,
        send_mark_lsn: int,
        durable_lsn: int,
        delivered_through: dict[bytes, int],
        on_delivered: Callable[[Flight], None],
        on_moved: Callable[[bytes, int], None],
    ) -> None:
        """Begin where the cursor was; `durable_lsn` is the end of the log as it was recovered.

        `on_delivered` is told each flight that is delivered, `on_moved` each stream whose
        delivered-through moved.
        """
        self.delivered_through = dict(delivered_through)
        self.next_lsn = resume_lsn  # of the entry to look at next
        self.sent_lsn = 0  # the highest LSN sent in this run
        # Nothing beyond what was durable was ever sent, however far the mark was reserved.
        self.resend_through = min(send_mark_lsn, durable_lsn)
        self.sent_through: dict[bytes, int] = {}  # stream -> highest seq sent in this run
        self._passed: dict[bytes, int] = {}  # the same since sending resumed the last time
        self._on_delivered = on_delivered
        self._on_moved = on_moved
        self._all: deque[Flight] = deque()
        self._of_stream: dict[bytes, deque[Flight]] = {}

    @property
    def resume_lsn(self) -> int:
        """Every entry below this is delivered, or needs no delivery."""
        while self._all and self._all[0].delivered:
            self._all.popleft()
        return self._all[0].lsn if self._all else self.next_lsn

    @property
    def flights(self) -> int:
        """How many entries are kept in memory: sent, and something before them not delivered."""
        while self._all and self._all[0].delivered:
            self._all.popleft()
        return len(self._all)

    @property
    def may_have_been_sent(self) -> int:
        """The highest LSN that this run or one before may have sent: the send mark to leave."""
        return max(self.sent_lsn, self.resend_through)

    def is_delivered(self, entry: Sendable) -> bool:
        """Whether the entry was delivered before sending resumed at an earlier one."""
        if isinstance(entry, Elsewhere):  # it may stand ahead of the seqs before it
            return False
        return last_seq(entry) <= self.delivered_through.get(entry.stream, 0)

    def is_passed(self, entry: Sendable) -> bool:
        """Whether sending is beyond these seqs already, so that the entry speaks of them again."""
        delivered = self.delivered_through.get(entry.stream, 0)
        return last_seq(entry) <= max(delivered, self._passed.get(entry.stream, 0))

    def send(self, lsn: int, entry: Sendable) -> Flight:
        """The entry leaves now."""
        flight = Flight(lsn, entry)
        self._all.append(flight)
        queue = self._of_stream.get(entry.stream)
        if queue is None:
            queue = self._of_stream[entry.stream] = deque()
        queue.append(flight)
        self.sent_lsn = max(self.sent_lsn, lsn)
        self.sent_through[entry.stream] = max(self.sent_through.get(entry.stream, 0), flight.last)
        if not isinstance(entry, Elsewhere):  # it may stand ahead of the seqs before it
            self._passed[entry.stream] = max(self._passed.get(entry.stream, 0), flight.last)
        return flight

    def deliver(self, flight: Flight) -> None:
        """This one is delivered, whatever became of those before it."""
        if flight.delivered:
            return
        flight.delivered = True
        flight.held_back = False
        self._on_delivered(flight)
        self._advance(flight.entry.stream)

    def deliver_through(self, stream: bytes, through: int) -> bool:
        """The consumer has the stream up to `through`. True if this delivered anything."""
        moved = False
        for flight in self._of_stream.get(stream, ()):
            if flight.last > through or flight.held_back:
                break
            if not flight.delivered:
                flight.delivered = moved = True
                self._on_delivered(flight)
        self._advance(stream)
        return moved

    def pass_over(self, lsn: int, entry: Sendable) -> None:
        """The consumer has this one already, from a run before: it need not leave again."""
        self.send_nothing(lsn, entry).delivered = True
        self._advance(entry.stream)

    def send_nothing(self, lsn: int, entry: Sendable) -> Flight:
        """A flight that takes its place in the queues without leaving."""
        sent_lsn = self.sent_lsn
        flight = self.send(lsn, entry)
        self.sent_lsn = sent_lsn
        return flight

    def rewind(self) -> None:
        """Forget the flights: everything from the first undelivered one on will be sent again."""
        self.next_lsn = self.resume_lsn
        self.resend_through = self.may_have_been_sent
        self._all.clear()
        self._of_stream.clear()
        self._passed.clear()

    def _advance(self, stream: bytes) -> None:
        queue = self._of_stream.get(stream)
        if queue is None:
            return
        through = before = self.delivered_through.get(stream, 0)
        while queue and queue[0].delivered:
            flight = queue.popleft()
            if not isinstance(flight.entry, Elsewhere):
                through = max(through, flight.last)
        if through != before:
            self.delivered_through[stream] = through
            self._on_moved(stream, through)


def last_seq(entry: Sendable) -> int:
    """The highest seq that an entry is about."""
    return entry.seq if isinstance(entry, Record) else entry.last
