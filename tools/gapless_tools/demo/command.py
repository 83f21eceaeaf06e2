"""`gapless demo`."""

from __future__ import annotations

from pathlib import Path

import click

from gapless_tools.demo.plan import make_plan


@click.command(
    short_help="Run the field demo on this machine, on real parts.",
    epilog="""\b
Examples:
  gapless demo
  gapless demo --devices 6 --duration 120 --outage 30:45
  gapless demo --broker mosquitto --report /tmp/evidence

Exit status: 0 only if the verdict is PASS and a backlog was seen to grow and to drain, 1 if not,
2 for a mistake in the options or a part that could not run, 130 after Ctrl-C.""",
)
@click.option("--devices", default=3, show_default=True, help="Number of virtual boards.")
@click.option(
    "--duration", default=60.0, show_default=True, help="Seconds for which the boards sample."
)
@click.option(
    "--outage",
    metavar="AT:LENGTH",
    help="When the broker is killed and for how long, in seconds. [default: the middle third]",
)
@click.option(
    "--broker",
    type=click.Choice(["embedded", "mosquitto"]),
    default="embedded",
    show_default=True,
    help="rumqttd from the iotcore wheel, or Mosquitto where it is installed.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for configuration, logs and evidence. [default: gapless-demo-DATE-TIME here]",
)
def command(
    devices: int, duration: float, outage: str | None, broker: str, report: Path | None
) -> int:
    """Boards, a gateway, a TLS broker, an outage, a clean recovery, and the account of it.

    Starts an MQTT broker with TLS, virtual boards that run the firmware on the MicroPython
    interpreter, the gateway, and an independent consumer. Kills the broker with SIGKILL, and
    during that outage one board and the gateway too; starts each again, lets everything drain,
    and audits what the consumer received against what the boards produced. All of it on
    127.0.0.1, in a folder of its own.
    """
    plan = make_plan(devices, duration, outage)
    # Here and not above: the help and the checks must answer without the parts of a run.
    from gapless_tools.demo.run import run_demo  # noqa: PLC0415

    return run_demo(plan, broker, report)
