"""The gateway as one process: wires the parts, starts them in order, stops them in order.

Start: check the ports, open the log (which recovers it), Run entry, web server, then the tasks.
Stop (SIGTERM, SIGINT): commit and acknowledge what has come in, close the ports, let the publisher
take its last acknowledgements, Stopped entry, cursor, and leave with status 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import platform
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import version
from typing import Any

from gapless_gateway.account.declaring import declarations
from gapless_gateway.account_view import AccountCollector, AccountView
from gapless_gateway.committer import Batch, Committer
from gapless_gateway.config import Config
from gapless_gateway.ingest import Clock, Ingest
from gapless_gateway.intake import Intake
from gapless_gateway.metrics import Metrics
from gapless_gateway.ports import Port
from gapless_gateway.publisher.message import moment
from gapless_gateway.publisher.metrics import PublisherMetrics
from gapless_gateway.publisher.publisher import build as build_publisher
from gapless_gateway.serial_line import check_is_serial
from gapless_gateway.session import PortSession
from gapless_gateway.wal.disk import Disk
from gapless_gateway.wal.entries import GONE_CORRUPTION, Gone, Record, Run, Stopped
from gapless_gateway.wal.errors import WalError, WalFull
from gapless_gateway.wal.log import Log
from gapless_gateway.web import WebServer

# How many numbers of runs are passed over where Run entries may be gone from the log.
RUNS_SKIPPED = 1000
RUNTIME_FILE = "runtime.json"

log = logging.getLogger("gapless.daemon")


class Daemon:
    """One run of a gateway. Make it, then await `run()` once."""

    def __init__(self, config: Config, *, disk: Disk | None = None) -> None:
        """`disk`: a stand-in for tests."""
        self._config = config
        self._disk = disk
        self._stop = asyncio.Event()
        self._publisher_failed: str | None = None
        self.metrics = Metrics()
        self.web_address: str | None = None  # while it serves
        self.ready = asyncio.Event()  # every task has been started

    def stop(self) -> None:
        """Ask `run()` to finish cleanly."""
        self._stop.set()

    async def run(self) -> None:
        """Run until `stop()`, SIGTERM or SIGINT. Raises UserError for what waiting cannot heal."""
        for port in self._config.ports:
            check_is_serial(port.path)
        with self._open_log() as wal, _stopping_on_signals(self.stop):
            self._wal = wal
            self._clock = Clock()
            # An address that is taken is found out before the log says that a run has begun.
            async with self._web():
                self._begin_run()
                self._wire()
                with self._runtime_file():
                    await self._serve()

    @contextlib.contextmanager
    def _open_log(self) -> Iterator[Log]:
        wal = Log.open(
            self._config.gateway.state_dir,
            segment_bytes_max=self._config.wal.segment_bytes_max,
            quota_bytes=self._config.wal.quota_bytes,
            free_bytes_min=self._config.wal.free_bytes_min,
            disk=self._disk,
        )
        try:
            yield wal
        finally:
            wal.close()

    def _begin_run(self) -> None:
        """Make the Run entry durable: nobody is answered, and nothing sent, without its number."""
        wal, recovered = self._wal, self._wal.recovered
        # Runs that the log has lost may have sent: their numbers are part of what was sent.
        skipped = RUNS_SKIPPED if wal.account.uncertain or recovered.copied else 0
        if recovered.copied:  # what was written since the copy was made is in no file here
            wal.append(Gone(wal.next_lsn, GONE_CORRUPTION, ()))
        self._run = wal.account.run + 1 + skipped
        wal.append(
            Run(
                at_ms=self._clock.utc_ms(),
                run=self._run,
                gateway=self._config.gateway.name,
                version=version("gapless"),
                runtime=f"{platform.python_implementation()} {platform.python_version()}",
                log_id=wal.log_id,
                previous_clean=recovered.previous_clean,
                torn_bytes=recovered.torn_bytes,
                note="; ".join(recovered.notes),
            )
        )
        self._declare_what_is_gone()
        self._commit_first_entries()
        wal.settle_in()
        if not recovered.previous_clean:
            log.warning(
                "the run before did not end cleanly; its log was recovered",
                extra={"torn_bytes": recovered.torn_bytes},
            )
        for note in recovered.notes:
            self.metrics.repairs.inc()
            log.warning(note)

    def _declare_what_is_gone(self) -> None:
        """Before any board is greeted: one that still holds what is gone here is asked for it."""
        wal = self._wal
        for lsn, gone in wal.recovered.gone:
            for entry in declarations(
                gone,
                lsn,
                wal.account.streams,
                sent_through_lsn=wal.cursor.send_mark_lsn,
                at_ms=self._clock.utc_ms(),
            ):
                wal.append(entry)

    def _commit_first_entries(self) -> None:
        """Commit before anything else runs; on a full disk the reserve pays for it."""
        try:
            self._wal.commit()
        except WalFull:
            if not self._wal.space.release_reserve():
                raise
            self._wal.commit()
        self._wal.apply_committed()

    def _wire(self) -> None:
        config, wal = self._config, self._wal
        self._committer = Committer(wal, linger_ms=config.wal.commit_linger_ms)
        self._publisher_metrics = PublisherMetrics()
        self._publisher = build_publisher(
            config, wal, self._committer.append, self._publisher_metrics
        )
        ingest = Ingest(
            account=wal.account,
            committer=self._committer,
            metrics=self.metrics,
            clock=self._clock,
            random_bytes=os.urandom,
            outage_id=lambda: self._publisher.outages.current_id,
            credit_window=lambda: self._intake.window_seqs,
        )
        self._intake = Intake(
            wal,
            self._committer,
            on_full=config.wal.on_full,
            boards=len(config.ports),
            outage_id=ingest.outage_id,
            clock_ms=self._clock.utc_ms,
        )
        self._sessions = [PortSession(port.path, ingest) for port in config.ports]
        self._ports = [
            Port(settings, session, self.metrics)
            for settings, session in zip(config.ports, self._sessions, strict=True)
        ]
        self._committer.call_on_durable(self._on_durable)
        self._committer.call_on_failed(self._on_ingest_stopped)
        self._intake.call_on_changed(self._on_credit_changed)
        self._intake.call_on_dropped(
            lambda: self._publisher.notify_durable(self._committer.applied_lsn)
        )
        self._view = AccountView(
            config.gateway.name,
            ingest,
            self._sessions,
            publisher=self._publisher_metrics,
            committer=self._committer,
            intake=self._intake,
        )
        self.metrics.registry.register(AccountCollector(self._view))

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            committing = group.create_task(self._committer.run(), name="committer")
            publishing_ = group.create_task(self._run_publisher(), name="publisher")
            watching = group.create_task(self._intake.run(), name="intake")
            ports = [
                group.create_task(port.run(), name=f"port {port.path}") for port in self._ports
            ]
            self.ready.set()
            log.info("gateway runs", extra={"run": self._run, "web": self.web_address})
            if not self._config.broker.tls.enabled:
                log.warning("TLS is off: all on the way to the broker can read and change the data")
            await self._stop.wait()
            watching.cancel()
            await self._finish(committing, publishing_, ports)

    async def _finish(
        self,
        committing: asyncio.Task[None],
        publishing_: asyncio.Task[None],
        ports: list[asyncio.Task[None]],
    ) -> None:
        log.info("gateway stops")
        self._committer.finishing()
        await self._committer.flush()  # what has come in is acknowledged before its port closes
        for port in ports:
            port.cancel()
        await asyncio.gather(*ports, return_exceptions=True)
        self._publisher.stop()
        await publishing_
        self._committer.append(Stopped(self._clock.utc_ms(), self._run))
        self._committer.finish()
        await committing
        log.info("gateway stopped", extra={"run": self._run})

    async def _run_publisher(self) -> None:
        """Run the publisher; if the log fails it, go on without: boards still find us there."""
        try:
            await self._publisher.run()
        except* WalError as group:
            self._publisher_failed = str(group.exceptions[0])
            log.critical("the publisher has stopped", extra={"reason": self._publisher_failed})

    # -- after every commit

    def _on_durable(self, batch: Batch) -> None:
        """First the boards are acknowledged, then the publisher gets to know of the batch."""
        for session in self._sessions:
            session.on_durable()
        now_ms = self._clock.utc_ms()
        for _, entry in batch:
            if type(entry) is Record and (taken_ms := moment(entry)[0]) is not None:
                self._publisher_metrics.observe_durable(now_ms - taken_ms)
        if batch:
            self._publisher.notify_durable(batch[-1][0])
        for note in self._wal.upkeep.take_notes():
            self.metrics.repairs.inc()
            log.warning(note)

    def _on_credit_changed(self) -> None:
        for session in self._sessions:
            session.on_credit_changed()

    def _on_ingest_stopped(self, words: str) -> None:
        for session in self._sessions:
            session.on_ingest_stopped(words)

    # -- the web

    @contextlib.asynccontextmanager
    async def _web(self) -> AsyncIterator[None]:
        settings = self._config.web
        server = WebServer(
            settings.host,
            settings.port,
            health=self.health,
            account=self.account,
            metrics=self.metrics.exposition,
        )
        async with server.serving() as self.web_address:
            yield
        self.web_address = None

    def account(self) -> dict[str, Any]:
        """Return what `/account` shows."""
        return self._view.as_json()

    def health(self) -> dict[str, Any]:
        """Return what `/healthz` shows: failed when records can no longer be taken or passed on."""
        reason = self._committer.failed or self._publisher_failed
        ingest = "full" if self._intake.full else "ok"
        return {
            "status": "ok" if reason is None else "failed",
            "reason": reason,
            "ingest": ingest if self._committer.failed is None else "failed",
            "gateway": self._config.gateway.name,
            "run": self._run,
            "broker": self._publisher_metrics.state,
            "ports_open": sum(session.is_open for session in self._sessions),
            "ports": len(self._sessions),
        }

    @contextlib.contextmanager
    def _runtime_file(self) -> Iterator[None]:
        """Tell tools on this machine where we are; replaced whole, never seen half written."""
        facts = {
            "pid": os.getpid(),
            "web": self.web_address,
            "gateway": self._config.gateway.name,
            "run": self._run,
            "log_id": self._wal.log_id.hex(),
        }
        path = self._config.gateway.state_dir / RUNTIME_FILE
        fresh = path.with_suffix(".tmp")
        fresh.write_text(json.dumps(facts) + "\n", encoding="utf-8")
        fresh.replace(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _stopping_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM and SIGINT within the block, if the loop runs in the main thread."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        with contextlib.suppress(ValueError, RuntimeError):
            loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            with contextlib.suppress(ValueError, RuntimeError):
                loop.remove_signal_handler(number)
