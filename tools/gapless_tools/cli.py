"""The `gapless` command: gathers the subcommands, and turns a user's mistake into one sentence."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

import click

from gapless_gateway.errors import UserError

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

# name -> (module that holds `command`, one line for `gapless --help`). Modules are imported only
# when they are asked for, so that `gapless --help` answers at once on a Pi.
SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("gapless_tools.demo.command", "Run the field demo on this machine, on real parts."),
    "init": ("gapless_tools.init_command", "Write a commented configuration and its folders."),
    "run": ("gapless_tools.run_command", "Run the gateway."),
    "capture": ("gapless_tools.capture", "Keep everything a gateway publishes, and receipt it."),
    "audit": ("gapless_tools.audit_command", "Rebuild the account offline and judge it."),
    "wal": ("gapless_tools.wal_command", "Inspect, verify or repair a write-ahead log."),
    "virtual-board": ("gapless_tools.virtual_board", "Run the firmware without hardware."),
}


class LazyGroup(click.Group):
    """A click group whose subcommands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of a first use."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one subcommand, None when there is none of that name."""
        if cmd_name not in SUBCOMMANDS:
            return None
        command: click.Command = importlib.import_module(SUBCOMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in SUBCOMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Try it on this machine first: gapless demo",
)
@click.version_option(version("gapless"), prog_name="gapless")
def cli() -> None:
    """Telemetry from STM32 boards to an MQTT broker, with every sequence number accounted for."""


def run(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave; a user's mistake ends in one sentence and exit status 2."""
    try:
        # Without standalone mode click hands errors and Exit codes back instead of printing.
        status = command.main(args=arguments, prog_name=name, standalone_mode=False)
    except UserError as error:
        click.echo(f"gapless: {error}", err=True)
        sys.exit(EXIT_USAGE)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        click.echo("gapless: interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `gapless`."""
    run(cli, "gapless", arguments)


if __name__ == "__main__":
    main()
