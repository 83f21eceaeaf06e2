"""What both ends say is valid by the published schema, docs/wire-format.cddl."""

from __future__ import annotations

import re
from pathlib import Path

import cbor2
import pytest

from gapless_link.frame import FLAG_TOWARDS_BOARD, HEADER_BYTES, Framer
from tests.link.two_ends import TwoEnds
from tests.link.vectors import rows, unhex
from tests.support.requirements import require_module

CDDL = Path(__file__).resolve().parents[2] / "docs" / "wire-format.cddl"
# A record as firmware makes it: boot, wraps, ticks, kind, body.
RECORD = unhex("85030019100400a16174fa41ac0000")


class Schema:
    """The published schema, as zcbor understands it."""

    def __init__(self) -> None:
        # zcbor imports two names that cbor2 6 no longer has, and uses them only in `except`.
        for name in ("CBORDecodeValueError", "CBORDecodeEOF"):
            if not hasattr(cbor2, name):
                setattr(cbor2, name, cbor2.CBORDecodeError)
        import zcbor

        prelude = Path(zcbor.__file__).parent / "zcbor" / "prelude.cddl"
        # zcbor knows no .regexp; the link's own tests cover the characters of a device id.
        text = re.sub(r'\.regexp "[^"]*"', ".size (1..32)", CDDL.read_text())
        translator = zcbor.DataTranslator.from_cddl(prelude.read_text() + text, 3)
        self._message = translator.my_types["message"]
        self.error = zcbor.CddlValidationError

    def validate(self, data: bytes) -> None:
        self._message.validate_str(data)


@pytest.fixture(scope="module")
def schema() -> Schema:
    require_module("zcbor", hint="pip install zcbor")
    return Schema()


def _cbor(frame: bytes, towards_board: bool) -> bytes:
    framer = Framer(512, FLAG_TOWARDS_BOARD if towards_board else 0)
    framer.feed(frame)
    assert framer.next_frame()
    return bytes(framer.body[HEADER_BYTES : framer.cbor_end])


def test_the_vectors_are_valid(schema: Schema) -> None:
    for row in rows("frames"):
        schema.validate(_cbor(unhex(row["hex"]), row["towards"] == "board"))


@pytest.mark.parametrize(
    "message",
    [
        [8, [0, 0, 0]],
        [8, [0, 0, 0, 2**30]],
        [6, 1, 1, bytes(33)],
        [5, [0, 0, 0, 0], 1, 2, 8, True],
        [4, [0, 0, 0, 0], 1],
        [4, [0, 0, 0, 0], 0, b"\x00"],
        [9, 1],
        [7, 0, "no", None],
    ],
)
def test_the_schema_refuses_what_the_link_refuses(schema: Schema, message: list[object]) -> None:
    with pytest.raises(schema.error):
        schema.validate(cbor2.dumps(message))


def test_whatever_two_ends_say_to_each_other_is_valid(
    schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.link.two_ends.record_bytes", lambda seq, length=0: RECORD)
    ends = TwoEnds(seed=5, faults={"drop": 100}, delay_ms_max=20, capacity=30)
    seen = set()
    for line, towards_board in ((ends.up, False), (ends.down, True)):
        _watch(line, towards_board, schema, seen)
    for boot in range(2, 5):
        ends.produce(50)
        ends.run_ms(2500)
        ends.restart_board(boot)
    ends.run_until_settled()
    assert seen == {1, 2, 3, 4, 5, 6, 8}


def _watch(line: object, towards_board: bool, schema: Schema, seen: set[int]) -> None:
    write = line.write

    def checked(data: bytes, now_ms: int) -> None:
        for frame in bytes(data).split(b"\0"):
            if frame:
                message = _cbor(frame + b"\0", towards_board)
                schema.validate(message)
                seen.add(cbor2.loads(message)[0])
        write(data, now_ms)

    line.write = checked
