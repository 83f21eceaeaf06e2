"""What a connection to a broker is made from, checked before the first attempt."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gapless_gateway.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """PEM files. `ca_file` None: the system's authorities. Certificate and key go together."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where the broker is, who we are to it, and the limits of the connection."""

    host: str
    port: int = 8883
    adapter: Literal["mqtt5", "aiomqtt"] = "mqtt5"
    protocol: Literal["5", "3.1.1"] = "5"  # 3.1.1 only with the aiomqtt adapter
    client_id: str = ""  # empty: the broker gives one
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    keep_alive_s: int = 30
    connect_timeout_s: float = 10.0
    tls: TlsSettings | None = field(default_factory=TlsSettings)  # None: without TLS

    def __post_init__(self) -> None:
        """Refuse what can never work."""
        if self.protocol != "5" and self.adapter != "aiomqtt":
            raise ConfigurationError(
                f'[broker] protocol = "{self.protocol}" needs adapter = "aiomqtt", '
                f'since the adapter "{self.adapter}" speaks MQTT 5 only.'
            )

    @property
    def address(self) -> str:
        """`host:port`, as it stands in messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
