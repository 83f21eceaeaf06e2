"""The audit: the account rebuilt offline, judged, and written down so that anyone can read it."""
