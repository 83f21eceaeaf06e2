"""From the log to the broker: modes, delivery, outages, receipts."""
