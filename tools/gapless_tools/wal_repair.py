"""`gapless wal repair`: make a log whole again, and decide about what is quarantined."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from gapless_gateway.account.declaring import declarations
from gapless_gateway.account.intervals import IntervalSet
from gapless_gateway.errors import UserError
from gapless_gateway.wal.disk import OsDisk
from gapless_gateway.wal.entries import Run, Stopped
from gapless_gateway.wal.log import Log
from gapless_gateway.wal.paths import StatePaths
from gapless_gateway.wal.quarantine import (
    OwnersDecisions,
    QuarantinedRange,
    Seqs,
    quarantined_ranges,
)

ALL = "all"
EXIT_NOT_DONE = 1


@dataclass
class Report:
    """What was found and done."""

    log_id: str
    repairs: list[str] = field(default_factory=list)
    requeued: int = 0
    discarded: int = 0
    without_bytes: list[str] = field(default_factory=list)
    quarantined: list[QuarantinedRange] = field(default_factory=list)


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--requeue", multiple=True, metavar="WHAT",
    help="Send what is quarantined again: all, a DEVICE, DEVICE:SEQ or DEVICE:FIRST-LAST.",
)  # fmt: skip
@click.option(
    "--discard", multiple=True, metavar="WHAT",
    help="Give up what is quarantined: it is declared lost. WHAT as above.",
)  # fmt: skip
@click.option(
    "--from", "copies", multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An intact copy of a segment file, to requeue from.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a machine to read.")
def repair(
    directory: Path,
    requeue: Sequence[str],
    discard: Sequence[str],
    copies: Sequence[Path],
    as_json: bool,
) -> None:
    """Repair the log in DIRECTORY (a state directory), and show what is quarantined in it.

    Every damage is repaired as the gateway does when it meets it: a copy goes to quarantine/, what
    can be read stays, and what is gone is accounted for number by number. Nothing is deleted. The
    gateway must not run meanwhile. Exit status 0: whole now; 1: some of what was to be sent again
    is in no file; 2: not a log, or in use.

    \b
    Examples:
      gapless wal repair /var/lib/gapless
      gapless wal repair /var/lib/gapless --requeue all
      gapless wal repair /var/lib/gapless --requeue pump-1:1200-1250 --from 0000000000000c01.wal
      gapless wal repair /var/lib/gapless --discard pump-1:1204
    """
    if not (directory / "wal").is_dir():
        raise UserError(f"{directory} holds no log; name a state directory")
    log = Log.open(directory)
    try:
        report = Repairing(log, StatePaths(directory)).run(requeue, discard, copies)
    finally:
        log.close()
    _print(report, as_json)
    if report.without_bytes:
        raise SystemExit(EXIT_NOT_DONE)


class Repairing:
    """One run of the command on an open log."""

    def __init__(self, log: Log, paths: StatePaths) -> None:
        self._log = log
        self._decisions = OwnersDecisions(log, OsDisk(), paths, _now_ms())
        self._report = Report(log.log_id.hex(), repairs=list(log.recovered.notes))

    def run(self, requeue: Sequence[str], discard: Sequence[str], copies: Sequence[Path]) -> Report:
        """Repair, then decide. Writes nothing to a whole log about which nothing is decided."""
        log, report = self._log, self._report
        gone = [*log.recovered.gone, *log.upkeep.repair_all(_tell)]
        report.repairs += log.upkeep.notes
        declared = [
            entry
            for lsn, one in gone
            for entry in declarations(
                one,
                lsn,
                log.account.streams,
                sent_through_lsn=log.cursor.send_mark_lsn,
                at_ms=_now_ms(),
            )
        ]
        if declared or requeue or discard or report.repairs:
            self._begin_run()
            for entry in declared:
                log.append(entry)
            self._commit()
            try:
                self._decide(requeue, discard, copies)
            finally:  # a name that means nothing ends the run as cleanly as any
                log.append(Stopped(_now_ms(), log.account.run))
                self._commit()
            self._decisions.forget_kept()
        report.quarantined = quarantined_ranges(log)
        return report

    def _begin_run(self) -> None:
        log = self._log
        log.append(
            Run(
                at_ms=_now_ms(),
                run=log.account.run + 1,
                gateway=log.account.gateway,
                version=version("gapless"),
                runtime=f"{platform.python_implementation()} {platform.python_version()}",
                log_id=log.log_id,
                previous_clean=log.recovered.previous_clean,
                torn_bytes=log.recovered.torn_bytes,
                note="; ".join(["gapless wal repair", *self._report.repairs]),
            )
        )

    def _commit(self) -> None:
        self._log.commit()
        self._log.apply_committed()

    def _decide(
        self, requeue: Sequence[str], discard: Sequence[str], copies: Sequence[Path]
    ) -> None:
        quarantined = quarantined_ranges(self._log)
        again, given_up = _chosen(requeue, quarantined), _chosen(discard, quarantined)
        for stream, seqs in again.items():
            both = seqs.intersection(given_up.get(stream, IntervalSet()))
            if both:
                raise UserError(
                    f"seq {both.ranges()[0][0]} is named by both --requeue and --discard; "
                    "name it once"
                )
        missing = self._decisions.requeue(again, copies)
        self._decisions.discard(given_up)
        self._commit()
        self._report.requeued = _count(again) - _count(missing)
        self._report.discarded = _count(given_up)
        for stream, seqs in missing.items():
            device = self._log.account.streams[stream].device
            self._report.without_bytes += [_words(device, *one) for one in seqs]


def _chosen(names: Sequence[str], quarantined: list[QuarantinedRange]) -> Seqs:
    """The quarantined seqs that are meant. Raises UserError for a name that means none."""
    chosen: Seqs = {}
    for name in names:
        device, _, numbers = name.partition(":")
        first, last = _numbers(name, numbers) if numbers else (1, 1 << 30)
        found = False
        for one in quarantined:
            seqs = IntervalSet([(one.first, one.last)]).within(first, last)
            if device in (ALL, one.device) and seqs:
                found = True
                chosen[one.stream] = chosen.get(one.stream, IntervalSet()).union(seqs)
        if not found and name != ALL:
            raise UserError(
                f"nothing that is quarantined is called {name}; "
                "`gapless wal repair DIRECTORY` lists what is"
            )
    return chosen


def _numbers(name: str, numbers: str) -> tuple[int, int]:
    first, dash, last = numbers.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise UserError(f"{name} is not of the form DEVICE:SEQ or DEVICE:FIRST-LAST")
    return int(first), int(last) if dash else int(first)


def _count(seqs: Seqs) -> int:
    return sum(one.count() for one in seqs.values())


def _words(device: str, first: int, last: int) -> str:
    return f"{device}:{first}" if first == last else f"{device}:{first}-{last}"


def _tell(done: int, whole: int) -> None:
    click.echo(f"read {done} of {whole} segments", err=True)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _print(report: Report, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_as_map(report), indent=2))
        return
    for note in report.repairs:
        click.echo(f"repaired: {note}")
    if report.requeued:
        click.echo(f"{report.requeued} records are sent again when the gateway runs")
    if report.discarded:
        click.echo(f"{report.discarded} records are given up and declared lost")
    for words in report.without_bytes:
        click.echo(f"NOT THERE {words}: no file holds its bytes; name a copy with --from")
    for one in report.quarantined:
        why = "refused by the broker"
        if one.unreadable:
            why = "unreadable" + (", perhaps delivered" if one.may_be_delivered else "")
        click.echo(f"quarantined {_words(one.device, one.first, one.last)}  {why}")
    left = sum(one.last - one.first + 1 for one in report.quarantined)
    click.echo(f"whole: log {report.log_id}, {left} records quarantined")


def _as_map(report: Report) -> dict[str, Any]:
    return {
        "log_id": report.log_id,
        "repairs": report.repairs,
        "requeued": report.requeued,
        "discarded": report.discarded,
        "without_bytes": report.without_bytes,
        "quarantined": [
            {
                "device": one.device,
                "stream": one.stream.hex(),
                "first": one.first,
                "last": one.last,
                "cause": "unreadable" if one.unreadable else "refused",
                "may_be_delivered": one.may_be_delivered,
            }
            for one in report.quarantined
        ],
    }
