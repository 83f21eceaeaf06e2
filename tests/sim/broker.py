"""A broker and the consumer behind it: keeps what was published, and checks it as it comes."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import cbor2

from gapless_gateway.brokers.base import (
    DELIVERED,
    OutgoingMessage,
    PublishOutcome,
    PublishResult,
)
from tests.sim.truth import Number, Truth, promise

OnAck = Callable[[PublishResult], None]
REFUSED = PublishResult(PublishOutcome.REFUSED_FOR_GOOD, "too large")
NOT_NOW = PublishResult(PublishOutcome.REFUSED_FOR_NOW, "quota")


@dataclass
class StreamAtConsumer:
    """What the consumer knows of a stream."""

    records: set[int] = field(default_factory=set)
    lost: dict[int, str] = field(default_factory=dict)  # seq -> the latest reason
    aside: set[int] = field(default_factory=set)  # announced as quarantined
    elsewhere: set[int] = field(default_factory=set)
    newest: int = 0  # of the first transmissions

    def told(self, seq: int) -> bool:
        return any(seq in one for one in (self.records, self.lost, self.aside, self.elsewhere))


class Consumer:
    """Every message that the broker took, in order."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self.streams: dict[bytes, StreamAtConsumer] = {}
        self.messages = 0
        self.redelivered = 0

    def of(self, stream: bytes) -> StreamAtConsumer:
        """What it knows of a stream; nothing, at first."""
        return self.streams.setdefault(stream, StreamAtConsumer())

    def receive(self, message: OutgoingMessage) -> None:
        if message.topic.endswith("/status"):
            return
        self.messages += 1
        fields = json.loads(message.payload)
        stream = bytes.fromhex(fields["stream"])
        known = self.of(stream)
        again = fields["redelivery"]
        self.redelivered += again
        if "seq" in fields:
            self._take_record(known, stream, fields)
        else:
            self._take_declared(known, stream, fields)

    def _take_record(self, known: StreamAtConsumer, stream: bytes, fields: dict) -> None:
        seq = fields["seq"]
        number = (stream, seq)
        made = self._truth.made.get(number)
        promise(made is not None, "appeared", f"the consumer got {number}, which nobody made")
        _, _, _, _, body = cbor2.loads(made)
        promise(body == fields["values"], "altered", f"the consumer got other bytes of {number}")
        self._check_order(known, number, seq, fields, in_place=True)
        known.records.add(seq)

    def _take_declared(self, known: StreamAtConsumer, stream: bytes, fields: dict) -> None:
        reason = fields["reason"]
        in_place = reason not in ("quarantined", "elsewhere")
        for seq in range(fields["first"], fields["last"] + 1):
            self._check_order(known, (stream, seq), fields["last"], fields, in_place=in_place)
            if reason == "quarantined":
                known.aside.add(seq)
            elif reason == "elsewhere":
                known.elsewhere.add(seq)
            else:
                known.lost[seq] = reason
        if in_place:
            known.newest = max(known.newest, fields["last"])

    def _check_order(
        self, known: StreamAtConsumer, number: Number, last: int, fields: dict, *, in_place: bool
    ) -> None:
        # What stood at the very end of the log and is gone, nothing there remembers.
        if fields["redelivery"] or number in self._truth.cut | self._truth.hit_numbers:
            return
        seq = number[1]
        promise(not known.told(seq), "unflagged repeat", f"{number} was told before: {fields}")
        if in_place:
            promise(seq > known.newest, "order at the consumer", f"{number} after {known.newest}")
        if in_place and "seq" in fields:
            known.newest = last


class Connection:
    """One connection of the gateway to the broker."""

    receive_maximum = 100
    maximum_packet_size = None

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def publish(self, message: OutgoingMessage, on_ack: OnAck) -> None:
        self._broker.on_published(message)
        self._broker.wire.append((message, on_ack))


class Broker:
    """Takes messages in the order of the wire, acknowledges them in any order."""

    def __init__(self, truth: Truth, consumer: Consumer) -> None:
        self._truth = truth
        self.consumer = consumer
        self.wire: list[tuple[OutgoingMessage, OnAck]] = []
        self.unacknowledged: list[tuple[OnAck, PublishResult]] = []
        self.refused = Counter[str]()

    def on_published(self, message: OutgoingMessage) -> None:
        properties = dict(message.properties)
        if "seq" in properties and not message.topic.endswith("/lost"):
            number = (bytes.fromhex(properties["stream"]), int(properties["seq"]))
            self._truth.published.add(number)

    def take(self, count: int) -> None:
        for message, on_ack in self.wire[:count]:
            result = DELIVERED
            if self._refuses(message):
                result = REFUSED
                self.refused["for good"] += 1
            else:
                self.consumer.receive(message)
            self.unacknowledged.append((on_ack, result))
        del self.wire[:count]

    def refuse_for_now(self) -> None:
        """The next message is not taken, nor is anything behind it."""
        if self.wire:
            _, on_ack = self.wire.pop(0)
            self.refused["for now"] += 1
            self.unacknowledged.append((on_ack, NOT_NOW))
            self.wire.clear()

    def acknowledge(self, count: int, rng: random.Random) -> None:
        for _ in range(min(count, len(self.unacknowledged))):
            on_ack, result = self.unacknowledged.pop(rng.randrange(len(self.unacknowledged)))
            on_ack(result)

    def cut(self, rng: random.Random) -> None:
        """The connection is gone: a part of what was on the wire got here, nothing got back."""
        self.take(rng.randrange(len(self.wire) + 1))
        self.wire.clear()
        self.unacknowledged.clear()

    def _refuses(self, message: OutgoingMessage) -> bool:
        if message.topic.endswith(("/lost", "/status")):
            return False
        fields = json.loads(message.payload)
        if "refuse" not in fields["values"]:
            return False
        self._truth.refused.add((bytes.fromhex(fields["stream"]), fields["seq"]))
        return True
