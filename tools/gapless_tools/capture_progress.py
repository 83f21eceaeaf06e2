"""How far a capture has come in each stream, from what stands synced in its file.

A receipt's `through` is the highest seq up to which everything from the stream's base on is here:
as a record, or as a declared range (lost, quarantined, elsewhere). A gap is never stepped over.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from gapless_gateway.account.intervals import IntervalSet
from gapless_tools.capture_messages import (
    Captured,
    CapturedLost,
    CapturedOther,
    CapturedRecord,
    CapturedStatus,
)

# Digests are kept for the newest records of a stream; a repeat of an older one is not compared
# here (the audit, which reads the whole file, does).
DIGESTS_PER_STREAM_MAX = 65_536
# Declared, and yet a record may follow: the owner can requeue it, or the other gateway sends it.
REVOCABLE_REASONS = frozenset({"quarantined", "elsewhere"})


class StreamProgress:
    """One stream as the capture has it."""

    def __init__(self, device: str, stream: bytes) -> None:
        """Nothing is known of the stream yet, not even its base."""
        self.device = device
        self.stream = stream
        self.base: int | None = None
        self.covered = IntervalSet()
        self.records = IntervalSet()
        self.lost = IntervalSet()
        self._digests: OrderedDict[int, bytes] = OrderedDict()

    @property
    def through(self) -> int | None:
        """What can be receipted; None while the base is not known."""
        if self.base is None:
            return None
        block = self.covered.range_at(self.base + 1)
        return self.base if block is None else block[1]

    @property
    def highest(self) -> int:
        """The highest seq heard of, 0 for none."""
        ranges = self.covered.ranges()
        return ranges[-1][1] if ranges else 0

    @property
    def missing(self) -> int:
        """How many numbers between the base and the highest are not here."""
        if self.base is None:
            return 0
        return self.highest - self.base - self.covered.within(self.base + 1, self.highest).count()

    def add_record(self, item: CapturedRecord) -> str:
        """Take a record in; "new", "repeated" or "conflict" with what was there before."""
        conflict = item.seq in self.lost
        repeated = item.seq in self.records
        if repeated:
            conflict = conflict or self._digests.get(item.seq, item.digest) != item.digest
        else:
            self._digests[item.seq] = item.digest
            if len(self._digests) > DIGESTS_PER_STREAM_MAX:
                self._digests.popitem(last=False)
        self.records.add(item.seq, item.seq)
        self.covered.add(item.seq, item.seq)
        return "conflict" if conflict else "repeated" if repeated else "new"

    def add_lost(self, item: CapturedLost) -> str:
        """Take a declared range in; answers as `add_record` does."""
        repeated = self.covered.covers(item.first, item.last)
        conflict = False
        if item.reason not in REVOCABLE_REASONS:
            conflict = bool(self.records.within(item.first, item.last))
            self.lost.add(item.first, item.last)
        self.covered.add(item.first, item.last)
        return "conflict" if conflict else "repeated" if repeated else "new"


class CaptureProgress:
    """All streams, and the counts that are shown."""

    def __init__(self) -> None:
        """Nothing captured yet."""
        self.streams: dict[bytes, StreamProgress] = {}
        self.messages = 0
        self.repeated = 0
        self.conflicts = 0
        self.not_understood = 0

    def note(self, item: Captured) -> set[bytes]:
        """Take in a message that is synced; the streams whose receipt it may have moved."""
        self.messages += 1
        if isinstance(item, CapturedOther):
            self.not_understood += 1
            return set()
        if isinstance(item, CapturedStatus):
            return self._note_status(item)
        progress = self._stream(item.device, item.stream)
        what = (
            progress.add_record(item)
            if isinstance(item, CapturedRecord)
            else progress.add_lost(item)
        )
        self.repeated += what == "repeated"
        self.conflicts += what == "conflict"
        return {item.stream}

    def receipt(self, stream: bytes) -> tuple[str, int] | None:
        """(device, through) of a stream; None while its base is not known."""
        progress = self.streams[stream]
        through = progress.through
        return None if through is None else (progress.device, through)

    def as_dict(self) -> dict[str, Any]:
        """Return everything that is shown, for machines."""
        return {
            "messages": self.messages,
            "repeated": self.repeated,
            "conflicts": self.conflicts,
            "not_understood": self.not_understood,
            "streams": [
                {
                    "device": one.device,
                    "stream": one.stream.hex(),
                    "base": one.base,
                    "through": one.through,
                    "highest": one.highest,
                    "missing": one.missing,
                }
                for one in self.streams.values()
            ],
        }

    def _note_status(self, item: CapturedStatus) -> set[bytes]:
        for one in item.streams:
            self._stream(one.device, one.stream).base = one.base
        return {one.stream for one in item.streams}

    def _stream(self, device: str, stream: bytes) -> StreamProgress:
        if stream not in self.streams:
            self.streams[stream] = StreamProgress(device, stream)
        return self.streams[stream]
