"""Metrics, in a registry of their own, by the naming conventions of Prometheus.

Counters are written by the stage that knows. What is a state rather than an event (the account,
the backlog, the publisher) is read when somebody asks, by a collector, so that a scrape shows one
consistent moment and the data's way is not burdened with gauges.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """All counters of the gateway that are not the publisher's own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._port_counters()
        self._link_counters()
        self._ingest_counters()

    def _port_counters(self) -> None:
        self._port_open = self._gauge("port_open", "1 while the port is open.", "port")
        self._port_retry = self._gauge(
            "port_retry_seconds", "How long the port waits before it is tried again.", "port"
        )
        self._port_failures = self._counter(
            "port_open_failures", "Attempts to open the port that failed.", "port", "reason"
        )
        self._port_lost = self._counter("port_lost", "Times an open port was lost.", "port")
        self._port_received = self._counter("port_received_bytes", "Bytes read.", "port")
        self._port_sent = self._counter("port_sent_bytes", "Bytes written.", "port")
        self._port_dropped = self._counter(
            "port_write_dropped_bytes", "Bytes not written: the write buffer was full.", "port"
        )

    def _link_counters(self) -> None:
        self.hellos = self._counter("link_hellos", "HELLOs that could be read.", "port")
        self.frame_faults = self._counter(
            "link_frame_faults", "Frames that were refused, by what was wrong.", "port", "code"
        )
        self.rejects = self._counter(
            "link_rejects", "Refusals sent to a board, by why.", "port", "code"
        )
        self.sessions_started = self._counter(
            "link_sessions_started", "Sessions that a START made good.", "port"
        )
        self.sessions_ended = self._counter(
            "link_sessions_ended", "Sessions that ended, by why.", "port", "why"
        )
        self.sessions_moved = self._counter(
            "link_sessions_moved", "Sessions ended: their board began one on another port.", "port"
        )

    def _ingest_counters(self) -> None:
        self.records = self._counter("records_received", "Records taken in.", "device")
        self.suppressed = self._counter(
            "records_suppressed", "Repeats of records, the same bytes, dropped.", "device"
        )
        self.unverifiable = self._counter(
            "records_unverifiable", "Repeats too old to be compared, dropped.", "device"
        )
        self.conflicts = self._counter(
            "record_conflicts", "Records that contradict what is stored, kept as evidence.",
            "device", "what",
        )  # fmt: skip
        self.lost_ranges = self._counter(
            "lost_ranges", "Ranges declared lost, by reason.", "device", "reason"
        )
        self.repairs = self._counter(
            "log_repairs", "Torn tails and damages of the log that were found and mended."
        )
        self.undated = self._counter(
            "records_undated", "Records whose time is not known.", "device"
        )
        self.identity_faults = self._counter(
            "identity_faults", "HELLOs whose name, uid, stream do not belong together.",
            "port", "what",
        )  # fmt: skip

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"gapless_{name}", words, labels, registry=self.registry)

    def _gauge(self, name: str, words: str, *labels: str) -> Gauge:
        return Gauge(f"gapless_{name}", words, labels, registry=self.registry)

    def port(self, path: str) -> PortMetrics:
        """Return the counters of one port, which show as 0 from now on."""
        return PortMetrics(self, path)

    def device(self, name: str) -> DeviceMetrics:
        """Return the counters of one device."""
        return DeviceMetrics(self, name)

    def exposition(self) -> bytes:
        """Return everything in the text format of Prometheus."""
        return generate_latest(self.registry)


class PortMetrics:
    """The counters of one port, their label bound once."""

    def __init__(self, metrics: Metrics, path: str) -> None:
        self._path = path
        self._failures = metrics._port_failures
        self._open = metrics._port_open.labels(path)
        self._retry = metrics._port_retry.labels(path)
        self._lost = metrics._port_lost.labels(path)
        self._received = metrics._port_received.labels(path)
        self._sent = metrics._port_sent.labels(path)
        self._dropped = metrics._port_dropped.labels(path)

    def opened(self) -> None:
        """The port is open."""
        self._open.set(1)
        self._retry.set(0)

    def closed(self) -> None:
        """The port is closed, by us or by the world."""
        self._open.set(0)

    def lost(self) -> None:
        """The open port was lost."""
        self._lost.inc()

    def open_failed(self, code: str) -> None:
        """An attempt to open failed."""
        self._failures.labels(self._path, code).inc()

    def retry_in(self, delay_s: float) -> None:
        """The next attempt comes in `delay_s` seconds."""
        self._retry.set(delay_s)

    def received(self, count: int) -> None:
        """`count` bytes came in."""
        self._received.inc(count)

    def sent(self, count: int) -> None:
        """`count` bytes left."""
        self._sent.inc(count)

    def write_dropped(self, count: int) -> None:
        """Frames of `count` bytes found the write buffer full."""
        self._dropped.inc(count)


class DeviceMetrics:
    """The counters of one device, their label bound once: they are on the way of every record."""

    def __init__(self, metrics: Metrics, device: str) -> None:
        self.records = metrics.records.labels(device)
        self.undated = metrics.undated.labels(device)
        self.suppressed = metrics.suppressed.labels(device)
        self.unverifiable = metrics.unverifiable.labels(device)
