"""How a capture reaches the broker: settings from the command line, and what failures mean."""

from __future__ import annotations

import secrets
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import aiomqtt
from aiomqtt.exceptions import MqttConnectError

from gapless_gateway.errors import UserError

# aiomqtt does not notice a broker that hangs up before its CONNACK; it waits this long.
CONNECT_TIMEOUT_S = 5.0
# aiomqtt's TLS handshake blocks a thread for up to one keep-alive.
KEEP_ALIVE_S = 10
# Beyond it a message is dropped, which is a gap: never receipted, and so sent again.
QUEUED_MESSAGES_MAX = 100_000
# Past aiomqtt's own threshold of 10 it logs a line per publish.
PENDING_CALLS_MAX = 1_000_000

_PROTOCOLS = {"5": aiomqtt.ProtocolVersion.V5, "3.1.1": aiomqtt.ProtocolVersion.V311}


class CaptureBrokerError(UserError):
    """The broker refuses this capture, or the one cannot trust the other; waiting heals nothing."""


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """Where the broker is and who we are to it. Files are read anew at each connection."""

    host: str
    port: int
    tls: bool = True
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    protocol: str = "5"
    client_id: str = field(default_factory=lambda: f"gapless-capture-{secrets.token_hex(4)}")

    @property
    def address(self) -> str:
        """`host:port`, as it stands in messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def check(self) -> None:
        """Refuse, with UserError, what can never work."""
        if (self.cert_file is None) != (self.key_file is None):
            raise UserError("--cert-file and --key-file belong together: give both or neither")
        if not self.tls and (self.ca_file or self.cert_file):
            raise UserError("--no-tls contradicts --ca-file, --cert-file and --key-file")
        if self.password_file is not None and self.username is None:
            raise UserError("--password-file needs --username")
        _ = self.tls_context(), self.password()

    def password(self) -> str | None:
        """Return the first line of the password file."""
        if self.password_file is None:
            return None
        try:
            text = self.password_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--password-file {self.password_file} cannot be read: {_words(error)}"
            ) from None
        return text.partition("\n")[0].rstrip("\r")

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the context of one connection: TLS 1.2 or newer, chain and name verified."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise UserError(
                f"--ca-file {self.ca_file} cannot be used as PEM certificates: {_words(error)}"
            ) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert_file is not None:
            try:
                # An encrypted key must not make OpenSSL ask on the terminal.
                context.load_cert_chain(self.cert_file, self.key_file, password=lambda: b"")
            except (OSError, ssl.SSLError, ValueError) as error:
                raise UserError(
                    f"--cert-file {self.cert_file} and --key-file {self.key_file} cannot be used "
                    f"as a certificate and its unencrypted key: {_words(error)}"
                ) from None
        return context

    def make_client(self) -> aiomqtt.Client:
        """Return a client for one connection; the session is clean."""
        v311 = self.protocol == "3.1.1"
        client = aiomqtt.Client(
            self.host,
            self.port,
            identifier=self.client_id,
            username=self.username,
            password=self.password(),
            protocol=_PROTOCOLS[self.protocol],
            clean_session=True if v311 else None,
            tls_context=self.tls_context(),
            keepalive=KEEP_ALIVE_S,
            timeout=CONNECT_TIMEOUT_S,
            max_queued_incoming_messages=QUEUED_MESSAGES_MAX,
        )
        client.pending_calls_threshold = PENDING_CALLS_MAX
        return client


def explain(error: aiomqtt.MqttError, options: BrokerOptions) -> UserError:
    """Return the sentence for a failed connection: CaptureBrokerError where waiting is no use."""
    # aiomqtt raises its own error from None; what the system said is still its context.
    cause = error.__context__
    where = f"the broker {options.address}"
    if isinstance(cause, OSError):
        return _explain_system(cause, options, where)
    if isinstance(error, MqttConnectError):
        return CaptureBrokerError(
            f"{where} refuses us: {error}; check --username, --password-file and --mqtt-version"
        )
    return UserError(
        f"{where} gave no answer or hung up ({error}); if it lasts, check --username and "
        "--password-file"
    )


def _explain_system(cause: OSError, options: BrokerOptions, where: str) -> UserError:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return CaptureBrokerError(
            f"the certificate of {where} cannot be trusted: {cause.verify_message.rstrip('.')}; "
            "check --host and --ca-file"
        )
    if isinstance(cause, ssl.SSLError):
        return UserError(
            f"{where} and we do not agree on TLS ({cause.reason or cause}); check --port, and "
            "whether it wants a client certificate"
        )
    if isinstance(cause, socket.gaierror):
        return UserError(f'"{options.host}" is not known to the name service; check --host')
    if isinstance(cause, ConnectionRefusedError):
        return UserError(
            f"nothing listens on {options.address}; check --host, --port and the broker"
        )
    return UserError(f"{where} cannot be reached: {_words(cause)}")


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not in PEM form"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
