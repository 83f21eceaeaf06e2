"""The configuration file: what it may hold, and what is wrong with it in one sentence.

TOML, read once at start. Every mistake that can be seen without the outside world is found here:
spelling, types, ranges, files that are missing, unreadable or readable by too many. What the
outside world can heal by itself (a port, the broker) is not judged here.
"""

from __future__ import annotations

import os
import re
import ssl
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)

from gapless_gateway.config_errors import Mistake, sentence_of
from gapless_gateway.errors import ConfigurationError

DEFAULT_CONFIG_FILE = Path("/etc/gapless/gateway.toml")
DEFAULT_STATE_DIR = Path("/var/lib/gapless")
DEFAULT_WEB_PORT = 9468

# Names become levels of MQTT topics and labels of metrics: no "/", "+", "#", "$", space.
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
OTHERS_MAY_ACCESS = 0o077  # any right for the group or for others
BAUD_RATES = (9600, 19200, 38400, 57600, 115200, 230400, 460800, 500000, 921600)
BAUD_RATES_FAST = (1000000, 1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000)


def _resolve(value: object, info: ValidationInfo) -> object:
    """Make a path absolute, relative to the folder of the configuration file."""
    if not isinstance(value, str | Path):
        return value
    if str(value) == "":
        raise ValueError("it is empty")
    base = (info.context or {}).get("base", Path.cwd())
    return Path(base, Path(value).expanduser())


def _check_name(value: str) -> str:
    if not NAME_PATTERN.fullmatch(value):
        raise ValueError(
            "it becomes a part of MQTT topics and may hold 1 to 64 letters, digits, "
            '".", "_" and "-" only, the first a letter or a digit'
        )
    return value


def _check_baud(value: int) -> int:
    if value not in BAUD_RATES + BAUD_RATES_FAST:
        raise ValueError(f"it is none of the usual speeds {', '.join(map(str, BAUD_RATES))}")
    return value


def _check_port_path(value: str) -> str:
    if value.startswith("socket://"):
        host, _, port = value.removeprefix("socket://").rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError("it is no address of the form socket://HOST:PORT")
    elif not value.startswith("/"):
        raise ValueError("it is not an absolute path")
    return value


FilePath = Annotated[Path, BeforeValidator(_resolve)]
Name = Annotated[str, AfterValidator(_check_name)]
TcpPort = Annotated[int, Field(ge=1, le=65535)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class GatewaySettings(_Table):
    """`[gateway]`: who this gateway is, and where it keeps its log."""

    name: Name = Field(description='a name such as "hall-3"')
    state_dir: FilePath = Field(default=DEFAULT_STATE_DIR, description="the path of a folder")


class PortSettings(_Table):
    """One `[[port]]`: a serial line with one board behind it."""

    path: Annotated[str, AfterValidator(_check_port_path)] = Field(
        description='a stable path such as "/dev/serial/by-id/usb-..." or "socket://host:port"'
    )
    baud: Annotated[int, AfterValidator(_check_baud)] = Field(
        default=115200, description="the speed that the board uses, 115200 by default"
    )


class TlsSettings(_Table):
    """`[broker.tls]`: how the broker is checked, and what we show it."""

    enabled: bool = Field(default=True, description="true or false")
    ca_file: FilePath | None = Field(
        default=None,
        description="a PEM file with the authority that signed the broker's certificate",
    )
    cert_file: FilePath | None = Field(default=None, description="a PEM file with our certificate")
    key_file: FilePath | None = Field(default=None, description="a PEM file with our private key")


class BrokerSettings(_Table):
    """`[broker]`: where everything is delivered to."""

    host: Annotated[str, Field(min_length=1)] = Field(
        description='the broker\'s name or address, such as "mqtt.example.org"'
    )
    port: TcpPort = Field(
        default=8883, description="a TCP port from 1 to 65535, 8883 for MQTT over TLS"
    )
    adapter: Literal["mqtt5", "aiomqtt"] = Field(
        default="mqtt5", description='"mqtt5", or "aiomqtt" (slower; needed for MQTT 3.1.1)'
    )
    protocol: Literal["5", "3.1.1"] = Field(
        default="5", description='"5", or "3.1.1" (in quotes) together with adapter = "aiomqtt"'
    )
    client_id: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None, description='a client id, "gapless-NAME" by default'
    )
    username: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="the name by which the broker knows this gateway"
    )
    password_file: FilePath | None = Field(
        default=None, description="a file that holds nothing but the password"
    )
    keep_alive_s: Annotated[int, Field(ge=1, le=65535)] = Field(
        default=30, description="seconds from 1 to 65535, 30 by default"
    )
    window: Annotated[int, Field(ge=1, le=10000)] = Field(
        default=100, description="how many publishes may wait for their PUBACK, 100 by default"
    )
    tls: TlsSettings = Field(default_factory=TlsSettings, description="a table")

    def read_password(self) -> str | None:
        """Return the first line of the password file; None if there is none."""
        if self.password_file is None:
            return None
        return self.password_file.read_text(encoding="utf-8").split("\n", 1)[0].rstrip("\r")


