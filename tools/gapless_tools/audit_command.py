"""`gapless audit`: rebuild the account offline, judge it, and write the evidence."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from gapless_tools.audit.books import CouldNotJudgeError
from gapless_tools.audit.run import EXIT_NOT_JUDGED, ProgressCall, Result, run_audit
from gapless_tools.audit.summary import summary_lines

PROGRESS_AFTER_S = 1.0
PROGRESS_EVERY_S = 0.2
PROGRESS_LINE_EVERY_S = 5.0


@click.command(
    name="audit",
    epilog="Exit status: 0 PASS, 1 FAIL (with --require-complete also when anything was lost or "
    "is on its way), 2 usage, 3 could not be judged.",
)
@click.argument(
    "state_dirs",
    metavar="DIR...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
)
@click.option(
    "--capture",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What `gapless capture` kept (its folder or its capture.jsonl); compared with the log.",
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write evidence.json and evidence.html into this folder.",
)
@click.option(
    "--require-complete",
    is_flag=True,
    help="Exit 0 only if every number that was produced has been delivered.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the evidence as JSON.")
def command(
    state_dirs: tuple[Path, ...],
    capture: Path | None,
    out: Path | None,
    require_complete: bool,
    as_json: bool,
) -> None:
    """Account for every sequence number in the state directories DIR, and judge.

    Reads only: works on a copy, and beside a running gateway. Several directories are joined: what
    one gateway's log says another one took over has to be in that one's log.

    \b
    Examples:
      gapless audit /var/lib/gapless
      gapless audit /var/lib/gapless --capture capture/ --out report/
      gapless audit /var/lib/gapless --require-complete --json | jq .verdict
    """
    try:
        with _progress() as tell:
            result = run_audit(
                state_dirs, capture, out, require_complete=require_complete, progress=tell
            )
    except CouldNotJudgeError as error:
        click.echo(f"gapless: could not be judged: {error}", err=True)
        sys.exit(EXIT_NOT_JUDGED)
    _print(result, as_json)
    sys.exit(result.exit_status)


def _print(result: Result, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result.evidence, indent=2, ensure_ascii=False))
        return
    for line in summary_lines(result.evidence):
        click.echo(line)
    for path in (result.evidence_json, result.evidence_html):
        if path is not None:
            click.echo(f"written: {path}")


@contextmanager
def _progress() -> Iterator[ProgressCall]:
    """Tell on stderr how far it is, once that takes longer than a moment."""
    live = sys.stderr.isatty()
    teller = _Teller(live, time.monotonic)
    try:
        yield teller.tell
    finally:
        teller.end()


class _Teller:
    """A line that overwrites itself on a terminal; elsewhere a new line now and then."""

    def __init__(self, live: bool, monotonic_s: Callable[[], float]) -> None:
        self._live = live
        self._monotonic_s = monotonic_s
        self._due_s = monotonic_s() + PROGRESS_AFTER_S
        self._shown = False

    def tell(self, what: str, done: float) -> None:
        """`done` (0..1) of `what` is read."""
        now_s = self._monotonic_s()
        if now_s < self._due_s:
            return
        self._due_s = now_s + (PROGRESS_EVERY_S if self._live else PROGRESS_LINE_EVERY_S)
        self._shown = True
        line = f"reading the {what}: {done:4.0%}"
        click.echo(f"\r\x1b[K{line}" if self._live else line, err=True, nl=not self._live)

    def end(self) -> None:
        """Clear the line."""
        if self._live and self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)
