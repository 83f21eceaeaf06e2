"""What the publisher knows and counts. The daemon's metrics module reads this; nobody else does."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gapless_gateway.account.histogram import Histogram

Buckets = tuple[tuple[int, int], ...]


@dataclass(slots=True)
class PublisherMetrics:
    """State, totals of this run, and the latencies since the last Progress entry.

    The daemon calls `observe_durable` for each dated record when its commit is done. All else is
    written by the publisher.
    """

    state: str = "starting"  # "starting" | "offline" | "draining" | "live" | "stopped"
    state_since_ms: int = 0  # UTC
    connects: int = 0
    connect_failures: int = 0
    last_error: str = ""  # one sentence; empty while connected
    published: int = 0  # transmissions, redeliveries included
    redelivered: int = 0
    acknowledged: int = 0  # PUBACKs that accept
    no_subscribers: int = 0
    refused_for_good: int = 0
    refused_for_now: int = 0
    announcements_refused: int = 0
    in_flight: int = 0  # published and not yet acknowledged by the broker
    undelivered: int = 0  # entries in memory that are sent and not delivered yet
    pending: int = 0  # seqs durable and not delivered, as of the last bookkeeping
    outage_id: int = 0  # the open outage, 0 none
    consumer: str = "not_used"  # "not_used" | "no_consumer" | "heard"
    receipts_accepted: int = 0
    receipts_refused: Counter[str] = field(default_factory=Counter)  # by why
    resends: int = 0  # receipt mode: times that all that was not receipted was sent again
    durable: Histogram = field(default_factory=Histogram)  # of this run
    delivered: Histogram = field(default_factory=Histogram)
    _durable_since: Histogram = field(default_factory=Histogram)
    _delivered_since: Histogram = field(default_factory=Histogram)

    def observe_durable(self, latency_ms: int) -> None:
        """One record became durable so long after it was taken."""
        self._durable_since.add(latency_ms)

    def observe_delivered(self, latency_ms: int) -> None:
        """One record was delivered so long after it was taken."""
        self._delivered_since.add(latency_ms)

    def take_histograms(self) -> tuple[Buckets, Buckets]:
        """(durable, delivered) since the last call, as a Progress entry has them."""
        durable, delivered = self._durable_since.items(), self._delivered_since.items()
        self.durable.merge(durable)
        self.delivered.merge(delivered)
        self._durable_since, self._delivered_since = Histogram(), Histogram()
        return durable, delivered
