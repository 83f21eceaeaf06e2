"""A small certificate authority: for tests, the demo, and a plant without one of its own.

Keys are EC P-256 in PKCS #8; certificates carry what strict verifiers ask for (RFC 5280: key
usage, subject and authority key identifiers, the names in subjectAltName). Every PEM file is
written with mode 0600 and replaced in one step, so a reader never sees half a key.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gapless_gateway.errors import UserError

CA_CERT_NAME = "ca.pem"
CA_KEY_NAME = "ca.key"
AUTHORITY_VALID_FOR = timedelta(days=3650)
CERTIFICATE_VALID_FOR = timedelta(days=365)
# A board's or a neighbour's clock may be a little behind ours.
BACKDATED_BY = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """The three files a TLS end is configured with: its chain, its key, whom it trusts."""

    cert_file: Path
    key_file: Path
    ca_file: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority whose files (`ca.pem`, `ca.key`) lie in `directory`."""

    directory: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def ca_file(self) -> Path:
        """The PEM file that clients trust."""
        return self.directory / CA_CERT_NAME

    def issue(
        self,
        name: str,
        *,
        dns_names: Sequence[str] = (),
        ip_addresses: Sequence[str] = (),
        directory: Path | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> CertificateFiles:
        """Issue a certificate for a server or a client and write `NAME.pem` and `NAME.key`.

        `name` is the common name and the stem of the files; without `dns_names` and
        `ip_addresses` it is the only subjectAltName as well. Times are aware datetimes; the
        window is five minutes ago until a year from now unless said otherwise.
        """
        if not name or "/" in name or name.startswith("."):
            raise UserError(f"{name!r} cannot name a certificate: use letters, digits and hyphens")
        names: list[x509.GeneralName] = [x509.DNSName(dns) for dns in dns_names]
        names += [x509.IPAddress(_address(address)) for address in ip_addresses]
        begin, end = _window(not_before, not_after, CERTIFICATE_VALID_FOR)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_common_name(name), self.certificate.subject, key, begin, end)
            .add_extension(x509.SubjectAlternativeName(names or [x509.DNSName(name)]), False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
            .add_extension(_key_usage(for_authority=False), True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False
            )
            .sign(self.key, hashes.SHA256())
        )
        target = directory or self.directory
        files = CertificateFiles(target / f"{name}.pem", target / f"{name}.key", self.ca_file)
        _write(files.cert_file, certificate.public_bytes(serialization.Encoding.PEM))
        _write(files.key_file, _key_pem(key))
        return files


def make_authority(
    directory: Path,
    name: str = "Gapless authority",
    *,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> Authority:
    """Make a new authority and write `ca.pem` and `ca.key` into `directory` (made if missing).

    Refuses, with UserError, to replace an authority that is already there: every certificate
    that it issued would stop being trusted.
    """
    if (directory / CA_KEY_NAME).exists():
        raise UserError(f"{directory} already holds an authority: choose another directory")
    begin, end = _window(not_before, not_after, AUTHORITY_VALID_FOR)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _common_name(name)
    certificate = (
        _builder(subject, subject, key, begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .add_extension(_key_usage(for_authority=True), True)
        .sign(key, hashes.SHA256())
    )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(directory / CA_CERT_NAME, certificate.public_bytes(serialization.Encoding.PEM))
    _write(directory / CA_KEY_NAME, _key_pem(key))
    return Authority(directory, certificate, key)


def load_authority(directory: Path) -> Authority:
    """Read the authority that `make_authority` wrote; UserError where there is none."""
    try:
        certificate = x509.load_pem_x509_certificate((directory / CA_CERT_NAME).read_bytes())
        key = serialization.load_pem_private_key((directory / CA_KEY_NAME).read_bytes(), None)
    except (OSError, ValueError) as error:
        raise UserError(f"{directory} holds no readable authority: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{directory / CA_KEY_NAME} is not an EC key: use one made by gapless pki")
    return Authority(directory, certificate, key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    begin: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )


def _common_name(name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    except ValueError as error:
        raise UserError(f"{name!r} cannot be a certificate's name: {error}") from error


def _key_usage(*, for_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not for_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not for_authority,
        key_cert_sign=for_authority,
        crl_sign=for_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _window(
    not_before: datetime | None, not_after: datetime | None, length: timedelta
) -> tuple[datetime, datetime]:
    begin = not_before or datetime.now(UTC) - BACKDATED_BY
    end = not_after or begin + length
    if end <= begin:
        raise UserError(f"the certificate would end ({end}) before it begins ({begin})")
    return begin, end


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError as error:
        raise UserError(f"{text!r} is not an IP address: names go to dns_names") from error


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes) -> None:
    """Write with mode 0600 from the first byte on, and replace in one step."""
    scratch = path.with_name(path.name + ".new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
