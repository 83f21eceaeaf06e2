"""Boards whose every byte was recorded beforehand, and the real ingest that these bytes go to.

The frames are those of the real sender. It runs once, before anything is timed, against a
receiver that answers as the gateway will; a board has a processor of its own, so its work must
not be in a figure of the gateway.

A board sends a share of records, and the next one as soon as that is acknowledged. Half of all
shares make up a commit on average: they are synced while the others are read.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from bench.disks import BenchDisk
from gapless_gateway.committer import Batch, Committer
from gapless_gateway.ingest import Clock, Ingest
from gapless_gateway.intake import CREDIT_WINDOW_SEQS
from gapless_gateway.metrics import Metrics
from gapless_gateway.ports import READ_BYTES
from gapless_gateway.session import PortSession
from gapless_gateway.wal.entries import Run
from gapless_gateway.wal.log import Log
from gapless_link import cbor
from gapless_link.receiver import HelloReceived, Receiver, Started
from gapless_link.sender import WELCOMED, Identity, Sender

# What a board may have under way is 256 seqs and 16 frames.
SHARE_RECORDS = 128
STEP_MS = 5
BEGAN_MS = 600_000  # of the boards' ticks and of the gateway's monotonic clock alike
SAMPLED_MS = 100_000  # the ticks of the first record: the boards drain what they held
UTC_MS = 1_700_000_000_000  # of the gateway, when its monotonic clock says 0


def same_bytes(count: int) -> bytes:
    """Stand in for random bytes: so a session has the same id here as in the recording."""
    return b"\x5a" * count


def record_of(seq: int, ticks_ms: int) -> bytes:
    """Return a sample as the firmware makes one: boot, wraps, ticks, kind, values."""
    buffer = bytearray(64)
    value = [1, 0, ticks_ms, 0, {"temperature_mdegC": 21_500 + seq % 100}]
    return bytes(buffer[: cbor.put_value(buffer, 0, value)])


@dataclass
class Recording:
    """The bytes of one board, in order."""

    device: str
    stream: bytes
    hello: bytes = b""
    start: bytes = b""
    shares: list[bytes] = field(default_factory=list)


class _Outbox:
    """What the sender asks of an outbox, for records that never get lost."""

    def __init__(self) -> None:
        self.next_seq = 1
        self._records: dict[int, bytes] = {}

    def add(self, data: bytes) -> None:
        self._records[self.next_seq] = data
        self.next_seq += 1

    def find(self, seq: int) -> int:
        return max(seq, self.next_seq - len(self._records)) if seq < self.next_seq else 0

    def size(self, seq: int) -> int:
        return len(self._records.get(seq, b""))

    def read_into(self, seq: int, buffer: bytearray, at: int) -> int:
        data = self._records[seq]
        buffer[at : at + len(data)] = data
        return len(data)

    def free_through(self, seq: int) -> None:
        for one in [one for one in self._records if one <= seq]:
            del self._records[one]

    def held(self) -> list[tuple[int, int]]:
        first = self.next_seq - len(self._records)
        return [(first, self.next_seq - 1)] if self._records else []


class _Recorder:
    """A board's real sender, and a receiver in the place of the gateway."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._outbox = _Outbox()
        uid = recording.device.encode()
        self._sender = Sender(
            Identity(recording.device, uid, stream=recording.stream, firmware="bench"), self._outbox
        )
        self._receiver = Receiver(same_bytes)
        self._now_ms = BEGAN_MS

    def link(self) -> None:
        self.recording.hello = self._send()
        self._receive(self.recording.hello)
        self._answer()
        self.recording.start = self._send()
        self._receive(self.recording.start)
        self._answer()

    def share(self, step: int) -> None:
        """Send a share in this step; it is durable before the step after the next."""
        self._now_ms = BEGAN_MS + step * STEP_MS
        for seq in range(self._outbox.next_seq, self._outbox.next_seq + SHARE_RECORDS):
            self._outbox.add(record_of(seq, SAMPLED_MS + seq))
        data = self._send()
        self.recording.shares.append(data)
        self._receive(data)
        durable = self._outbox.next_seq - 1
        self._receiver.acknowledge(durable, durable + CREDIT_WINDOW_SEQS)
        self._now_ms += STEP_MS
        self._answer()

    def told_durable(self, answers: bytes) -> int:
        """Read what a gateway answered to the whole recording; returns the last durable seq."""
        self._send()  # the HELLO, whose nonce the answer echoes
        self._outbox.next_seq = 1 + SHARE_RECORDS * len(self.recording.shares)
        self._sender.receive(answers, self._now_ms)
        self._handle_events()
        return int(self._sender.durable)

    def _send(self) -> bytes:
        data = bytearray()
        while len(frame := self._sender.data_to_send(self._now_ms)):
            data += frame
        return bytes(data)

    def _receive(self, data: bytes) -> None:
        self._receiver.receive(data, self._now_ms)
        while (event := self._receiver.next_event()) is not None:
            if isinstance(event, HelloReceived):
                self._receiver.welcome(same_bytes(8), self.recording.stream, 0, CREDIT_WINDOW_SEQS)
            elif isinstance(event, Started):
                self._receiver.begin(1, [])

    def _answer(self) -> None:
        self._sender.receive(self._receiver.data_to_send(self._now_ms), self._now_ms)
        self._handle_events()

    def _handle_events(self) -> None:
        while (event := self._sender.next_event()) is not None:
            if event == WELCOMED:
                self._sender.confirm()


