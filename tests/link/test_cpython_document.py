"""The published document and the vectors say the same."""

from __future__ import annotations

import re
from pathlib import Path

from gapless_link import cbor, flights, gateway_cbor, gateway_messages, messages, sender
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
        for name, number in {**vars(messages), **vars(gateway_messages)}.items():
            if name.startswith(prefix):
                words = name[len(prefix) :].lower()
                pattern = rf"\b{number}\s+({words}|{words.replace('_', '-')})\b"
                assert re.search(pattern, DOCUMENT), name


def test_numbers_that_are_private_at_a_board_are_those_of_the_gateway() -> None:
    # A name of its own in each module takes no memory on a board, an imported one does.
    shared = {**vars(gateway_cbor), **vars(messages), **vars(gateway_messages)}
    compared = set()
    for module in (cbor, sender, flights):
        for name, number in vars(module).items():
            if name.startswith("_") and name[1:] in shared and isinstance(number, int):
                assert number == shared[name[1:]], f"{module.__name__}.{name}"
                compared.add(name)
    assert {"_TEXT", "_FLOAT32", "_BITMAP_BYTES_MAX", "_WORDS_BYTES_MAX", "_TICKS_MASK"} <= compared
    assert sender.NO_SESSION == gateway_messages.NO_SESSION
    assert flights.WINDOW_SEQS == 8 * gateway_messages.BITMAP_BYTES_MAX
