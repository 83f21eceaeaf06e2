"""The account: where every sequence number is, folded from the entries of the log alone."""
