"""The live account as the outside sees it: JSON for `/account`, gauges for `/metrics`.

Both read one moment of the account and change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gapless_gateway.account.account import Account
from gapless_gateway.account.histogram import BUCKET_MAX, Histogram, upper_bound_ms
from gapless_gateway.account.stream_account import StreamAccount
from gapless_gateway.committer import Committer
from gapless_gateway.ingest import Ingest
from gapless_gateway.intake import Intake
from gapless_gateway.publisher.metrics import PublisherMetrics
from gapless_gateway.session import PortSession

# The states of a seq, as the labels of gapless_seqs; they add up to gapless_produced_seqs.
STATES = (
    "delivered",
    "pending_device",
    "pending_gateway",
    "quarantined",
    "lost",
    "lost_at_most",
    "unexplained",
)
BROKER_STATES = ("offline", "draining", "live", "stopped")


class AccountView:
    """The account, the links and the publisher, seen together at one moment."""

    def __init__(
        self,
        gateway: str,
        ingest: Ingest,
        sessions: list[PortSession],
        *,
        publisher: PublisherMetrics,
        committer: Committer,
        intake: Intake,
    ) -> None:
        self._gateway = gateway
        self._ingest = ingest
        self._sessions = sessions
        self._publisher = publisher
        self._committer = committer
        self.intake = intake

    @property
    def account(self) -> Account:
        """The account itself."""
        return self._ingest.account

    @property
    def ingest_state(self) -> str:
        """ok; full: boards hold their records until there is room; failed: until a restart."""
        if self._committer.failed is not None:
            return "failed"
        return "full" if self.intake.full else "ok"

    def as_json(self) -> dict[str, Any]:
        """Return everything that `/account` shows."""
        account, publisher = self.account, self._publisher
        outage = account.outage
        balance = account.balance()
        return {
            "v": 1,
            "gateway": self._gateway,
            "run": account.run,
            "log_id": account.log_id.hex(),
            "at_ms": self._ingest.clock.utc_ms(),
            "ingest": self.ingest_state,
            "wal": {
                "bytes": self.intake.used_bytes,
                "room_bytes": self.intake.room_bytes,
                "credit_window": self.intake.window_seqs,
                "segments_dropped": self.intake.segments_dropped,
            },
            "outage": None if outage is None else {"id": outage.id, "began_ms": outage.began_ms},
            "outages_total": account.outages_total,
            "broker": {
                "state": publisher.state,
                "since_ms": publisher.state_since_ms,
                "last_error": publisher.last_error,
                "in_flight": publisher.in_flight,
                "consumer": publisher.consumer,
            },
            "backlog": balance.pending_gateway,
            "balance": asdict(balance),
            "unexplained": balance.unexplained,
            "conflicts": account.conflicts,
            "order_violations": account.order_violations,
            "streams": [self._stream(one) for one in account.streams.values()],
            "ports": [self._port(one) for one in self._sessions],
        }

    def _stream(self, one: StreamAccount) -> dict[str, Any]:
        linked = self._ingest.links.linked(one)
        return {
            "device": one.device,
            "stream": one.stream.hex(),
            "base": one.base,
            "closed": one.closed,
            "link": "closed" if one.closed else "away" if linked is None else "linked",
            "port": linked.port if linked is not None else None,
            "last_seq": one.durable,
            "delivered_through": one.delivered_through,
            "known_through": one.known_through,
            "last_heard_ms": one.last_heard_ms,
            "rate_per_s": linked.rate.per_second(self._ingest.clock.utc_ms()) if linked else 0.0,
            "suppressed": one.suppressed,
            "redelivered": one.redelivered,
            "unverifiable": one.unverifiable,
            "conflicts": one.conflicts,
            "order_violations": one.order_violations,
            "balance": asdict(one.balance()),
        }

    @staticmethod
    def _port(one: PortSession) -> dict[str, Any]:
        device = one.linked.device if one.linked is not None else None
        return {"path": one.port, "open": one.is_open, "device": device}

    def metrics(self) -> Iterator[Metric]:
        """Return the gauges of the moment."""
        yield from self._stream_metrics()
        yield from self._link_metrics()
        yield from self._gateway_metrics()
        yield from self._publisher_metrics()

    def _stream_metrics(self) -> Iterator[Metric]:
        labels = ["device", "stream"]
        seqs = GaugeMetricFamily(
            "gapless_seqs", "Sequence numbers by state.", labels=[*labels, "state"]
        )
        gauges = {
            "produced": GaugeMetricFamily(
                "gapless_produced_seqs", "All sequence numbers of the account.", labels=labels
            ),
            "claimed": GaugeMetricFamily(
                "gapless_known_through_seq", "The highest number witnessed.", labels=labels
            ),
            "conflicts": GaugeMetricFamily(
                "gapless_conflicts", "Numbers with two stories.", labels=labels
            ),
            "order_violations": GaugeMetricFamily(
                "gapless_order_violations", "Entries that cannot stand there.", labels=labels
            ),
            "heard": GaugeMetricFamily(
                "gapless_last_heard_timestamp_seconds", "Last word of the board.", labels=labels
            ),
            "up": GaugeMetricFamily("gapless_link_up", "1 while a session runs.", labels=labels),
        }
        for one in self.account.streams.values():
            key, balance = [one.device, one.stream.hex()], asdict(one.balance())
            for state in STATES:
                seqs.add_metric([*key, state], balance[state])
            gauges["produced"].add_metric(key, balance["produced"])
            gauges["claimed"].add_metric(key, one.known_through)
            gauges["conflicts"].add_metric(key, one.conflicts)
            gauges["order_violations"].add_metric(key, one.order_violations)
            gauges["heard"].add_metric(key, one.last_heard_ms / 1000)
            gauges["up"].add_metric(key, int(self._ingest.links.linked(one) is not None))
        yield seqs
        yield from gauges.values()

    def _link_metrics(self) -> Iterator[Metric]:
        for name, words in (
            ("frames_received", "Frames found on the line, good or bad."),
            ("frames_sent", "Frames sent to the board."),
            ("records_dropped", "Records that came before their turn and found no room."),
        ):
            family = CounterMetricFamily(f"gapless_link_{name}", words, labels=["port"])
            for session in self._sessions:
                family.add_metric([session.port], session.counters.get(name, 0))
            yield family

    def _gateway_metrics(self) -> Iterator[Metric]:
        account, committer = self.account, self._committer
        run = GaugeMetricFamily(
            "gapless_run", "The number of this run of the gateway.", labels=["gateway", "log_id"]
        )
        run.add_metric([self._gateway, account.log_id.hex()], account.run)
        yield run
        failed = int(committer.failed is not None)
        yield GaugeMetricFamily("gapless_ingest_failed", "1 after the log failed.", value=failed)
        intake = self.intake
        yield GaugeMetricFamily(
            "gapless_ingest_full", "1 while boards hold their records for want of room.",
            value=int(intake.full),
        )  # fmt: skip
        yield GaugeMetricFamily(
            "gapless_credit_window_seqs", "How many seqs a board may send unasked.",
            value=intake.window_seqs,
        )  # fmt: skip
        yield GaugeMetricFamily(
            "gapless_wal_bytes", "What the state directory holds.", value=intake.used_bytes
        )
        yield GaugeMetricFamily(
            "gapless_wal_room_bytes", "What it may still grow by; negative: it is over.",
            value=intake.room_bytes,
        )  # fmt: skip
        yield CounterMetricFamily(
            "gapless_segments_dropped", "Segments whose records were given up for want of room.",
            value=intake.segments_dropped,
        )  # fmt: skip
        yield CounterMetricFamily("gapless_commits", "Syncs of the log.", value=committer.commits)
        yield CounterMetricFamily(
            "gapless_entries_dropped", "Entries dropped after the log failed.",
            value=committer.dropped,
        )  # fmt: skip
        yield CounterMetricFamily(
            "gapless_outages", "Outages of the broker.", value=account.outages_total
        )
        yield GaugeMetricFamily(
            "gapless_outage_open", "1 during an outage.", value=int(account.outage is not None)
        )
        yield CounterMetricFamily(
            "gapless_recoveries", "Starts after a crash.", value=account.recoveries_total
        )
        synced = int(self._ingest.clock.synchronised())
        yield GaugeMetricFamily(
            "gapless_clock_synchronised", "1 while the kernel says so.", value=synced
        )

    def _publisher_metrics(self) -> Iterator[Metric]:
        one = self._publisher
        state = GaugeMetricFamily("gapless_broker_state", "1 for the state.", labels=["state"])
        for name in BROKER_STATES:
            state.add_metric([name], int(one.state == name))
        yield state
        consumer = GaugeMetricFamily(
            "gapless_consumer_heard", "1 when receipts come.", value=int(one.consumer == "heard")
        )
        yield consumer
        for name, words, value in (
            ("broker_connects", "Connections made.", one.connects),
            ("broker_connect_failures", "Attempts to connect that failed.", one.connect_failures),
            ("published", "Transmissions, redeliveries included.", one.published),
            ("redelivered", "Transmissions flagged as redelivery.", one.redelivered),
            ("acknowledged", "Publishes that the broker took.", one.acknowledged),
            ("no_subscribers", "Publishes that nobody subscribes to.", one.no_subscribers),
            ("refused_for_good", "Publishes that will never be taken.", one.refused_for_good),
            ("refused_for_now", "Publishes that may be taken later.", one.refused_for_now),
            ("receipts_accepted", "Receipts of the consumer.", one.receipts_accepted),
            ("receipts_refused", "Receipts not believed.", one.receipts_refused.total()),
            ("resends", "Times that all that has no receipt was sent again.", one.resends),
        ):
            yield CounterMetricFamily(f"gapless_{name}", words, value=value)
        yield GaugeMetricFamily("gapless_in_flight", "Unacknowledged.", value=one.in_flight)
        pending = self.account.balance().pending_gateway
        yield GaugeMetricFamily("gapless_backlog_seqs", "Stored, not delivered.", value=pending)
        yield _histogram("durable", "From sample to durable on disk.", one.durable)
        yield _histogram("delivered", "From sample to delivered.", one.delivered)


class AccountCollector(Collector):
    """Hands the gauges to a Prometheus registry, at every scrape."""

    def __init__(self, view: AccountView) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """Return the gauges of the moment."""
        return self._view.metrics()


def _histogram(what: str, words: str, histogram: Histogram) -> HistogramMetricFamily:
    """Cumulative counts for powers of two, in seconds: a tenth of our own resolution."""
    buckets: list[tuple[str, float]] = []
    total, next_power = 0, 1
    counts = dict(histogram.items())
    for bucket in range(BUCKET_MAX):
        total += counts.get(bucket, 0)
        if upper_bound_ms(bucket) + 1 >= next_power:
            buckets.append((str((upper_bound_ms(bucket) + 1) / 1000), total))
            next_power *= 2
    total += counts.get(BUCKET_MAX, 0)
    buckets.append(("+Inf", total))
    family = HistogramMetricFamily(f"gapless_{what}_latency_seconds", words)
    family.add_metric([], buckets, sum_value=None)
    return family
