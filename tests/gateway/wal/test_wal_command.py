"""`gapless wal inspect|verify` as a person or a machine calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gapless_gateway.wal.disk import OsDisk
from gapless_gateway.wal.errors import WalError
from gapless_tools.wal_command import command
from tests.support.wal_history import LOG_ID, History, open_log, record, run, session


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    history = History()
    log = open_log(OsDisk(), state_dir=tmp_path)
    history.commit(log, run(log, 1), session(1))
    for seq in range(1, 21):
        history.commit(log, record(seq))
    history.store_cursor(log, 9, 12, 6)
    history.retire(log, 9)
    log.close()
    return tmp_path


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def everything(path: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        file: (file.stat().st_mtime_ns, file.read_bytes())
        for file in path.rglob("*")
        if file.is_file()
    }


def test_verify_finds_a_whole_log_whole_and_changes_nothing(state_dir: Path) -> None:
    before = everything(state_dir)
    code, output = call("verify", str(state_dir))
    assert code == 0
    assert output.startswith(f"whole: log {LOG_ID.hex()}")
    code, output = call("verify", str(state_dir), "--json")
    facts = json.loads(output)
    assert (code, facts["damaged"], facts["torn_tail"]) == (0, False, None)
    assert facts["segments"][-1]["last_lsn"] == 22
    assert everything(state_dir) == before


def test_verify_works_beside_an_open_log(state_dir: Path) -> None:
    log = open_log(OsDisk(), state_dir=state_dir)
    log.append(record(21))
    assert call("verify", str(state_dir))[0] == 0
    log.commit()
    assert call("verify", str(state_dir))[0] == 0
    log.close()


def test_verify_says_where_the_damage_is(state_dir: Path) -> None:
    path = min((state_dir / "wal").iterdir())
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    code, output = call("verify", str(state_dir))
    assert code == 1
    assert str(path) in output
    assert "DAMAGED" in output
    code, output = call("verify", str(state_dir), "--json")
    assert code == 1
    assert json.loads(output)["damaged"] is True


def test_verify_tells_a_torn_tail_from_damage(state_dir: Path) -> None:
    path = max((state_dir / "wal").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    code, output = call("verify", str(state_dir))
    assert code == 0
    assert "torn tail" in output


@pytest.mark.parametrize("name", ["ledger", "cursor"])
def test_verify_notices_a_ledger_or_cursor_that_is_gone(state_dir: Path, name: str) -> None:
    (state_dir / name).unlink()
    code, output = call("verify", str(state_dir))
    assert code == 1
    assert name in output


def test_verify_notices_a_ledger_that_was_cut_short(state_dir: Path) -> None:
    path = state_dir / "ledger"
    path.write_bytes(path.read_bytes()[:24])
    code, output = call("verify", str(state_dir))
    assert code == 1
    assert "ledger" in output


def test_inspect_shows_segments_cursor_and_entries(state_dir: Path) -> None:
    code, output = call("inspect", str(state_dir))
    assert code == 0
    assert "resume at LSN 9" in output
    code, output = call("inspect", str(state_dir), "--json")
    assert json.loads(output)["cursor"]["delivered_through"] == {"11223344": 6}
    code, output = call(
        "inspect", str(state_dir), "--entries", "--json", "--from-lsn", "10", "--limit", "2"
    )
    lines = [json.loads(line) for line in output.splitlines()]
    assert [(line["lsn"], line["kind"], line["seq"]) for line in lines] == [
        (10, "Record", 8),
        (11, "Record", 9),
    ]


def test_a_directory_that_is_no_log_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(WalError, match="holds no segment"):
        call("verify", str(tmp_path))
    assert call("verify", str(tmp_path / "nowhere"))[0] == 2


def test_help_has_examples() -> None:
    for name in ("inspect", "verify"):
        code, output = call(name, "--help")
        assert code == 0
        assert f"gapless wal {name} /var/lib/gapless" in output
