"""The gateway's log: what was acked to a board, on disk, until it is delivered."""
