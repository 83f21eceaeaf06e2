"""What an audit looks for, and what it found: the checks, and the findings that name a culprit."""

from __future__ import annotations

from dataclasses import dataclass, field

US = "us"
BROKER = "broker"
CONSUMER = "consumer"
DEVICE = "device"
CULPRITS = (US, BROKER, CONSUMER, DEVICE)

# Who each culprit is, in words for a reader of the report.
CULPRIT_WORDS = {
    US: "the gateway (its software or its storage)",
    BROKER: "the MQTT broker",
    CONSUMER: "the consumer that wrote the capture",
    DEVICE: "the device",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that an audit looks for. `needs_capture`: the books alone cannot answer it."""

    name: str
    title: str
    needs_capture: bool = False


CHECKS = (
    Check("log", "The log can be read from its first to its last entry, and nothing is cut out"),
    Check("ledger", "The ledger's chain is whole and ends where the log says it ends"),
    Check("explained", "Every sequence number is in exactly one state, and the sum is right"),
    Check("order", "The log's entries stand in an order in which they can have happened"),
    Check("conflicts", "No sequence number was seen with two different contents"),
    Check("elsewhere", "What another gateway took over is accounted for in its log, if given"),
    Check("capture", "Every line of the capture can be read", needs_capture=True),
    Check("arrived", "Everything delivered is in the capture", needs_capture=True),
    Check("known", "Everything in the capture is in the log", needs_capture=True),
    Check("content", "What arrived is what was logged, value for value", needs_capture=True),
    Check("flagged", "No transmission of ours was repeated without its flag", needs_capture=True),
    Check("sent-order", "First transmissions left in the order of the log", needs_capture=True),
    Check("arrival-order", "First transmissions arrived in the order sent", needs_capture=True),
)
CHECK_NAMES = frozenset(check.name for check in CHECKS)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that makes the verdict FAIL.

    `culprits`: who did it; more than one where the evidence cannot tell them apart.
    """

    check: str
    culprits: tuple[str, ...]
    words: str
    device: str | None = None
    stream: str | None = None
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse a finding that no reader could place: a bug of ours."""
        if self.check not in CHECK_NAMES or not self.culprits or set(self.culprits) - {*CULPRITS}:
            raise ValueError(f"no such check or culprit: {self.check}, {self.culprits}")


@dataclass(slots=True)
class Findings:
    """All findings of an audit, in the order in which they were made."""

    items: list[Finding] = field(default_factory=list)

    def add(
        self,
        check: str,
        culprits: tuple[str, ...],
        words: str,
        *,
        device: str | None = None,
        stream: str | None = None,
        count: int = 1,
    ) -> None:
        """Note one finding."""
        self.items.append(Finding(check, culprits, words, device, stream, count))

    def of(self, check: str) -> list[Finding]:
        """The findings of one check."""
        return [finding for finding in self.items if finding.check == check]

    def culprits(self) -> tuple[str, ...]:
        """Everyone named, once, in the order of CULPRITS."""
        named = {culprit for finding in self.items for culprit in finding.culprits}
        return tuple(culprit for culprit in CULPRITS if culprit in named)
