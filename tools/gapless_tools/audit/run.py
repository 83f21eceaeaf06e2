"""One audit from end to end: read, judge, write. The command and the demo both call this."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gapless_gateway.errors import UserError
from gapless_tools.audit.books import Books, CouldNotJudgeError, read_books
from gapless_tools.audit.capture_check import CaptureReader, CaptureReading
from gapless_tools.audit.evidence import Audited, evidence_of, evidence_text, write_whole
from gapless_tools.audit.findings import Findings
from gapless_tools.audit.report import report_html
from gapless_tools.audit.verdict import (
    PASS,
    Verdict,
    judge_books,
    judge_capture,
    judge_joined,
    verdict_of,
)
from gapless_tools.capture_store import CAPTURE_NAME, CaptureStoreError, read_capture

EXIT_PASS = 0
EXIT_FAIL = 1
EXIT_USAGE = 2
EXIT_NOT_JUDGED = 3

PROGRESS_EVERY_LINES = 1000
CAPTURE_LINE_BYTES = 400  # about; for progress only

ProgressCall = Callable[[str, float], None]  # what is being read, and how much of it: 0..1


@dataclass(frozen=True, slots=True)
class Result:
    """What an audit came to, and where it was written."""

    verdict: Verdict
    evidence: dict[str, Any]  # by evidence.schema.json
    evidence_json: Path | None
    evidence_html: Path | None
    require_complete: bool = False

    @property
    def exit_status(self) -> int:
        """0 on PASS (with require_complete only on complete), else 1."""
        wanted = self.verdict.complete if self.require_complete else self.verdict.word == PASS
        return EXIT_PASS if wanted else EXIT_FAIL


def run_audit(
    state_dirs: Sequence[Path],
    capture: Path | None = None,
    out_dir: Path | None = None,
    *,
    require_complete: bool = False,
    progress: ProgressCall | None = None,
) -> Result:
    """Audit the logs of one or more gateways, against a consumer's capture if there is one.

    `capture`: the directory that `gapless capture` wrote, or its capture.jsonl. `out_dir`: where
    evidence.json and evidence.html go, each written whole or not at all; None writes nothing.
    Raises CouldNotJudgeError (exit status 3) and UserError (2).
    """
    tell = progress if progress is not None else _tell_nobody
    findings = Findings()
    books = _read_all(state_dirs, findings, tell)
    for one in books:
        judge_books(one, findings)
    judge_joined(books, findings)
    reading = None
    if capture is not None:
        reading = _read_capture(capture, books, tell)
        judge_capture(books, reading, findings)
    audited = Audited(
        books=books,
        capture=reading,
        findings=findings,
        verdict=verdict_of(books, findings),
        generated_ms=time.time_ns() // 1_000_000,
        require_complete=require_complete,
    )
    return _write(audited, out_dir)


def _tell_nobody(_stage: str, _done: float) -> None:
    return None


def _read_all(state_dirs: Sequence[Path], findings: Findings, tell: ProgressCall) -> list[Books]:
    if not state_dirs:
        raise UserError("there is nothing to audit: name the state directory of a gateway")
    books: list[Books] = []
    for state_dir in state_dirs:
        if not state_dir.is_dir():
            raise UserError(f"{state_dir} is no directory: name the state directory of a gateway")
        stage = f"log in {state_dir}"
        one = read_books(state_dir, findings, partial(tell, stage))
        twin = next((b for b in books if b.account.log_id == one.account.log_id), None)
        if twin is not None:
            raise UserError(
                f"{state_dir} and {twin.state_dir} are copies of one log; name only the newer one"
            )
        books.append(one)
    return books


def _read_capture(capture: Path, books: Sequence[Books], tell: ProgressCall) -> CaptureReading:
    path = capture / CAPTURE_NAME if capture.is_dir() else capture
    if not path.is_file():
        raise UserError(
            f"{path} is not there: name the file or folder that `gapless capture` wrote"
        )
    reader = CaptureReader(path, books)
    try:
        lines_all = max(path.stat().st_size // CAPTURE_LINE_BYTES, 1)
        for number, item in enumerate(read_capture(path), 1):
            reader.take(item)
            if number % PROGRESS_EVERY_LINES == 0:
                tell("capture", min(number / lines_all, 0.99))
    except (OSError, CaptureStoreError) as error:
        raise CouldNotJudgeError(f"{error}; run the audit as a user who can read it") from error
    tell("capture", 1.0)
    return reader.reading


def _write(audited: Audited, out_dir: Path | None) -> Result:
    evidence = evidence_of(audited)
    json_path = html_path = None
    if out_dir is not None:
        text = evidence_text(evidence)
        html = report_html(audited, evidence, text)
        try:
            out_dir.mkdir(parents=True, exist_ok=True)
            json_path, html_path = out_dir / "evidence.json", out_dir / "evidence.html"
            write_whole(json_path, text)
            write_whole(html_path, html)
        except OSError as error:
            raise UserError(
                f"{out_dir} cannot be written: {error.strerror or error}; name another with --out"
            ) from error
    return Result(audited.verdict, evidence, json_path, html_path, audited.require_complete)
