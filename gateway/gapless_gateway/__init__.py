"""The gateway: port, session, write-ahead log, publisher, broker."""
