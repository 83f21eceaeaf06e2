"""How the demo ends: the table at rest, what was shown, the verdict, and where the evidence is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from gapless_tools.audit.run import EXIT_PASS, Result
from gapless_tools.demo.screen import account_table

WHAT_EACH_MODE_SURVIVES = """\
What each mode survives:
  "puback"   (the default) boards, gateway and network may fail at any moment;
             the broker too, if it keeps what it has acknowledged. One that is
             killed takes along what it had not yet passed on.
  "receipt"  the same, and a broker that forgets everything: the gateway keeps
             a record until the consumer has it on its own disk. This demo
             ran so."""


@dataclass(frozen=True, slots=True)
class Closing:
    """Everything that the verdict of the demo rests on."""

    result: Result
    produced_by_boards: dict[str, int]  # read from the boards' registers, past the gateway
    backlog_peak: int
    gateway_status: int | None
    consumer_status: int | None
    account: dict[str, Any] | None
    root: Path

    def failures(self) -> list[str]:
        """Return a sentence for each thing that a successful demo must not show."""
        failures = []
        if self.result.exit_status != EXIT_PASS:
            failures.append(f"the audit says {self.result.verdict.words}")
        failures += self._differences()
        outages = self.result.evidence["outages"]
        if self.backlog_peak == 0 or not any(outage["peak_pending"] for outage in outages):
            failures.append("no backlog was seen to grow")
        if not outages or any(outage["ended"] is None for outage in outages):
            failures.append("the backlog was not seen to drain")
        for name, status in (("gateway", self.gateway_status), ("consumer", self.consumer_status)):
            if status != 0:
                failures.append(f"the {name} ended with status {status}")
        return failures

    def _differences(self) -> list[str]:
        """Compare what the boards used with what the audit found, board by board."""
        found: dict[str, int] = {}
        for stream in self.result.evidence["streams"]:
            found[stream["device"]] = found.get(stream["device"], 0) + stream["produced"]
        return [
            f"{device} used {produced} numbers, and the account knows of {found.get(device, 0)}"
            for device, produced in self.produced_by_boards.items()
            if produced != found.get(device, 0)
        ]

    @property
    def passed(self) -> bool:
        """Whether the demo showed what it promises."""
        return not self.failures()


def print_closing(console: Console, closing: Closing) -> None:
    """Print the end of the demo."""
    console.print()
    if closing.account is not None:
        console.print(account_table(closing.account))
    for outage in closing.result.evidence["outages"]:
        drained_in_s = outage["drained_in_s"]
        words = "not drained" if drained_in_s is None else f"drained in {drained_in_s:.1f} s"
        console.print(
            f"outage {outage['id']}: peak backlog {outage['peak_pending']} records, {words}",
            highlight=False,
        )
    produced = ", ".join(f"{name} {count}" for name, count in closing.produced_by_boards.items())
    console.print(f"numbers used, as the boards say: {produced}", highlight=False, soft_wrap=True)
    console.print()
    console.print(WHAT_EACH_MODE_SURVIVES, markup=False, highlight=False)
    console.print()
    for failure in closing.failures():
        console.print(f"not as promised: {failure}", style="bold red", markup=False)
    style = "bold green" if closing.passed else "bold red"
    console.print(closing.result.verdict.words, style=style, highlight=False)
    for path in (closing.result.evidence_html, closing.result.evidence_json):
        console.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)
