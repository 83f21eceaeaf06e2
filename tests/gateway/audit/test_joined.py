"""A board that moved from one gateway to another is accounted for by both of their logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gapless_gateway.account.settling import settle
from gapless_gateway.wal.entries import Elsewhere, Entry, Record, Run, Session
from gapless_gateway.wal.log import Log
from gapless_tools.audit.run import Result, run_audit

STREAM = b"\x0a\x0b\x0c\x0d"
A, B = (1).to_bytes(8, "big"), (2).to_bytes(8, "big")


class Gateway:
    """A log in which one board speaks."""

    def __init__(self, directory: Path, log_id: bytes) -> None:
        self.directory = directory
        self.log = Log.open(directory, random_bytes=lambda _: log_id, now_ms=lambda: 1)
        name = f"hall-{log_id[-1]}"
        self.add(Run(1_000, 1, name, "0.1.0", "CPython", log_id, True, 0, ""))
        self.uptime_ms = 0

    def add(self, *entries: Entry) -> None:
        for entry in entries:
            self.log.append(entry)
        self.log.commit()
        self.log.apply_committed()

    def session(self, **facts: Any) -> None:
        """A HELLO, and what the gateway has to write because of it."""
        self.uptime_ms += 1000
        known = self.log.account.streams.get(STREAM)
        session = Session(
            **{
                "device": "pump-1", "uid": b"\x01", "stream": STREAM, "at_ms": 2_000, "port": "p",
                "boot": 1, "next": 1, "exact": True, "held": (), "acked": 0, "acked_by": None,
                "uptime_ms": self.uptime_ms, "firmware": "0.1.0", "board": "b", "runtime": "r",
                "base": 0,
                **facts,
            }
        )  # fmt: skip
        settlement = settle(session, known, self.log.log_id)
        self.add(session)
        for first, last, log_id in settlement.elsewhere:
            self.add(Elsewhere(STREAM, first, last, log_id))

    def records(self, first: int, last: int) -> None:
        for seq in range(first, last + 1):
            data = bytes.fromhex("8501000000a0")
            self.add(Record(STREAM, seq, 3_000 + seq, 1, 2, 1, 0, data))


def moved_board(directory: Path, *, a_has_through: int) -> Result:
    """1-3 came to B, the board went to A with 4-6, and back to B with 7-9."""
    a, b = Gateway(directory / "a", A), Gateway(directory / "b", B)
    b.session()
    b.records(1, 3)
    a.session(next=4, acked=3, acked_by=B, base=3)
    a.records(4, a_has_through)
    b.session(next=7, acked=6, acked_by=A)
    b.records(7, 9)
    a.log.close()
    b.log.close()
    return run_audit([directory / "a", directory / "b"])


def test_what_the_other_log_has_is_joined(tmp_path: Path) -> None:
    result = moved_board(tmp_path, a_has_through=6)
    assert result.evidence["reasons"] == []
    b = result.evidence["streams"][1]
    assert b["elsewhere"] == [{"first": 4, "last": 6, "log_id": A.hex()}]
    assert [row["produced"] for row in result.evidence["streams"]] == [3, 6]
    assert result.evidence["totals"]["produced"] == 9


def test_what_the_other_log_does_not_have_is_ours(tmp_path: Path) -> None:
    result = moved_board(tmp_path, a_has_through=5)
    (reason,) = result.evidence["reasons"]
    assert (reason["check"], reason["culprits"], reason["count"]) == ("elsewhere", ["us"], 1)
    assert "6 were acknowledged by log" in reason["words"]
