"""`gapless audit`: its exit status, what it prints, what it writes, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

from gapless_gateway.errors import UserError
from gapless_gateway.wal.log import Log
from gapless_tools.audit import evidence as evidence_module
from gapless_tools.audit.evidence import evidence_schema, write_whole
from gapless_tools.audit.in_use import is_in_use
from gapless_tools.audit.run import run_audit
from gapless_tools.audit_command import command
from tests.support.audit_history import History, lossy_history, short_history


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> History:
    return short_history(tmp_path_factory.mktemp("short"))


@pytest.fixture(scope="module")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> History:
    return lossy_history(tmp_path_factory.mktemp("lossy"))


def gapless_audit(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(one) for one in arguments])


def test_pass_is_0_and_the_account_is_printed(short: History) -> None:
    result = gapless_audit(short.state_dir, "--capture", short.capture_dir)
    assert result.exit_code == 0
    assert "PASS, complete   (scope: books and capture)" in result.output
    assert (
        "device   produced  delivered  pending  quarant.  lost  at most  unexpl." in result.output
    )


def test_fail_is_1_and_the_culprit_is_printed(short: History, tmp_path: Path) -> None:
    path = tmp_path / "capture.jsonl"
    path.write_bytes(b"".join(line for line in short.lines if b'"seq":7,' not in line))
    result = gapless_audit(short.state_dir, "--capture", path)
    assert result.exit_code == 1
    assert "FAIL (us, consumer)" in result.output
    assert "consumer or us: pump-1: missing in the capture: 7" in result.output


def test_require_complete_is_1_when_something_was_lost(lossy: History) -> None:
    assert gapless_audit(lossy.state_dir).exit_code == 0
    assert gapless_audit(lossy.state_dir, "--require-complete").exit_code == 1


def test_a_log_that_cannot_be_read_is_3(short: History, tmp_path: Path) -> None:
    (tmp_path / "wal").mkdir()
    (tmp_path / "wal" / f"{1:016x}.wal").write_bytes(b"no segment at all")
    result = gapless_audit(tmp_path)
    assert result.exit_code == 3
    assert "could not be judged" in result.output


def test_a_log_of_a_newer_format_is_3(short: History, tmp_path: Path) -> None:
    segment = next((short.state_dir / "wal").glob("*.wal"))
    data = bytearray(segment.read_bytes())
    data[8:10] = b"\x00\x63"
    (tmp_path / "wal").mkdir()
    (tmp_path / "wal" / segment.name).write_bytes(data)
    result = gapless_audit(tmp_path)
    assert result.exit_code == 3
    assert "newer" in result.output


@pytest.mark.parametrize("what", ["nothing", "no directory", "no log", "no capture", "twice"])
def test_a_users_mistake_is_one_sentence(short: History, tmp_path: Path, what: str) -> None:
    state_dir = short.state_dir
    arguments: dict[str, tuple[list[Path], Path | None]] = {
        "nothing": ([], None),
        "no directory": ([tmp_path / "nowhere"], None),
        "no log": ([tmp_path], None),
        "no capture": ([state_dir], tmp_path / "nowhere.jsonl"),
        "twice": ([state_dir, state_dir], None),
    }
    with pytest.raises(UserError) as raised:
        run_audit(*arguments[what])
    assert "\n" not in str(raised.value)
    assert "name" in str(raised.value)


def test_json_is_the_evidence_and_keeps_its_schema(short: History, lossy: History) -> None:
    jsonschema.Draft202012Validator.check_schema(evidence_schema())
    for history in (short, lossy):
        for capture in ([], ["--capture", history.capture_dir]):
            result = gapless_audit(history.state_dir, *capture, "--json")
            jsonschema.validate(json.loads(result.output), evidence_schema())


def test_the_schema_refuses_what_the_evidence_must_not_be(short: History) -> None:
    evidence = run_audit([short.state_dir]).evidence
    for change in (
        {"verdict": "MAYBE"},
        {"verdict_words": "PASS, mostly"},
        {"from": "2026-01-01 11:00:00"},
        {"streams": [{}]},
        {"more": 1},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(evidence | change, evidence_schema())


def test_evidence_and_report_are_written_and_nothing_else(short: History, tmp_path: Path) -> None:
    out = tmp_path / "a" / "report"
    result = gapless_audit(short.state_dir, "--capture", short.capture_dir, "--out", out)
    assert result.exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == ["evidence.html", "evidence.json"]
    assert f"written: {out / 'evidence.html'}" in result.output
    jsonschema.validate(json.loads((out / "evidence.json").read_text("utf-8")), evidence_schema())


def test_a_report_is_whole_or_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "evidence.json"
    write_whole(path, "old")

    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evidence_module.Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_log_is_in_use_while_a_gateway_holds_it(tmp_path: Path) -> None:
    log = Log.open(tmp_path / "state")
    assert is_in_use(tmp_path / "state" / "lock")
    log.close()
    assert not is_in_use(tmp_path / "state" / "lock")
