"""Delivery by receipt: what is done with the consumer's words, and with its silence."""

from __future__ import annotations

import logging
import time

from gapless_gateway.brokers.base import IncomingMessage
from gapless_gateway.publisher.delivery import Delivery
from gapless_gateway.publisher.metrics import PublisherMetrics
from gapless_gateway.publisher.parts import LogView
from gapless_gateway.publisher.receipts import ReceiptRefused, Receipts, parse
from gapless_gateway.publisher.sending import Sending
from gapless_gateway.publisher.settings import PublisherSettings

_log = logging.getLogger("gapless.publisher")

RESENDS_DOUBLING = 5  # the wait for a receipt grows to at most 32 timeouts


class ReceiptMode:
    """Moves delivery by receipts; sends again when a consumer that was heard gets no further."""

    def __init__(
        self,
        *,
        log: LogView,
        delivery: Delivery,
        sending: Sending,
        receipts: Receipts,
        settings: PublisherSettings,
        metrics: PublisherMetrics,
    ) -> None:
        """Made at the start of a run, before anything is read or appended."""
        self._log = log
        self._delivery = delivery
        self._sending = sending
        self._receipts = receipts
        self._timeout_s = settings.receipt_timeout_s
        self._metrics = metrics
        self._moved_at = 0.0
        self._resends = 0  # since a receipt moved anything
        # What may be receipted before this run has read it: seqs that were in the log already.
        self._durable_at_start = {one: view.durable for one, view in log.account.streams.items()}

    def begin_session(self) -> None:
        """A new broker session: whoever was there before need not be there now."""
        self._receipts.begin_session()
        self._metrics.consumer = "no_consumer"
        self._moved_at = time.monotonic()

    def heard(self, message: IncomingMessage) -> None:
        """A receipt: believed, or refused and counted."""
        metrics, delivery = self._metrics, self._delivery
        try:
            receipt = parse(message.topic, message.payload)
            stream = self._log.account.streams.get(receipt.stream)
            through = self._receipts.accept(
                receipt,
                device=stream.device if stream is not None else None,
                durable=stream.durable if stream is not None else 0,
                sent=self._may_have_been_sent(receipt.stream),
                delivered=delivery.delivered_through.get(receipt.stream, 0),
            )
        except ReceiptRefused as error:
            metrics.receipts_refused[str(error)] += 1
            _log.warning("a receipt on %s is refused: %s", message.topic, error)
            return
        metrics.receipts_accepted += 1
        metrics.consumer = "heard"
        if delivery.deliver_through(receipt.stream, through):
            self._moved_at = time.monotonic()
            self._resends = 0
        self._sending.wake()

    def resend_if_stuck(self) -> None:
        """Receipts were heard in this session and have stopped: the consumer misses something."""
        now = time.monotonic()
        if self._delivery.flights == 0 or not self._receipts.heard_in_session:
            self._moved_at = now
            return
        # Twice as patient each time, so that a slow consumer is not buried in repeats.
        timeout_s = self._timeout_s * (1 << min(self._resends, RESENDS_DOUBLING))
        if now - self._moved_at >= timeout_s and self._sending.unacknowledged == 0:
            _log.warning("no receipt for %g s: what is not receipted is sent again", timeout_s)
            self._metrics.resends += 1
            self._resends += 1
            self._moved_at = now
            self._sending.rewind()
            self._sending.wake()

    def _may_have_been_sent(self, stream: bytes) -> int:
        """The highest seq of a stream that this run, or one before it, may have sent."""
        sent = max(
            self._delivery.sent_through.get(stream, 0),
            self._delivery.delivered_through.get(stream, 0),
        )
        if self._delivery.next_lsn <= self._delivery.resend_through:
            return max(sent, self._durable_at_start.get(stream, 0))
        return sent