class DeliverySettings(_Table):
    """`[delivery]`: what counts as delivered, and in which form."""

    delivered_when: Literal["puback", "receipt"] = Field(
        default="puback",
        description='"puback" (the broker has it) or "receipt" (the consumer has it)',
    )
    encoding: Literal["json", "cbor"] = Field(default="json", description='"json" or "cbor"')
    receipt_timeout_s: Annotated[float, Field(ge=1, le=86400)] = Field(
        default=30.0, description="seconds from 1 to 86400, 30 by default"
    )
    receipt_window: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=10_000, description="how many messages may wait for their receipt, 10000 by default"
    )


class WalSettings(_Table):
    """`[wal]`: the gateway's log."""

    segment_bytes_max: Annotated[int, Field(ge=65536, le=16 * 1024 * 1024)] = Field(
        default=16 * 1024 * 1024, description="bytes from 65536 to 16777216 (16 MiB)"
    )
    quota_bytes: Annotated[int, Field(ge=4 * 1024 * 1024)] | None = Field(
        default=None,
        description="bytes, at least 4194304 (4 MiB): a ceiling for the state directory; "
        "none by default",
    )
    free_bytes_min: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="bytes that stay free on the disk; by default 67108864 (64 MiB), or a tenth "
        "of a small disk",
    )
    on_full: Literal["hold", "drop-oldest"] = Field(
        default="hold",
        description='"hold" (boards keep their records until there is room) or "drop-oldest"',
    )
    commit_linger_ms: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=0, description="milliseconds from 0 to 1000, 0 by default"
    )


class WebSettings(_Table):
    """`[web]`: health, metrics and the live account."""

    host: Annotated[str, Field(min_length=1)] = Field(
        default="127.0.0.1", description="an address of this machine, 127.0.0.1 by default"
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=DEFAULT_WEB_PORT,
        description=f"a TCP port, {DEFAULT_WEB_PORT} by default, 0 for any free",
    )


class LogSettings(_Table):
    """`[log]`: what is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description='"debug", "info", "warning" or "error"'
    )
    format: Literal["json", "text"] = Field(default="json", description='"json" or "text"')


class Config(_Table):
    """A whole configuration file, checked. All paths are absolute."""

    gateway: GatewaySettings = Field(description="a table [gateway] with at least its name")
    ports: Annotated[tuple[PortSettings, ...], Field(min_length=1, strict=False)] = Field(
        alias="port", description="at least one table [[port]] with its path"
    )
    broker: BrokerSettings = Field(description="a table [broker] with at least its host")
    delivery: DeliverySettings = Field(default_factory=DeliverySettings, description="a table")
    wal: WalSettings = Field(default_factory=WalSettings, description="a table")
    web: WebSettings = Field(default_factory=WebSettings, description="a table")
    log: LogSettings = Field(default_factory=LogSettings, description="a table")

    @property
    def client_id(self) -> str:
        """The MQTT client id: as configured, else made from the gateway's name."""
        return self.broker.client_id or f"gapless-{self.gateway.name}"


def load(path: Path) -> Config:
    """Read and check the configuration at `path`.

    Raises ConfigurationError, whose message is one sentence with the file, the key, the value and
    the remedy. Of several mistakes it names the first.
    """
    document = _read(path)
    try:
        config = Config.model_validate(document, context={"base": path.parent.absolute()})
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {sentence_of(error, Config)}") from None
    for mistake in _contradictions(config):
        raise ConfigurationError(f"{path}: {mistake}")
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: there is no such configuration file; write one with "
            f"`gapless init --config {path}`, or name another with --config"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = str(error).rstrip(".")
        raise ConfigurationError(
            f"{path}: this is not TOML ({reason}); correct that line"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{path}: the configuration cannot be read ({error.strerror}); "
            "make it a file that this user may read"
        ) from None


