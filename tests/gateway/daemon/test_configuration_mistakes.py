"""Every mistake in a configuration: one sentence with file, key, value, remedy; status 2."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gapless_gateway import config
from gapless_gateway.errors import ConfigurationError
from gapless_tools import cli, pki

GOOD = """\
[gateway]
name = "hall-3"
state_dir = "state"
[[port]]
path = "/dev/ttyS-none"
[broker]
host = "localhost"
[broker.tls]
"""
TWO_PORTS = '[[port]]\npath = "/dev/ttyS-none"\n'

# what to replace in GOOD, by what, what the sentence has to say
MISTAKES = {
    "unknown key": ("host =", "hots =", ['[broker] has the unknown key "hots"', '"host"?']),
    "unknown table": ("[broker]", "[brokre]", ['unknown key "brokre"', '"broker"?']),
    "unknown key without a neighbour": (
        "[broker.tls]", "[broker.tls]\nzzz = 1", ['"zzz"', "known are enabled, ca_file"],
    ),
    "missing key": ('host = "localhost"', "", ["host is missing in [broker]", "give"]),
    "missing table": ('[broker]\nhost = "localhost"\n[broker.tls]', "", ["[broker] is missing"]),
    "no port": (TWO_PORTS, "", ["[[port]] is missing", "its path"]),
    "wrong type": ('"localhost"', "5", ["[broker] host = 5", "not a text in quotes"]),
    "number in quotes": (
        '"localhost"', '"localhost"\nport = "8883"', ['[broker] port = "8883"', "whole number"],
    ),
    "out of range": ('"localhost"', '"localhost"\nport = 70000', ["port = 70000", "65535"]),
    "none of the choices": (
        "[broker.tls]", '[delivery]\ndelivered_when = "never"',
        ['[delivery] delivered_when = "never"', "puback", "receipt"],
    ),
    "name with a slash": ('"hall-3"', '"hall/3"', ['[gateway] name = "hall/3"', "letters"]),
    "name with a wildcard": ('"hall-3"', '"hall+"', ['[gateway] name = "hall+"', "MQTT topics"]),
    "empty name": ('"hall-3"', '""', ['[gateway] name = ""', "give a name"]),
    "relative port": ("/dev/ttyS-none", "ttyS0", ['path = "ttyS0"', "not an absolute path"]),
    "odd socket": ("/dev/ttyS-none", "socket://x", ['"socket://x"', "socket://HOST:PORT"]),
    "odd speed": (TWO_PORTS, TWO_PORTS + "baud = 115\n", ["[[port]] baud = 115", "115200"]),
    "the same port twice": (
        TWO_PORTS, TWO_PORTS * 2, ['[[port]] path = "/dev/ttyS-none"', "there twice", "remove"],
    ),
    "port as one table": ("[[port]]", "[port]", ["port =", "list of tables"]),
    "not TOML": ("[broker]", "[broker", ["this is not TOML", "line 6"]),
    "missing authority": (
        "[broker.tls]", '[broker.tls]\nca_file = "none.pem"',
        ["[broker.tls] ca_file", "none.pem", "no such file", "correct the path"],
    ),
    "authority that is none": (
        "[broker.tls]", '[broker.tls]\nca_file = "gateway.toml"', ["no certificate in PEM form"],
    ),
    "certificate without its key": (
        "[broker.tls]", '[broker.tls]\ncert_file = "gateway.toml"', ["set key_file"],
    ),
    "missing password": (
        "[broker.tls]", 'username = "me"\npassword_file = "none"\n', ["password_file", "no such"],
    ),
    "MQTT 3.1.1 with the wrong adapter": (
        "[broker.tls]", 'protocol = "3.1.1"', ["speaks MQTT 5 only", 'set adapter = "aiomqtt"'],
    ),
}  # fmt: skip


@contextlib.contextmanager
def ended_after(deadline_s: int) -> Iterator[None]:
    """Fail what runs on: a gateway that accepted the mistake would run for ever."""

    def fail(_number: int, _frame: object) -> None:
        raise AssertionError("the mistake was accepted")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(deadline_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run `gapless run` on a file that it must refuse; returns its one sentence."""
    with pytest.raises(SystemExit) as left, ended_after(20):
        cli.main(["run", "--config", str(path)])
    said = capsys.readouterr()
    assert left.value.code == 2
    assert said.out == ""
    assert said.err.startswith("gapless: ")
    assert said.err.count("\n") == 1, f"one sentence, not: {said.err}"
    assert "Traceback" not in said.err
    return said.err


