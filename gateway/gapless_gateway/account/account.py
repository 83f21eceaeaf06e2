"""The account of a log: a pure fold over its entries, the same live, at recovery and in the audit.

`apply` is given each entry with its LSN, in order. Nothing else changes the fold, so the snapshot
in the header of a segment equals the fold of all entries before it, and the audit compares the
two. Facts that run ahead of the log within a run (`delivered`, the counters in
`StreamAccount.live`) are kept apart and are in no snapshot.

What the fold sees when an entry was removed, doubled, swapped or altered: any break in the LSNs;
and, where the LSNs were forged as well, whatever the entries tell against each other (see
stream_account.py). What it cannot see from the entries alone:

- the end of the log cut off after any entry, as long as nothing that is left witnesses what is
  gone (a record after which neither a record, a HELLO, nor a Progress of its stream came). The
  boards' own HELLO and the anchored ledger are there for that.
- with forged LSNs, the removal of what only adds detail: a Progress before another, a Session of a
  board that had lost nothing or sent nothing after it, a TimePair, Fault, Conflict or Quarantined
  (its number then counts as delivered), the end of the last outage, the last Stopped. The hash
  chain of the ledger and the batch links of the log are there for that.
- the bytes and the time fields of a record that came once, and a Progress that claims a delivery of
  what is stored: the entry's CRC vouches for the former, the consumer's capture for the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gapless_gateway.account.balance import Balance, Totals
from gapless_gateway.account.dating import Dating
from gapless_gateway.account.histogram import Histogram
from gapless_gateway.account.stream_account import FINDINGS_MAX, StreamAccount
from gapless_gateway.account.stream_snapshot import restore as restore_stream
from gapless_gateway.account.stream_snapshot import snapshot_of
from gapless_gateway.wal.entries import (
    GONE_CORRUPTION,
    Conflict,
    Delivered,
    Elsewhere,
    Entry,
    Fault,
    Gone,
    Lost,
    Outage,
    Progress,
    Quarantined,
    Record,
    Run,
    Session,
    Stopped,
    TimePair,
    Unreadable,
)

SNAPSHOT_VERSION = 2
SNAPSHOT_VERSIONS_READ = (1, 2)
OUTAGES_KEPT_MAX = 256  # in memory and in snapshots; the log and the ledger have them all
RECOVERIES_KEPT_MAX = 64


class SnapshotMalformedError(ValueError):
    """What should be a snapshot of an account is not one of a version that this code reads."""


@dataclass(slots=True)
class OutageAccount:
    """One outage. `ended_ms` is None while it lasts; `peak_pending` counts records."""

    id: int
    began_ms: int
    cause: str
    peak_pending: int
    ended_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Recovery:
    """A run that began after one that had not ended cleanly."""

    run: int
    at_ms: int
    torn_bytes: int
    note: str


class Account:
    """Every stream of a log, its runs and its outages."""

    def __init__(self, log_id: bytes) -> None:
        self.log_id = log_id
        self.next_lsn: int | None = None  # None: any is right for the first entry
        self.run = 0
        self.running = False  # between a Run and its Stopped
        self.run_began_ms = 0
        self.last_at_ms = 0
        self.gateway = ""
        self.streams: dict[bytes, StreamAccount] = {}
        self.outages: list[OutageAccount] = []
        self.outages_total = 0
        self.recoveries: list[Recovery] = []
        self.recoveries_total = 0
        self.dating = Dating()
        self.durable_latency = Histogram()
        self.delivered_latency = Histogram()
        self.last_progress: tuple[int, int] = (0, 0)
        self.pending_peak = 0
        self.faults = 0
        self.uncertain = False  # entries may be gone that the following ones build on
        self.outages_uncertain = False  # so may the beginning or the end of an outage
        self.streams_uncertain = False  # and the Session that opened a stream
        self.violations = 0  # of entries that belong to no stream
        self.findings: list[str] = []
        self._uid_of_name: dict[str, bytes] = {}
        self._name_of_uid: dict[bytes, str] = {}

    # -- what others read

    @property
    def outage(self) -> OutageAccount | None:
        """The outage that lasts, or None."""
        return self.outages[-1] if self.outages and self.outages[-1].ended_ms is None else None

    @property
    def order_violations(self) -> int:
        """Entries that cannot stand where they stand, of all streams and of none."""
        return self.violations + sum(one.order_violations for one in self.streams.values())

    @property
    def conflicts(self) -> int:
        """Numbers with two stories, of all streams."""
        return sum(one.conflicts for one in self.streams.values())

    @property
    def unexplained(self) -> int:
        """How many numbers no entry explains, of all streams."""
        return sum(one.unexplained.count() for one in self.streams.values())

    def balance(self) -> Balance:
        """The balances of all streams, added."""
        balances = [one.balance() for one in self.streams.values()]
        names = Balance.__dataclass_fields__
        return Balance(**{name: sum(getattr(one, name) for one in balances) for name in names})

    def by_device(self, name: str) -> StreamAccount | None:
        """The stream that the device of this name numbers in now; None if it never had one."""
        return self._current(lambda one: one.device == name)

    def by_uid(self, uid: bytes) -> StreamAccount | None:
        """The stream that the board with this uid numbers in now; None if it never had one."""
        return self._current(lambda one: one.uid == uid)

    def uid_of(self, name: str) -> bytes | None:
        """The uid that this device id was first seen with."""
        return self._uid_of_name.get(name)

    def name_of(self, uid: bytes) -> str | None:
        """The device id that this uid was first seen with."""
        return self._name_of_uid.get(uid)

    def delivered(self, stream: bytes, through: int) -> None:
        """The broker (or the consumer) has all of this stream up to `through`. Live, not logged.

        Never goes back: what was delivered stays so. An unknown stream is our bug: KeyError.
        """
        live = self.streams[stream].live
        live.delivered_through = max(live.delivered_through, through)

    def _current(self, wanted: Callable[[StreamAccount], bool]) -> StreamAccount | None:
        found = [one for one in self.streams.values() if wanted(one)]
        still_open = [one for one in found if not one.closed]
        latest = still_open or found
        return latest[-1] if latest else None

    # -- the fold

    def apply(self, lsn: int, entry: Entry) -> None:
        """Fold the next entry. Never raises for what an entry says: what is wrong is counted."""
        if lsn != self.next_lsn and self.next_lsn is not None:
            self._violate(f"entry {lsn} stands where {self.next_lsn} was due")
        self.next_lsn = lsn + 1 if type(entry) is not Gone else entry.last_lsn + 1
        if type(entry) is Record:  # the hot one
            stream = self.streams.get(entry.stream)
            if stream is None or entry.outage > self.outages_total or not self.running:
                stream = self._odd_record(entry)
            stream.take_record(entry)
            return
        if not self.running and type(entry) is not Run and not self._explained_by_loss(entry):
            self._violate(f"{type(entry).__name__} outside of a run")
        _FOLDS[type(entry)](self, entry)

    def _explained_by_loss(self, entry: Entry) -> bool:
        """Whether an entry outside of a run is none of ours to wonder at: its Run may be gone."""
        if self.uncertain:
            self.running = True
        return self.uncertain or type(entry) is Gone

    def apply_all(self, batch: Sequence[tuple[int, Entry]]) -> None:
        """Fold (lsn, entry) of a batch whose LSNs follow one another: as `apply` of each.

        Faster, since records come in runs of one stream, and a run costs little more than its CRCs.
        """
        at = 0
        while at < len(batch):
            lsn, entry = batch[at]
            run = 0
            if type(entry) is Record and lsn == self.next_lsn and self.running:
                stream = self.streams.get(entry.stream)
                run = stream.take_run(batch, at, self.outages_total) if stream is not None else 0
                self.next_lsn = lsn + run
            if not run:
                self.apply(lsn, entry)
            at += run or 1

    def _odd_record(self, entry: Record) -> StreamAccount:
        if not self.running and not self._explained_by_loss(entry):
            self._violate("Record outside of a run")
        self._check_outage(entry.outage, entry.rx_ms)
        return self._stream(entry.stream, entry.seq - 1)

    def _check_outage(self, outage: int, at_ms: int) -> None:
        if outage <= self.outages_total:
            return
        if self.outages_uncertain:  # the entry with which it began is gone
            self._begin_outage(OutageAccount(outage, at_ms, "unknown", 0))
        else:
            self._violate(f"an entry of outage {outage}, which never began")

    def _stream(self, stream: bytes, base: int) -> StreamAccount:
        """The account of a stream; one that no Session opened is a finding, and counted on."""
        known = self.streams.get(stream)
        if known is None:
            name = f"stream-{stream.hex()}" if self.streams_uncertain else ""
            known = self.streams[stream] = StreamAccount(stream, name, b"", base)
            known.uncertain = self.streams_uncertain
            if not self.streams_uncertain:
                known.violate("no session opened this stream")
        return known

    def _fold_gone(self, entry: Gone) -> None:
        if entry.cause == GONE_CORRUPTION:
            self.uncertain = self.outages_uncertain = self.streams_uncertain = True
            for one in self.streams.values():
                one.uncertain = True
        for stream, first, last in entry.ranges:
            self._stream(stream, first - 1).take_gone(first, last)

    def _fold_unreadable(self, entry: Unreadable) -> None:
        self.last_at_ms = entry.at_ms
        self._stream(entry.stream, entry.first - 1).take_unreadable(entry)

    def _fold_delivered(self, entry: Delivered) -> None:
        self.last_at_ms = entry.at_ms
        self._stream(entry.stream, entry.first - 1).take_delivered(entry)

    def _fold_lost(self, entry: Lost) -> None:
        self._check_outage(entry.outage, entry.rx_ms)
        self._stream(entry.stream, entry.first - 1).take_lost(entry)

    def _fold_run(self, entry: Run) -> None:
        if self.uncertain:
            self.run, self.running = entry.run - 1, not entry.previous_clean
            self.uncertain = False
        if entry.run != self.run + 1:
            self._violate(f"run {entry.run} follows run {self.run}")
        if entry.log_id != self.log_id:
            self._violate(f"run of log {entry.log_id.hex()} in log {self.log_id.hex()}")
        if self.run and entry.previous_clean == self.running:
            self._violate(f"run {entry.run} misjudges how the one before it ended")
        if self.run and not entry.previous_clean:
            self.recoveries_total += 1
            self.recoveries.append(Recovery(entry.run, entry.at_ms, entry.torn_bytes, entry.note))
            del self.recoveries[:-RECOVERIES_KEPT_MAX]
        self.run, self.running, self.gateway = entry.run, True, entry.gateway
        self.run_began_ms = self.last_at_ms = entry.at_ms

    def _fold_session(self, entry: Session) -> None:
        known = self.streams.get(entry.stream)
        self.last_at_ms = entry.at_ms
        if known is None:
            self._check_identity(entry)
            for other in self.streams.values():
                if other.device == entry.device and other.uid == entry.uid:
                    other.close()
            known = StreamAccount(entry.stream, entry.device, entry.uid, entry.base)
            known.uncertain = self.streams_uncertain
            self.streams[entry.stream] = known
            known.take_session(entry, self.log_id, opens=not known.uncertain)
        else:
            known.take_session(entry, self.log_id, opens=False)
        self._uid_of_name.setdefault(entry.device, entry.uid)
        self._name_of_uid.setdefault(entry.uid, entry.device)

    def _check_identity(self, entry: Session) -> None:
        if self._uid_of_name.get(entry.device, entry.uid) != entry.uid:
            self._violate(f"{entry.device} came with another uid")
        if self._name_of_uid.get(entry.uid, entry.device) != entry.device:
            self._violate(f"uid {entry.uid.hex()} came with another name")

    def _fold_outage(self, entry: Outage) -> None:
        self.last_at_ms = entry.at_ms
        lasting = self.outage
        if entry.began:
            follows = lasting is None and entry.id == self.outages_total + 1
            if not follows and not self.outages_uncertain:
                self._violate(f"outage {entry.id} began after {self.outages_total}")
            if lasting is not None:
                lasting.ended_ms = entry.at_ms
            self._begin_outage(OutageAccount(entry.id, entry.at_ms, entry.cause, entry.pending))
        elif lasting is not None and lasting.id == entry.id:
            lasting.ended_ms = entry.at_ms
        elif self.outages_uncertain:
            self.outages_total = max(self.outages_total, entry.id)
        else:
            self._violate(f"outage {entry.id} ended and had not begun")
        self.outages_uncertain = False

    def _begin_outage(self, outage: OutageAccount) -> None:
        self.outages_total = max(self.outages_total, outage.id)
        self.outages.append(outage)
        del self.outages[:-OUTAGES_KEPT_MAX]

    def _fold_time_pair(self, entry: TimePair) -> None:
        self.dating.add(entry)

    def _fold_conflict(self, entry: Conflict) -> None:
        self.last_at_ms = entry.at_ms
        self._stream(entry.stream, entry.seq).take_conflict(entry)

    def _fold_progress(self, entry: Progress) -> None:
        if self.uncertain:
            self.run = entry.run
        if entry.run != self.run:
            self._violate(f"progress of run {entry.run} in run {self.run}")
        if (entry.run, entry.at_ms) == self.last_progress:
            self._violate("progress told twice")
        self.last_progress = (entry.run, entry.at_ms)
        self.last_at_ms = entry.at_ms
        for stream, *totals in entry.streams:
            known = self.streams.get(stream)
            if known is None:
                if not self.uncertain:
                    self._violate(f"progress of stream {stream.hex()}, which was never opened")
            else:
                known.take_totals(Totals(*totals))
        self.durable_latency.merge(entry.durable_histogram)
        self.delivered_latency.merge(entry.delivered_histogram)
        self.pending_peak = max(self.pending_peak, entry.pending)
        if self.outage is not None:
            self.outage.peak_pending = max(self.outage.peak_pending, entry.pending)

    def _fold_quarantined(self, entry: Quarantined) -> None:
        self.last_at_ms = entry.at_ms
        self._stream(entry.stream, entry.seq).take_quarantined(entry)

    def _fold_fault(self, entry: Fault) -> None:
        self.last_at_ms = entry.at_ms
        self.faults += 1

    def _fold_elsewhere(self, entry: Elsewhere) -> None:
        self._stream(entry.stream, entry.first - 1).take_elsewhere(entry)

    def _fold_stopped(self, entry: Stopped) -> None:
        if self.uncertain:
            self.run = entry.run
        if entry.run != self.run:
            self._violate(f"run {entry.run} stopped in run {self.run}")
        self.running, self.last_at_ms = False, entry.at_ms

    def _violate(self, words: str) -> None:
        self.violations += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(words)

    # -- snapshot

    def snapshot(self) -> dict[str, Any]:
        """The state of the fold as an object for CBOR (maps, arrays, ints, text, bytes)."""
        return {
            "v": SNAPSHOT_VERSION,
            **{name: getattr(self, name) for name in _PLAIN},
            "uncertain": self.uncertain,
            "outages_uncertain": self.outages_uncertain,
            "streams_uncertain": self.streams_uncertain,
            "findings": list(self.findings),
            "last_progress": list(self.last_progress),
            "streams": [snapshot_of(one) for one in self.streams.values()],
            "names": [[name, uid] for name, uid in self._uid_of_name.items()],
            "uids": [[uid, name] for uid, name in self._name_of_uid.items()],
            "outages": [
                [one.id, one.began_ms, one.cause, one.peak_pending, one.ended_ms]
                for one in self.outages
            ],
            "recoveries": [[r.run, r.at_ms, r.torn_bytes, r.note] for r in self.recoveries],
            "dating": self.dating.snapshot(),
            "durable_latency": [list(one) for one in self.durable_latency.items()],
            "delivered_latency": [list(one) for one in self.delivered_latency.items()],
        }

    @classmethod
    def restore(cls, state: Any) -> Account:
        """The account that `snapshot` gave. Raises SnapshotMalformedError for anything else."""
        try:
            if state["v"] not in SNAPSHOT_VERSIONS_READ:
                raise SnapshotMalformedError(
                    f"snapshot of version {state['v']}, this code reads up to {SNAPSHOT_VERSION}"
                )
            return cls._restore(state)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, SnapshotMalformedError):
                raise
            raise SnapshotMalformedError(f"no snapshot of an account: {error!r}") from None

    @classmethod
    def _restore(cls, state: dict[str, Any]) -> Account:
        account = cls(state["log_id"])
        version = state["v"]
        for name in _PLAIN:
            setattr(account, name, state[name])
        account.uncertain = version > 1 and state["uncertain"]
        account.outages_uncertain = version > 1 and state["outages_uncertain"]
        account.streams_uncertain = version > 1 and state["streams_uncertain"]
        account.findings = list(state["findings"])
        run, at_ms = state["last_progress"]
        account.last_progress = (run, at_ms)
        for one in (restore_stream(stream, version=version) for stream in state["streams"]):
            account.streams[one.stream] = one
        account._uid_of_name = dict(state["names"])
        account._name_of_uid = dict(state["uids"])
        account.outages = [OutageAccount(*one) for one in state["outages"]]
        account.recoveries = [Recovery(*one) for one in state["recoveries"]]
        account.dating = Dating.restore(state["dating"])
        account.durable_latency = Histogram(map(tuple, state["durable_latency"]))
        account.delivered_latency = Histogram(map(tuple, state["delivered_latency"]))
        return account


_PLAIN = (
    "log_id",
    "next_lsn",
    "run",
    "running",
    "run_began_ms",
    "last_at_ms",
    "gateway",
    "outages_total",
    "recoveries_total",
    "pending_peak",
    "faults",
    "violations",
)

_FOLDS: dict[type, Callable[[Account, Any], None]] = {
    Lost: Account._fold_lost,
    Run: Account._fold_run,
    Session: Account._fold_session,
    Outage: Account._fold_outage,
    TimePair: Account._fold_time_pair,
    Conflict: Account._fold_conflict,
    Progress: Account._fold_progress,
    Quarantined: Account._fold_quarantined,
    Fault: Account._fold_fault,
    Elsewhere: Account._fold_elsewhere,
    Stopped: Account._fold_stopped,
    Gone: Account._fold_gone,
    Unreadable: Account._fold_unreadable,
    Delivered: Account._fold_delivered,
}
