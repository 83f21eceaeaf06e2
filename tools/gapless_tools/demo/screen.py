"""What the demo shows while it runs: a live table on a terminal, plain lines elsewhere.

What it shows of the account is what the gateway says of itself (`/account`); the verdict comes
later, from others.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

EVENTS_SHOWN = 6
BACKLOG_SAMPLES = 60
PLAIN_PERIOD_S = 5.0
BARS = " ▁▂▃▄▅▆▇█"

ACCOUNT_COLUMNS = (
    ("produced", "produced"),
    ("delivered", "delivered"),
    ("pending_gateway", "gateway"),
    ("pending_device", "board"),
    ("quarantined", "quarantined"),
    ("lost", "lost"),
    ("unexplained", "unexplained"),
)


@dataclass(slots=True)
class State:
    """What is known at this moment, from the demo's own doings and from the gateway."""

    parts: dict[str, str] = field(default_factory=dict)  # name -> "up", "killed" ...
    account: dict[str, Any] | None = None  # the last answer of /account
    backlog_peak: int = 0
    backlog: deque[int] = field(default_factory=lambda: deque(maxlen=BACKLOG_SAMPLES))

    def take_account(self, account: dict[str, Any] | None) -> None:
        """Keep an answer of the gateway; None while it does not answer."""
        if account is None:
            return
        self.account = account
        backlog = backlog_of(account)
        self.backlog.append(backlog)
        self.backlog_peak = max(self.backlog_peak, backlog)


def backlog_of(account: dict[str, Any]) -> int:
    """Return how many seqs are stored at the gateway and not delivered."""
    return sum(stream["balance"]["pending_gateway"] for stream in account["streams"])


class Screen:
    """A context manager that shows a State until it ends."""

    def __init__(self, console: Console, duration_s: float) -> None:
        self.state = State()
        self._console = console
        self._duration_s = duration_s
        self._began = time.monotonic()
        self._phase = ""
        self._events: deque[str] = deque(maxlen=EVENTS_SHOWN)
        self._live: Live | None = None
        self._printed_at = 0.0

    def __enter__(self) -> Screen:
        """Begin to draw."""
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as a person expects it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def begin_clock(self) -> None:
        """Count seconds from here."""
        self._began = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since `begin_clock`."""
        return time.monotonic() - self._began

    def phase(self, words: str) -> None:
        """Say what is being done now."""
        self._phase = words
        self.event(words)

    def event(self, words: str) -> None:
        """Tell one thing that happened."""
        line = f"{self.elapsed_s:5.1f} s  {words}"
        self._events.append(line)
        if self._live is None:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.refresh()

    def refresh(self) -> None:
        """Draw what is known now; without a terminal, a line every few seconds."""
        if self._live is not None:
            self._live.update(self._render())
        elif self.elapsed_s - self._printed_at >= PLAIN_PERIOD_S:
            self._printed_at = self.elapsed_s
            self._console.print(self._plain_line(), markup=False, highlight=False, soft_wrap=True)

    def _plain_line(self) -> str:
        parts = " ".join(f"{name}:{state}" for name, state in self.state.parts.items())
        account = self.state.account
        if account is None:
            return f"{self.elapsed_s:5.1f} s  {parts}"
        totals = {
            key: sum(stream["balance"][key] for stream in account["streams"])
            for key, _ in ACCOUNT_COLUMNS
        }
        sums = ", ".join(f"{words} {totals[key]}" for key, words in ACCOUNT_COLUMNS)
        return f"{self.elapsed_s:5.1f} s  {parts} | {sums}"

    def _render(self) -> RenderableType:
        rows: list[RenderableType] = [self._headline()]
        if self.state.account is not None:
            rows += [account_table(self.state.account), self._backlog_line()]
        rows += [Text(event, style="dim") for event in self._events]
        return Group(*rows)

    def _headline(self) -> Text:
        text = Text()
        text.append(f"{self.elapsed_s:4.0f}/{self._duration_s:.0f} s  ", style="bold")
        for name, state in self.state.parts.items():
            style = {"up": "green", "paused": "yellow"}.get(state, "bold red")
            text.append(f"{name} ")
            text.append(state, style=style)
            text.append("   ")
        return text

    def _backlog_line(self) -> Text:
        peak = max(self.state.backlog_peak, 1)
        bars = "".join(BARS[min(8, round(8 * n / peak))] for n in self.state.backlog)
        now = self.state.backlog[-1] if self.state.backlog else 0
        return Text(f"backlog {now:6d}  peak {self.state.backlog_peak:6d}  {bars}", style="cyan")


def account_table(account: dict[str, Any]) -> Table:
    """Return the account as a table of 80 columns: a row a stream, a column a state of a seq.

    produced is the sum of the columns behind it; "gateway" and "board" are where pending ones are.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("device", no_wrap=True)
    table.add_column("link", no_wrap=True)
    for _, words in ACCOUNT_COLUMNS:
        table.add_column(words, justify="right", no_wrap=True)
    for stream in sorted(account["streams"], key=lambda one: (one["device"], one["closed"])):
        balance = stream["balance"]
        cells = [f"{balance[key]}" for key, _ in ACCOUNT_COLUMNS]
        if balance["lost_at_most"]:
            lost = [key for key, _ in ACCOUNT_COLUMNS].index("lost")
            cells[lost] += f"+≤{balance['lost_at_most']}"
        unexplained = Text(cells[-1], style="green" if cells[-1] == "0" else "bold red")
        table.add_row(stream["device"], stream["link"], *cells[:-1], unexplained)
    return table
