"""`gapless init` writes what `gapless run` accepts, and never over anything."""

from __future__ import annotations

import pytest

from gapless_gateway import config
from gapless_tools import cli, init_command


def init(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(["init", *arguments])
    return left.value.code


def test_init_writes_a_configuration_that_run_accepts_and_makes_the_folder(tmp_path, capsys):
    path, state = tmp_path / "etc" / "gateway.toml", tmp_path / "var"
    assert init("--config", str(path), "--state-dir", str(state), "--name", "hall-3") == 0
    loaded = config.load(path)
    assert loaded.gateway.name == "hall-3"
    assert loaded.gateway.state_dir == state
    assert state.is_dir()
    assert f"gapless run --config {path}" in capsys.readouterr().out


def test_init_never_overwrites(tmp_path, capsys):
    path = tmp_path / "gateway.toml"
    path.write_text("mine")
    assert init("--config", str(path), "--state-dir", str(tmp_path / "var")) == 2
    assert path.read_text() == "mine"
    assert not (tmp_path / "var").exists()
    assert "is there already" in capsys.readouterr().err


def test_the_file_shows_every_key_and_their_defaults(tmp_path):
    text = init_command.render("n", tmp_path, [])
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    loaded = config.load(path)
    for table in (
        loaded.broker,
        loaded.broker.tls,
        loaded.delivery,
        loaded.wal,
        loaded.web,
        loaded.log,
    ):
        for key, field in type(table).model_fields.items():
            if key != "tls":
                assert f"{key} = " in text, f"{key} is not in the file"
                if not field.is_required():
                    assert getattr(table, key) == field.default, key


def test_the_serial_devices_that_are_plugged_in_are_entered(tmp_path, monkeypatch):
    (tmp_path / "usb-b").touch()
    (tmp_path / "usb-a").touch()
    monkeypatch.setattr(init_command, "SERIAL_BY_ID", tmp_path)
    path = tmp_path / "gateway.toml"
    path.write_text(init_command.render("n", tmp_path, init_command.serial_devices()))
    assert [one.path for one in config.load(path).ports] == [
        str(tmp_path / "usb-a"),
        str(tmp_path / "usb-b"),
    ]


def test_a_name_that_cannot_be_one_is_refused(tmp_path, capsys):
    assert init("--config", str(tmp_path / "g.toml"), "--name", "a/b") == 2
    assert "--name a/b" in capsys.readouterr().err
