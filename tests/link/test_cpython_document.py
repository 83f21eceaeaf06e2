"""The published document and the vectors say the same."""

from __future__ import annotations

import re
from pathlib import Path

from gapless_link import messages
from tests.link.vectors import rows

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "wire-format.md").read_text()


def test_every_worked_example_is_a_vector() -> None:
    examples = re.findall(r"^    ([0-9a-f]{30,}00)$", DOCUMENT, re.MULTILINE)
    assert len(examples) >= 7
    assert set(examples) <= {row["hex"] for row in rows("frames")}


def test_the_numbers_of_messages_reasons_and_codes_are_in_the_document() -> None:
    for name in ("HELLO", "WELCOME", "START", "RECORDS", "LOST", "ACK", "REJECT", "PING"):
        assert f"| {getattr(messages, name)} | {name} |" in DOCUMENT
    for prefix in ("REASON_", "REJECT_"):
        for name in dir(messages):
            if name.startswith(prefix):
                words = name[len(prefix) :].lower()
                number = getattr(messages, name)
                pattern = rf"\b{number}\s+({words}|{words.replace('_', '-')})\b"
                assert re.search(pattern, DOCUMENT), name
