"""Boards: they number, hold until they are acked, overflow, forget, and know nothing of faults.

What a board says and frees follows shared/gapless_link/sender.py and firmware's outbox.py; the
bytes of the link are left out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import cbor2

from gapless_link.gateway_messages import Hello
from gapless_link.messages import KIND_SAMPLE
from tests.sim.truth import Truth

HELD_RANGES_MAX = 8
RESERVED_BLOCK_SEQS = 20
REFUSED_SHARE = 0.03  # of the records: a body that the broker never takes


@dataclass
class Board:
    """One board on one port. `outbox`: seq -> the record's bytes, None where it overflowed."""

    name: str
    stream: bytes
    truth: Truth
    outbox_records_max: int
    next: int = 1
    exact: bool = True
    boot: int = 1
    uptime_ms: int = 1000
    acked: int = 0
    acked_by: bytes | None = None
    outbox: dict[int, bytes | None] = field(default_factory=dict)
    # While linked
    log_id: bytes | None = None
    durable: int = 0
    credit: int = 0
    unsent: int = 0  # the seq to send next
    life: int = 0  # a WELCOME to a HELLO of another life means nothing to it

    @property
    def linked(self) -> bool:
        return self.log_id is not None

    def holds(self, seq: int) -> bool:
        """Whether it could still send this record."""
        return self.outbox.get(seq) is not None

    def ranges(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for seq in sorted(self.outbox):
            if found and found[-1][1] == seq - 1:
                found[-1] = (found[-1][0], seq)
            else:
                found.append((seq, seq))
        return found

    # Its life

    def produce(self, count: int, rng: random.Random, refuse: bool) -> None:
        for _ in range(count):
            body: dict[str, object] = {"v": rng.getrandbits(40)}
            if refuse and rng.random() < REFUSED_SHARE:
                body["refuse"] = True
            body["pad"] = "x" * rng.choice((0, 10, 60, 200))
            ticks_ms = self.uptime_ms + rng.randrange(50)
            data = cbor2.dumps([self.boot, 0, ticks_ms, KIND_SAMPLE, body])
            self.truth.made[self.stream, self.next] = data
            self.outbox[self.next] = data
            self.next += 1
            records = [seq for seq in sorted(self.outbox) if self.holds(seq)]
            if len(records) > self.outbox_records_max:  # the oldest goes, and is declared
                self.outbox[records[0]] = None
                self.truth.forgotten[self.stream, records[0]] = "overflow"

    def reset(self, rng: random.Random, *, spilled: bool) -> None:
        """The RAM is gone without a word; what was spilled to storage is there again."""
        kept = set(self.outbox) if spilled and rng.random() < 0.5 else set()
        if spilled:
            kept |= {seq for seq in self.outbox if rng.random() < 0.5}
        ranges = self.ranges()
        for seq in list(self.outbox):
            if seq not in kept:
                self._forget(seq, "reset")
        while len(ranges := self.ranges()) > HELD_RANGES_MAX:
            for seq in range(ranges[0][0], ranges[0][1] + 1):
                self._forget(seq, "reset")
        self.boot, self.uptime_ms = self.boot + 1, 0
        self.exact = True
        self.unlink()

    def lose_power(self, rng: random.Random, *, spilled: bool) -> None:
        """The mark in the backup registers is gone as well: on from the next reserved block."""
        self.reset(rng, spilled=spilled)
        self.exact = False
        reserved = rng.randrange(RESERVED_BLOCK_SEQS)
        for seq in range(self.next, self.next + reserved):
            self.truth.forgotten[self.stream, seq] = "reserved"
        self.next += reserved
        self.acked, self.acked_by = 0, None
        for stream, seq in self.truth.elsewhere:  # and nobody knows any more who has these
            if stream == self.stream:
                self.truth.forgotten.setdefault((stream, seq), "reset")

    def wipe(self, stream: bytes) -> None:
        """Provisioned anew: another stream, and nothing is left of the one before."""
        for seq in list(self.outbox):
            self._forget(seq, "replaced")
        self.stream, self.next, self.exact = stream, 1, True
        self.boot, self.uptime_ms = self.boot + 1, 0
        self.acked, self.acked_by = 0, None
        self.unlink()

    def visit(self, rng: random.Random, log_id: bytes) -> None:
        """Another gateway acks a part of what it holds."""
        self.unlink()
        if self.outbox:
            through = rng.choice(sorted(self.outbox))
            for seq in [one for one in self.outbox if one <= through]:
                del self.outbox[seq]
            # Whatever lies below, the other log answers for it: it acked it, or opened behind it.
            self.truth.elsewhere |= {(self.stream, seq) for seq in range(1, through + 1)}
            self.acked, self.acked_by = through, log_id

    def _forget(self, seq: int, why: str) -> None:
        if self.outbox.pop(seq) is not None:
            self.truth.forgotten[self.stream, seq] = why

    # The link

    def unlink(self) -> None:
        self.log_id = None
        self.life += 1

    def hello(self) -> Hello:
        self.uptime_ms += 1
        hello = Hello()
        hello.device_id, hello.uid, hello.stream = self.name, self.name.encode(), self.stream
        hello.boot, hello.ticks_ms = self.boot, self.uptime_ms
        hello.next, hello.exact, hello.held = self.next, self.exact, self.ranges()
        hello.acked, hello.acked_by = self.acked, self.acked_by
        hello.firmware = hello.board = hello.runtime = "sim"
        return hello

    def welcomed(self, log_id: bytes, durable: int, credit: int) -> None:
        """It confirms; the START leaves, and what is durable is free."""
        self.log_id, self.durable, self.credit = log_id, durable, credit
        self.unsent = durable + 1
        if durable:
            self._free(durable)

    def take_ack(self, durable: int, credit: int) -> None:
        self.credit = credit
        if durable > self.durable:
            self.unsent = max(self.unsent, durable + 1)
            self._free(durable)

    def _free(self, durable: int) -> None:
        self.durable = durable
        for seq in [one for one in self.outbox if one <= durable]:
            del self.outbox[seq]
        self.acked, self.acked_by = durable, self.log_id

    def next_message(self) -> tuple[int, int, bytes | None] | None:
        """(first, last, data) of what it would send next, data None for a LOST; None: nothing."""
        due = [seq for seq in sorted(self.outbox) if seq >= self.unsent]
        if not due or due[0] > self.credit:
            return None
        first = last = due[0]
        if self.outbox[first] is None:
            while last + 1 in self.outbox and self.outbox[last + 1] is None:
                last += 1
        self.unsent = last + 1
        return first, last, self.outbox[first]

    def send_again(self) -> None:
        """No answer: whatever is not durable is sent once more."""
        self.unsent = self.durable + 1
