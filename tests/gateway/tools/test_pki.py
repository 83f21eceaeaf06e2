"""What the certificate authority promises, judged by the ssl module on both ends."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gapless_gateway.errors import UserError
from gapless_tools.pki import Authority, CertificateFiles, load_authority, make_authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "pki")


def strict_client(ca_file: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca_file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def handshake(files: CertificateFiles, client: ssl.SSLContext, name: str) -> None:
    """Complete one TLS handshake over a socket pair; raises what the client raises."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(files.cert_file, files.key_file)
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    theirs.settimeout(20)

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(ours, server_hostname=name).close()
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("name", ["broker.example", "127.0.0.1", "::1"])
def test_a_chain_verifies_for_each_name_and_address(authority: Authority, name: str) -> None:
    files = authority.issue(
        "broker", dns_names=["broker.example"], ip_addresses=["127.0.0.1", "::1"]
    )
    handshake(files, strict_client(authority.ca_file), name)


@pytest.mark.parametrize("name", ["other.example", "127.0.0.2", "broker"])
def test_a_wrong_name_is_refused(authority: Authority, name: str) -> None:
    files = authority.issue("broker", dns_names=["broker.example"], ip_addresses=["127.0.0.1"])
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
        handshake(files, strict_client(authority.ca_file), name)


def test_another_authority_is_not_trusted(authority: Authority, tmp_path: Path) -> None:
    stranger = make_authority(tmp_path / "stranger")
    files = authority.issue("broker", dns_names=["broker.example"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, strict_client(stranger.ca_file), "broker.example")


@pytest.mark.parametrize(("begins_in_h", "ends_in_h"), [(-3, -1), (1, 3)])
def test_outside_its_window_a_certificate_is_refused(
    authority: Authority, begins_in_h: int, ends_in_h: int
) -> None:
    now = datetime.now(UTC)
    files = authority.issue(
        "broker",
        dns_names=["broker.example"],
        not_before=now + timedelta(hours=begins_in_h),
        not_after=now + timedelta(hours=ends_in_h),
    )
    with pytest.raises(ssl.SSLCertVerificationError, match=r"expired|not yet valid"):
        handshake(files, strict_client(authority.ca_file), "broker.example")


def test_a_client_certificate_is_accepted_by_a_server_that_asks(authority: Authority) -> None:
    files = authority.issue("gateway-1")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca_file))
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= ssl.VERIFY_X509_STRICT
    server.load_cert_chain(files.cert_file, files.key_file)
    client = strict_client(authority.ca_file)
    client.load_cert_chain(files.cert_file, files.key_file)
    ours, theirs = socket.socketpair()
    accepted = []
    thread = threading.Thread(
        target=lambda: accepted.append(server.wrap_socket(theirs, server_side=True))
    )
    thread.start()
    with client.wrap_socket(ours, server_hostname="gateway-1"):
        thread.join(20)
    assert accepted[0].getpeercert()["subject"] == ((("commonName", "gateway-1"),),)
    accepted[0].close()


def test_every_file_is_for_its_owner_only(authority: Authority) -> None:
    authority.issue("broker")
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in authority.directory.iterdir()}
    assert modes == dict.fromkeys(("ca.pem", "ca.key", "broker.pem", "broker.key"), 0o600)


def test_an_authority_is_never_replaced_and_can_be_read_again(authority: Authority) -> None:
    with pytest.raises(UserError, match="already holds an authority"):
        make_authority(authority.directory)
    files = load_authority(authority.directory).issue("again", dns_names=["again.example"])
    handshake(files, strict_client(authority.ca_file), "again.example")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("../x", {}, "cannot name"),
        ("a", {"ip_addresses": ["localhost"]}, "not an IP address"),
        ("a", {"not_after": datetime(2001, 1, 1, tzinfo=UTC)}, "before it begins"),
    ],
)
def test_a_mistake_gets_one_sentence(
    authority: Authority, name: str, options: dict, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        authority.issue(name, **options)


def test_a_directory_without_an_authority_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        load_authority(tmp_path)