def _contradictions(config: Config) -> Iterator[Mistake]:
    yield from _same_port_twice(config.ports)
    broker, tls = config.broker, config.broker.tls
    if broker.protocol != "5" and broker.adapter != "aiomqtt":
        yield Mistake(
            "broker.protocol", broker.protocol, f"the adapter {broker.adapter} speaks MQTT 5 only",
            'set adapter = "aiomqtt" too',
        )  # fmt: skip
    yield from _unusable_file("broker.password_file", broker.password_file, secret=True)
    if broker.password_file is not None and broker.username is None:
        yield Mistake(
            "broker.password_file", str(broker.password_file),
            "a password needs a name", "set username in [broker] too",
        )  # fmt: skip
    yield from _unusable_file("broker.tls.ca_file", tls.ca_file)
    yield from _unusable_file("broker.tls.cert_file", tls.cert_file)
    yield from _unusable_file("broker.tls.key_file", tls.key_file, secret=True)
    yield from _unusable_certificates(tls)


def _same_port_twice(ports: tuple[PortSettings, ...]) -> Iterator[Mistake]:
    seen: dict[str, str] = {}
    for port in ports:
        # Two names of one device (by-id and ttyACM0) are one port too.
        real = port.path if "://" in port.path else os.path.realpath(port.path)
        if real in seen:
            also = "" if seen[real] == port.path else f", which is {seen[real]}"
            yield Mistake(
                "port.path", port.path, f"this port is there twice{also}",
                "remove one of the two [[port]] tables",
            )  # fmt: skip
        seen[real] = port.path


def _unusable_file(key: str, path: Path | None, *, secret: bool = False) -> Iterator[Mistake]:
    if path is None:
        return
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            file.read()
    except FileNotFoundError:
        yield Mistake(key, str(path), "there is no such file", "correct the path")
    except OSError as error:
        reason = f"it cannot be read ({error.strerror})"
        yield Mistake(key, str(path), reason, "make it a file that this user may read")
    else:
        if secret and mode & OTHERS_MAY_ACCESS:
            yield Mistake(
                key, str(path), f"others may read this secret (its mode is {mode & 0o777:04o})",
                f"run `chmod 600 {path}`",
            )  # fmt: skip


def _unusable_certificates(tls: TlsSettings) -> Iterator[Mistake]:
    if (tls.cert_file is None) != (tls.key_file is None):
        present, absent = ("cert_file", "key_file")
        if tls.cert_file is None:
            present, absent = absent, present
        yield Mistake(
            f"broker.tls.{present}", str(getattr(tls, present)),
            "a certificate and its key come together", f"set {absent} in [broker.tls] too",
        )  # fmt: skip
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca_file is not None:
        try:
            context.load_verify_locations(tls.ca_file)
        except ssl.SSLError:
            yield Mistake(
                "broker.tls.ca_file", str(tls.ca_file), "it holds no certificate in PEM form",
                "name the PEM file of the authority",
            )  # fmt: skip
    if tls.cert_file is not None and tls.key_file is not None:
        yield from _unusable_pair(context, tls.cert_file, tls.key_file)


def _unusable_pair(context: ssl.SSLContext, cert: Path, key: Path) -> Iterator[Mistake]:
    def refuse_to_ask() -> str:
        raise ValueError("the key is encrypted")  # OpenSSL would ask on the terminal

    try:
        context.load_cert_chain(cert, key, password=refuse_to_ask)
    except ValueError:
        yield Mistake(
            "broker.tls.key_file", str(key), "the key is encrypted and nobody can be asked",
            f"decrypt it with `openssl pkey -in {key} -out NEW` and `chmod 600 NEW`",
        )  # fmt: skip
    except ssl.SSLError as error:
        does_not_match = error.reason == "KEY_VALUES_MISMATCH"
        yield Mistake(
            "broker.tls.key_file", str(key),
            f"it is not the key of the certificate {cert}" if does_not_match
            else f"it and {cert} are no certificate and key in PEM form",
            "name the two files that were issued together",
        )  # fmt: skip
