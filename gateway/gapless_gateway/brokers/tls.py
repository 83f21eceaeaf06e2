"""TLS towards the broker: the context, and what its failures mean, in words.

TLS 1.2 and newer, chain and name always verified. Nothing here can switch that off.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from gapless_gateway.brokers.base import BrokerError, BrokerUnreachable, CertificateFault
from gapless_gateway.brokers.settings import BrokerSettings, TlsSettings
from gapless_gateway.errors import ConfigurationError

# X509_V_ERR_... of OpenSSL, as SSLCertVerificationError.verify_code gives them.
_NOT_YET_VALID = 9
_EXPIRED = 10
_UNKNOWN_ISSUER = frozenset({2, 18, 19, 20, 21})
_WRONG_NAME = frozenset({62, 64})


def client_context(settings: TlsSettings) -> ssl.SSLContext:
    """The context for one connection, its files read now. Raises ConfigurationError."""
    if settings.ca_file is not None:
        _check_readable("ca_file", settings.ca_file)
    try:
        context = ssl.create_default_context(
            cafile=None if settings.ca_file is None else str(settings.ca_file)
        )
    except (ssl.SSLError, OSError):
        raise ConfigurationError(
            f"[broker.tls] ca_file {settings.ca_file} holds no certificate in PEM form."
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_own_certificate(context, settings)
    return context


def _load_own_certificate(context: ssl.SSLContext, settings: TlsSettings) -> None:
    if settings.cert_file is None and settings.key_file is None:
        return
    if settings.cert_file is None or settings.key_file is None:
        given, missing = (
            ("key_file", "cert_file") if settings.cert_file is None else ("cert_file", "key_file")
        )
        raise ConfigurationError(
            f"[broker.tls] {given} is set without {missing}; a client certificate needs both."
        )
    _check_readable("cert_file", settings.cert_file)
    _check_readable("key_file", settings.key_file)
    if settings.key_file.stat().st_mode & 0o077:
        raise ConfigurationError(
            f"[broker.tls] key_file {settings.key_file} can be read by others; "
            f"run: chmod 600 {settings.key_file}"
        )
    try:
        # An encrypted key must not make OpenSSL ask on the terminal.
        context.load_cert_chain(settings.cert_file, settings.key_file, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError):
        raise ConfigurationError(
            f"[broker.tls] cert_file {settings.cert_file} and key_file {settings.key_file} are no "
            "certificate and unencrypted key in PEM form that belong together."
        ) from None


def _check_readable(key: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"[broker.tls] {key} {path} cannot be read: {error.strerror}."
        ) from None


def explain(error: ssl.SSLError, settings: BrokerSettings) -> BrokerError:
    """The typed error, in one sentence, for a handshake that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateFault(_explain_verification(error, settings))
    reason = (error.reason or str(error)).upper()
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return CertificateFault(_explain_alert(reason, settings))
    if "HANDSHAKE_FAILURE" in reason or "PROTOCOL_VERSION" in reason:
        return BrokerUnreachable(
            f"The broker {settings.address} agrees to no TLS version and cipher of ours "
            "(TLS 1.2 or newer is needed); update its TLS settings."
        )
    return not_tls(settings)


def not_tls(settings: BrokerSettings) -> BrokerUnreachable:
    """What listens there ended the handshake, or answered in another language."""
    return BrokerUnreachable(
        f"What listens on {settings.address} does not speak TLS; "
        "check [broker] port (brokers usually have TLS on 8883)."
    )


def _explain_verification(error: ssl.SSLCertVerificationError, settings: BrokerSettings) -> str:
    where = f"The certificate of the broker {settings.address}"
    if error.verify_code in _WRONG_NAME:
        return (
            f'{where} is not made out to "{settings.host}"; '
            "set [broker] host to a name in the certificate, or have it issued for this name."
        )
    if error.verify_code in _UNKNOWN_ISSUER:
        ca_file = settings.tls.ca_file if settings.tls is not None else None
        trusted = "the system's authorities" if ca_file is None else str(ca_file)
        return (
            f"{where} is not issued by an authority in {trusted}; "
            "set [broker.tls] ca_file to the authority that issued it."
        )
    if error.verify_code == _NOT_YET_VALID:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
        return (
            f"{where} is not yet valid; this machine's clock says {now} UTC: "
            "if that is wrong, set the clock."
        )
    if error.verify_code == _EXPIRED:
        return f"{where} has expired; renew it at the broker."
    return f"{where} cannot be verified: {error.verify_message}; have it issued anew."


def _explain_alert(reason: str, settings: BrokerSettings) -> str:
    where = f"The broker {settings.address}"
    if "CERTIFICATE_REQUIRED" in reason:
        return f"{where} wants a client certificate; set [broker.tls] cert_file and key_file."
    if "EXPIRED" in reason:
        return f"{where} says that our client certificate has expired; renew it."
    return (
        f"{where} does not accept our client certificate; "
        "check that [broker.tls] cert_file is issued by the authority that the broker trusts."
    )