@pytest.mark.parametrize("what", MISTAKES)
def test_a_configuration_mistake_is_one_sentence_that_names_key_value_and_remedy(
    tmp_path, capsys, what
):
    old, new, said = MISTAKES[what]
    assert GOOD.count(old) >= 1
    path = tmp_path / "gateway.toml"
    path.write_text(GOOD.replace(old, new, 1))
    sentence = refused(path, capsys)
    assert str(path) in sentence
    for words in said:
        assert words in sentence


def test_the_file_that_these_mistakes_are_made_in_is_itself_accepted(tmp_path):
    path = tmp_path / "gateway.toml"
    path.write_text(GOOD)
    loaded = config.load(path)
    assert loaded.gateway.state_dir == tmp_path / "state"
    assert loaded.ports[0].baud == 115200
    assert loaded.client_id == "gapless-hall-3"


def test_a_mistake_ends_the_process_with_status_2_and_no_traceback(tmp_path):
    path = tmp_path / "gateway.toml"
    path.write_text(GOOD.replace("host", "hots"))
    done = subprocess.run(
        [sys.executable, "-m", "gapless_tools.cli", "run", "--config", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert '"host"?' in done.stderr


def test_a_missing_file_is_told_with_the_command_that_writes_one(tmp_path, capsys):
    assert "gapless init --config" in refused(tmp_path / "none.toml", capsys)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_secret_that_others_may_read_is_refused_with_the_chmod_that_helps(tmp_path, capsys, mode):
    secret = tmp_path / "password"
    secret.write_text("hunter2")
    secret.chmod(mode)
    path = tmp_path / "gateway.toml"
    path.write_text(GOOD.replace("[broker.tls]", f'username = "me"\npassword_file = "{secret}"'))
    sentence = refused(path, capsys)
    assert f"chmod 600 {secret}" in sentence
    assert "hunter2" not in sentence
    secret.chmod(0o600)
    assert config.load(path).broker.read_password() == "hunter2"


def test_a_key_that_others_may_read_or_of_another_certificate_is_refused(tmp_path, capsys):
    authority = pki.make_authority(tmp_path)
    authority.issue("one")
    authority.issue("other")
    path = tmp_path / "gateway.toml"
    path.write_text(
        GOOD.replace("[broker.tls]", '[broker.tls]\ncert_file = "one.pem"\nkey_file = "other.key"')
    )
    assert "not the key of the certificate" in refused(path, capsys)
    path.write_text(path.read_text().replace("other.key", "one.key"))
    config.load(path)
    (tmp_path / "one.key").chmod(0o644)
    assert "chmod 600" in refused(path, capsys)


def test_two_names_of_one_port_are_one_port(tmp_path):
    (tmp_path / "by-id").symlink_to("/dev/ttyS-none")
    path = tmp_path / "gateway.toml"
    path.write_text(GOOD + f'[[port]]\npath = "{tmp_path}/by-id"\n')
    with pytest.raises(ConfigurationError, match="there twice, which is /dev/ttyS-none"):
        config.load(path)


@pytest.mark.parametrize("make", ["file", "folder", "null"])
def test_a_port_that_is_no_serial_line_ends_the_start(tmp_path, capsys, make):
    port = tmp_path / "port"
    if make == "file":
        port.write_text("")
    elif make == "folder":
        port.mkdir()
    else:
        port.symlink_to("/dev/null")
    path = tmp_path / "gateway.toml"
    path.write_text(GOOD.replace("/dev/ttyS-none", str(port)))
    sentence = refused(path, capsys)
    assert str(port) in sentence
    assert "no serial line" in sentence


def test_a_state_directory_that_cannot_be_one_ends_the_start(tmp_path, capsys):
    (tmp_path / "state").write_text("a file")
    path = tmp_path / "gateway.toml"
    path.write_text(GOOD)
    assert str(tmp_path / "state") in refused(path, capsys)


def test_a_web_address_that_is_taken_ends_the_start(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = tmp_path / "gateway.toml"
        path.write_text(GOOD + f"[web]\nport = {port}\n")
        sentence = refused(path, capsys)
    assert f"127.0.0.1:{port}" in sentence
    assert "port = 0" in sentence
