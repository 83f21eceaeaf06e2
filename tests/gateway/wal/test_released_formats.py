"""State directories that released versions wrote are opened, judged and gone on with by this one.

They lie in tests/fixtures/wal/VERSION/NAME/, beside the script that writes them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gapless_gateway.account.stream_account import StreamAccount
from gapless_gateway.wal.entries import CLASSES, Conflict, Record, Run, Session, Stopped
from gapless_gateway.wal.ledger_compaction import LedgerLimits
from gapless_gateway.wal.log import Log
from gapless_gateway.wal.reader import Entry, read_books, read_directory
from gapless_tools.audit.run import run_audit
from gapless_tools.wal_command import command

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixtures" / "wal"
SCRIPT = FIXTURES / "write_state_directories.py"
DIRECTORIES = sorted(path.parent for path in FIXTURES.glob("*/*/expected.json"))
LATER_MS = 1_767_300_000_000

each_directory = pytest.mark.parametrize(
    "directory", DIRECTORIES, ids=[str(path.relative_to(FIXTURES)) for path in DIRECTORIES]
)


def expected_of(directory: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((directory / "expected.json").read_text("utf-8"))
    return expected


def copy_of(directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(directory / "state", tmp_path / "state"))


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def plain_entry(lsn: int, entry: Any) -> list[Any]:
    fields = {name: plain(value) for name, value in asdict(entry).items()}
    return [lsn, type(entry).__name__, fields]


def everything(path: Path) -> dict[str, tuple[int, bytes] | None]:
    """Every name under `path`; of the files, when they were written and what they hold."""
    return {
        str(one.relative_to(path)): (one.stat().st_mtime_ns, one.read_bytes())
        if one.is_file()
        else None
        for one in path.rglob("*")
    }


def released_versions(changelog: str) -> list[str]:
    """The versions that have a heading which does not say that they are unreleased."""
    headings = re.findall(r"^## (\d+\.\d+\.\d+)(.*)$", changelog, re.MULTILINE)
    return [version for version, rest in headings if "unreleased" not in rest.lower()]


def test_every_released_version_left_its_directories_here() -> None:
    released = released_versions((ROOT / "CHANGELOG.md").read_text("utf-8"))
    written = {path.parent.name for path in DIRECTORIES}
    missing = [version for version in released if version not in written]
    assert not missing, f"run {SCRIPT} under version {missing} and keep what it writes"
    assert DIRECTORIES


def test_a_heading_without_unreleased_is_a_release() -> None:
    text = "# Changelog\n\n## 0.3.0, unreleased\n\n## 0.2.0, 2026-03-01\n\n## 0.1.0\n\n### 9.9.9\n"
    assert released_versions(text) == ["0.2.0", "0.1.0"]


@pytest.mark.parametrize("version", sorted({path.parent.name for path in DIRECTORIES}))
def test_the_directories_of_a_version_hold_all_that_a_log_can_hold(version: str) -> None:
    kinds = {
        kind
        for directory in DIRECTORIES
        if directory.parent.name == version
        for _, kind, _ in expected_of(directory)["entries"]
    }
    # A later kind is not in what an earlier version wrote.
    known = CLASSES[:12] if version == "0.1.0" else CLASSES
    assert kinds == {cls.__name__ for cls in known}
    wanted = [expected_of(FIXTURES / version / name) for name in ("clean", "torn", "backlog")]
    clean, torn, backlog = wanted
    assert clean["retired"] >= 2
    assert clean["previous_clean"]
    assert torn["torn_bytes"] > 0
    assert not torn["previous_clean"]
    assert sum(s["balance"]["pending_gateway"] for s in backlog["streams"].values()) > 100


@each_directory
def test_it_opens_with_what_the_version_that_wrote_it_read(directory: Path, tmp_path: Path) -> None:
    expected = expected_of(directory)
    log = Log.open(copy_of(directory, tmp_path))
    cursor = log.cursor
    assert log.log_id.hex() == expected["log_id"]
    assert (log.first_lsn, log.next_lsn) == (expected["first_lsn"], expected["next_lsn"])
    assert log.recovered.torn_bytes == expected["torn_bytes"]
    assert log.recovered.previous_clean == expected["previous_clean"]
    assert not log.recovered.cursor_lost
    assert log.recovered.quarantined == []
    assert {
        "resume_lsn": cursor.resume_lsn,
        "send_mark_lsn": cursor.send_mark_lsn,
        "delivered_through": {s.hex(): to for s, to in cursor.delivered_through.items()},
    } == expected["cursor"]
    found = [plain_entry(*one) for one in log.read(1, 100_000)]
    assert found == expected["entries"]
    assert log.account.run == expected["run"]
    outages = [[one.id, one.began_ms, one.ended_ms] for one in log.account.outages]
    assert outages == expected["outages"]
    streams = {one.stream.hex(): plain_stream(one) for one in log.account.streams.values()}
    assert streams == expected["streams"]
    log.close()


def plain_stream(one: StreamAccount) -> dict[str, Any]:
    names = ("device", "base", "durable", "claimed", "delivered_through")
    more = ("closed", "conflicts", "violations")
    return {
        **{name: getattr(one, name) for name in names + more},
        "lost": [[first, last, *verdict] for first, last, verdict in one.lost],
        "balance": asdict(one.balance()),
    }


@each_directory
def test_it_is_whole_and_audited_with_the_same_verdict_and_untouched_by_that(
    directory: Path,
) -> None:
    state_dir, expected = directory / "state", expected_of(directory)
    before = everything(directory)
    result = CliRunner().invoke(command, ["verify", str(state_dir)])
    assert (result.exit_code, result.output.splitlines()[-1][:6]) == (0, "whole:")
    assert ("torn tail" in result.output) == bool(expected["torn_bytes"])
    audited = run_audit([state_dir])
    assert audited.verdict.words == expected["verdict"]
    assert audited.exit_status == expected["exit_status"]
    assert audited.exit_status == (1 if directory.name == "conflict" else 0)
    read = [one for one in read_directory(state_dir) if isinstance(one, Entry)]
    assert [plain_entry(one.lsn, one.entry) for one in read] == expected["entries"]
    ledger = read_books(state_dir).ledger
    assert ledger is not None
    assert ledger.trailing_bytes == 0
    assert everything(directory) == before


@each_directory
def test_it_is_gone_on_with(directory: Path, tmp_path: Path) -> None:
    """Another run, everything delivered, what can be freed freed; then opened once more."""
    state_dir, expected = copy_of(directory, tmp_path), expected_of(directory)
    log = open_at(state_dir)
    taken = go_on(log)
    for stream, known in log.account.streams.items():
        log.account.delivered(stream, known.durable)
        log.cursor.delivered_through[stream] = known.durable
    log.cursor.resume_lsn, log.cursor.send_mark_lsn = log.next_lsn, log.next_lsn - 1
    log.cursor.store()
    log.retire(log.next_lsn)
    balances = {s: one.balance() for s, one in log.account.streams.items()}
    log.close()

    log = open_at(state_dir)
    assert log.recovered.torn_bytes == 0
    assert log.recovered.previous_clean
    assert [entry for _, entry in log.read(expected["next_lsn"], 1000)] == taken
    assert {s: one.balance() for s, one in log.account.streams.items()} == balances
    for stream, one in balances.items():
        before = expected["streams"][stream.hex()]["balance"]
        assert one.pending_gateway == 0
        assert one.produced == before["produced"] + 2 * (not log.account.streams[stream].closed)
        assert one.holds
    log.close()
    assert CliRunner().invoke(command, ["verify", str(state_dir)]).exit_code == 0
    assert run_audit([state_dir]).verdict.word == expected["verdict"].partition(",")[0].split()[0]


def open_at(state_dir: Path) -> Log:
    return Log.open(state_dir, segment_bytes_max=4096, now_ms=lambda: LATER_MS)


def go_on(log: Log) -> list[Any]:
    """The next run: every board comes back, sends what it held and two more."""
    number, clean, torn = (
        log.account.run + 1,
        log.recovered.previous_clean,
        log.recovered.torn_bytes,
    )
    taken: list[Any] = [
        Run(LATER_MS, number, "hall-3", "9.9.9", "CPython", log.log_id, clean, torn, "")
    ]
    for one in [known for known in log.account.streams.values() if not known.closed]:
        first, last = one.durable + 1, one.claimed
        held = ((first, last),) if first <= last else ()
        taken.append(
            Session(
                one.device, one.uid, one.stream, LATER_MS, "", one.boot + 1, last + 1, True, held,
                one.durable, log.log_id, 1, "9.9.9", "virtual", "", one.base,
            )
        )  # fmt: skip
        taken += [
            Record(one.stream, seq, LATER_MS, LATER_MS - 2, LATER_MS, 1, 0, b"\x80")
            for seq in range(first, last + 3)
        ]
    taken.append(Stopped(LATER_MS, number))
    for entry in taken:
        log.append(entry)
        log.commit()  # a batch each, so that segments are rotated
        log.apply_committed()
    return taken


@pytest.mark.parametrize("name", ["clean", "torn"])
def test_a_ledger_of_an_earlier_release_is_compacted(name: str, tmp_path: Path) -> None:
    state_dir = copy_of(FIXTURES / "0.1.0" / name, tmp_path)
    expected = expected_of(FIXTURES / "0.1.0" / name)
    assert (state_dir / "ledger").read_bytes()[8:10] == b"\x00\x01"
    log = Log.open(state_dir, segment_bytes_max=4096, ledger_limits=LedgerLimits(entries=4))
    log.cursor.resume_lsn = log.durable_lsn
    log.cursor.store()
    log.retire(log.durable_lsn)
    log.close()
    ledger = read_books(state_dir).ledger
    assert ledger is not None
    assert ledger.span is not None
    assert ledger.retired_count > expected["retired"]
    log = Log.open(state_dir)
    balances = {one.stream.hex(): asdict(one.balance()) for one in log.account.streams.values()}
    assert balances == {key: one["balance"] for key, one in expected["streams"].items()}
    log.close()
    assert CliRunner().invoke(command, ["verify", str(state_dir)]).exit_code == 0
    assert run_audit([state_dir]).verdict.words == expected["verdict"]


def test_conflicts_are_kept_as_evidence() -> None:
    for directory in DIRECTORIES:
        kinds = [kind for _, kind, _ in expected_of(directory)["entries"]]
        assert (Conflict.__name__ in kinds) == (directory.name == "conflict")


def test_the_script_runs_under_this_version_and_keeps_what_is_there(tmp_path: Path) -> None:
    """So that the next release only has to call it."""
    written = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=True
    )
    (version,) = tmp_path.iterdir()
    assert {path.name for path in version.iterdir()} >= {"clean", "torn", "backlog", "conflict"}
    for directory in version.iterdir():
        assert Path(directory / "state" / "cursor").is_file()
        size = sum(one.stat().st_size for one in directory.rglob("*.wal"))
        assert size < 100_000
    assert "clean" in written.stdout
    again = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], check=False)
    assert again.returncode == 1
