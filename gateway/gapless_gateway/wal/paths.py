"""Where things are in a state directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gapless_gateway.wal.format import segment_name


@dataclass(frozen=True, slots=True)
class StatePaths:
    """The files and folders of one state directory."""

    state_dir: Path

    @property
    def lock(self) -> Path:
        """Held by the gateway that runs on this directory."""
        return self.state_dir / "lock"

    @property
    def segments(self) -> Path:
        """The directory of the segments."""
        return self.state_dir / "wal"

    @property
    def header_copy(self) -> Path:
        """The header of the newest segment once more: its account stands nowhere else."""
        return self.state_dir / "header"

    @property
    def quarantine(self) -> Path:
        """Copies of damaged files, kept as evidence, and the records that were set aside."""
        return self.state_dir / "quarantine"

    @property
    def kept_records(self) -> Path:
        """Quarantined records whose segments were freed."""
        return self.quarantine / "records"

    @property
    def cursor(self) -> Path:
        """How far delivery has come."""
        return self.state_dir / "cursor"

    @property
    def ledger(self) -> Path:
        """Summaries of retired segments."""
        return self.state_dir / "ledger"

    @property
    def home(self) -> Path:
        """Holds its own inode number: a copy of the directory has another."""
        return self.state_dir / "home"

    @property
    def reserve(self) -> Path:
        """Space set aside for what has to be written on a full disk."""
        return self.state_dir / "reserve"

    def segment(self, first_lsn: int) -> Path:
        """The segment that begins with this LSN."""
        return self.segments / segment_name(first_lsn)