def record_boards(records_per_step: int, steps: int) -> list[Recording]:
    """Record boards that send `records_per_step` in each of `steps` steps, in turns by halves."""
    half = records_per_step // SHARE_RECORDS
    recordings = []
    for number in range(2 * half):
        recorder = _Recorder(Recording(f"bench-{number + 1}", (number + 1).to_bytes(4, "big")))
        recorder.link()
        for step in range(number // half, steps, 2):
            recorder.share(step)
        recordings.append(recorder.recording)
    return recordings


class _StepClock(Clock):
    """The gateway's clocks, at the step that the boards are in."""

    def __init__(self) -> None:
        super().__init__(lambda: True)
        self.now_ms = BEGAN_MS

    def monotonic_ms(self) -> int:
        return self.now_ms

    def utc_ms(self) -> int:
        return UTC_MS + self.now_ms


@dataclass
class Played:
    """What came of playing recordings into the ingest."""

    records: int  # that became durable while the watch ran
    elapsed_s: float  # on that watch
    batches: int  # commits in that time
    written: list[bytes]  # all that the log wrote meanwhile


class Gateway:
    """The ingest of the daemon, from the bytes of its ports to the log, with these boards."""

    def __init__(self, state_dir: Path, disk: BenchDisk, recordings: list[Recording]) -> None:
        self._disk = disk
        self._log = Log.open(state_dir, disk=disk, random_bytes=same_bytes)
        self._log.append(Run(UTC_MS, 1, "bench", "0", "bench", self._log.log_id, True, 0, ""))
        self._log.commit()
        self._log.apply_committed()
        self._clock = _StepClock()
        self._committer = Committer(self._log)
        ingest = Ingest(
            account=self._log.account,
            committer=self._committer,
            metrics=Metrics(),
            clock=self._clock,
            random_bytes=same_bytes,
            outage_id=lambda: 0,
            credit_window=lambda: CREDIT_WINDOW_SEQS,
        )
        self._recordings = recordings
        self._sessions = [PortSession(one.device, ingest) for one in recordings]
        self._answers = [bytearray() for _ in recordings]
        self._sent = [0] * len(recordings)  # shares, of each board
        self._ready: deque[int] = deque()  # boards whose next share is on the line
        self._all_durable = asyncio.Event()
        self._watch: list[tuple[float, int, int, int]] = []  # seconds, records, commits, writes

    async def play(self) -> Played:
        """Play all of the recordings; returns once everything is durable and acknowledged."""
        committing = asyncio.create_task(self._committer.run())
        try:
            await self._link()
            self._committer.call_on_durable(self._on_durable)
            gc.collect()
            self._ready.extend(range(len(self._recordings)))
            asyncio.get_running_loop().call_soon(self._read_next)
            await self._all_durable.wait()
        finally:
            self._committer.finish()
            await committing
            self._log.close()
        self._check()
        # Neither the start, nor the end, where fewer boards still have something to send.
        began, ended = self._watch[len(self._watch) // 10], self._watch[len(self._watch) * 9 // 10]
        return Played(
            records=ended[1] - began[1],
            elapsed_s=ended[0] - began[0],
            batches=ended[2] - began[2],
            written=self._disk.written[began[3] : ended[3]],
        )

    async def _link(self) -> None:
        for session, recording, answers in zip(
            self._sessions, self._recordings, self._answers, strict=True
        ):
            session.port_opened(answers.extend)
            session.port_received(recording.hello)
            await self._committer.flush()
            session.port_received(recording.start)
            while session.linked is None:
                await self._committer.flush()
        self._committer.call_on_durable(self._acknowledge)
        await self._committer.flush()

    def _acknowledge(self, _: Batch) -> None:
        """As the daemon does it, after every commit."""
        for at, session in enumerate(self._sessions):
            self._clock.now_ms = self._share_ms(at, self._sent[at] - 1) + STEP_MS
            session.on_durable()

    def _share_ms(self, at: int, share: int) -> int:
        """When the recorded board sends a share: here each board has a time of its own."""
        return BEGAN_MS + STEP_MS * (2 * share + (2 * at) // len(self._recordings))

    def _read_next(self) -> None:
        """Read what one board sends, as a turn of the event loop does."""
        at = self._ready.popleft()
        self._clock.now_ms = self._share_ms(at, self._sent[at])
        data = self._recordings[at].shares[self._sent[at]]
        self._sent[at] += 1
        for begin in range(0, len(data), READ_BYTES):
            self._sessions[at].port_received(data[begin : begin + READ_BYTES])
        if self._ready:
            asyncio.get_running_loop().call_soon(self._read_next)

    def _on_durable(self, batch: Batch) -> None:
        """Those whose share is durable, and who were told so, send the next one."""
        now_s, durable, were_ready, all_sent = time.perf_counter(), 0, bool(self._ready), True
        for at, recording in enumerate(self._recordings):
            durable_here = self._log.account.streams[recording.stream].durable
            durable += durable_here
            if self._sent[at] < len(recording.shares):
                all_sent = False
                if durable_here == SHARE_RECORDS * self._sent[at] and at not in self._ready:
                    self._ready.append(at)
        self._watch.append((now_s, durable, self._committer.commits, len(self._disk.written)))
        if self._ready and not were_ready:
            asyncio.get_running_loop().call_soon(self._read_next)
        if all_sent and durable == SHARE_RECORDS * sum(self._sent):
            self._all_durable.set()

    def _check(self) -> None:
        """Every board was told that all it sent is durable; nothing was refused."""
        for session, recording, answers in zip(
            self._sessions, self._recordings, self._answers, strict=True
        ):
            sent = SHARE_RECORDS * len(recording.shares)
            faults = [name for name in session.counters if name.startswith("fault")]
            account = self._log.account.streams[recording.stream]
            acked = _Recorder(recording).told_durable(bytes(answers))
            if faults or account.durable != sent or acked != sent:
                raise AssertionError(f"{recording.device}: {sent} sent, {acked} acked, {faults}")
