"""The link between a board and its gateway: no I/O, no clock, one code on both sides."""
