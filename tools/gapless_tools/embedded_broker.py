"""rumqttd, from the `iotcore` wheel, as a process of its own.

    python -m gapless_tools.embedded_broker --config FILE

FILE is a rumqttd TOML; `render_config` writes one with TLS listeners for MQTT 5 and 3.1.1.
rumqttd speaks one version per listener, has no shutdown and keeps nothing on disk, so ending
the process by a signal is its proper end.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from gapless_gateway.errors import UserError
from gapless_tools.pki import CertificateFiles

EXIT_USAGE = 2
PAYLOAD_BYTES_MAX = 1024 * 1024
# rumqttd keeps what was published to a filter in a ring of segments in memory; a subscriber who
# falls behind the whole ring silently loses the oldest. 256 MiB a filter is more than any run of
# the demo or the tests. A read pulls a whole segment at once, hence many small ones.
SEGMENT_BYTES_MAX = 4 * 1024 * 1024
SEGMENT_COUNT_MAX = 64
CONNECTIONS_MAX = 100
CONNECT_TIMEOUT_MS = 60_000


def render_config(
    certificates: CertificateFiles,
    *,
    host: str,
    port: int,
    port_v311: int,
    users: Mapping[str, str] | None = None,
    inflight_max: int = 100,
) -> str:
    """Return the TOML for one MQTT 5 and one MQTT 3.1.1 listener, both with TLS.

    `users` maps names to passwords; without it everyone may connect. `inflight_max` is how many
    messages a subscriber may leave unacknowledged.
    """
    head = [
        "id = 0",
        "[router]",
        "id = 0",
        f"max_connections = {CONNECTIONS_MAX}",
        f"max_outgoing_packet_count = {max(200, inflight_max)}",
        f"max_segment_size = {SEGMENT_BYTES_MAX}",
        f"max_segment_count = {SEGMENT_COUNT_MAX}",
    ]
    for version, listener_port in (("v5", port), ("v4", port_v311)):
        head += [
            f"[{version}.1]",
            f'name = "{version}-1"',
            f"listen = {_text(f'{host}:{listener_port}')}",
            "next_connection_delay_ms = 1",
            f"[{version}.1.tls]",
            f"capath = {_text(certificates.ca_file)}",
            f"certpath = {_text(certificates.cert_file)}",
            f"keypath = {_text(certificates.key_file)}",
            f"[{version}.1.connections]",
            f"connection_timeout_ms = {CONNECT_TIMEOUT_MS}",
            f"max_payload_size = {PAYLOAD_BYTES_MAX}",
            f"max_inflight_count = {inflight_max}",
            "dynamic_filters = true",
        ]
        if users:
            head.append(f"[{version}.1.connections.auth]")
            head += [f"{_text(name)} = {_text(password)}" for name, password in users.items()]
    return "\n".join(head) + "\n"


def run(config_path: Path, *, verbose: bool) -> None:
    """Serve until a signal ends the process; UserError where rumqttd cannot start."""
    if not config_path.is_file():
        raise UserError(f"there is no configuration {config_path}")
    try:
        from iotcore import Broker  # noqa: PLC0415 - an optional part: the extra `demo`
    except ImportError as error:
        raise UserError(
            "the embedded broker needs the package iotcore: pip install 'gapless[demo]'"
        ) from error
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # rumqttd opens a span of level ERROR for each packet, and each would become a line here.
    for chatty in ("rumqttd", "tracing"):
        logging.getLogger(chatty).setLevel(logging.DEBUG if verbose else logging.CRITICAL)
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_DFL)
    try:
        broker = Broker(config_path=str(config_path))
        logging.getLogger(__name__).info("listening on %s", ", ".join(broker.listeners))
        broker.run_forever()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"rumqttd does not start with {config_path}: {error}") from error
    raise UserError(f"rumqttd ended by itself; is a port of {config_path} taken?")


@click.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True)
@click.option("--verbose", is_flag=True, help="Log what rumqttd does, packet by packet.")
def command(config_path: Path, verbose: bool) -> None:
    """Run rumqttd from the rumqttd TOML of --config."""
    try:
        run(config_path, verbose=verbose)
    except UserError as error:
        click.echo(f"gapless: {error}", err=True)
        sys.exit(EXIT_USAGE)


def _text(value: str | Path) -> str:
    """Quote for TOML, whose basic strings take every escape that JSON writes."""
    return json.dumps(str(value))


if __name__ == "__main__":
    command()
