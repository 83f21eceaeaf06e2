"""`gapless run`: the gateway in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from gapless_gateway import config as configuration
from gapless_gateway import logs
from gapless_gateway.daemon import Daemon
from gapless_gateway.errors import UserError


@click.command(
    epilog="""\b
Examples:
  gapless run                              with /etc/gapless/gateway.toml
  gapless run --config hall-3.toml
  gapless run --config hall-3.toml --check only judge the configuration
"""
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    default=configuration.DEFAULT_CONFIG_FILE,
    show_default=True,
    help="The configuration file; `gapless init` writes one.",
)
@click.option("--check", is_flag=True, help="Check the configuration and leave.")
def command(config_file: Path, check: bool) -> None:
    """Run the gateway: from serial ports, over the log on disk, to the broker.

    It stays in the foreground and finishes cleanly on SIGTERM and Ctrl-C (exit status 0). A
    mistake that waiting cannot heal ends it at once with one sentence and exit status 2.
    """
    config = configuration.load(config_file)
    if check:
        click.echo(f"{config_file}: nothing wrong")
        return
    logs.set_up(config.log.level, config.log.format)
    try:
        asyncio.run(Daemon(config).run())
    except BaseExceptionGroup as group:
        # A task group wraps what a task raised; a person's mistake is shown as itself.
        mistakes, others = group.split(UserError)
        if mistakes is None or others is not None:
            raise
        raise _first(mistakes) from None


def _first(group: BaseExceptionGroup[UserError]) -> UserError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, UserError)
    return error
