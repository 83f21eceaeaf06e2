"""Whatever comes in on one port is counted there and answered; the others feel nothing."""

from __future__ import annotations

import random

import cbor2
import pytest

from gapless_link import gateway_messages
from tests.support import raw_frames
from tests.support.raw_frames import RawPort, frame, hello
from tests.support.running_gateway import eventually

SEED = 20261122
SOUND = frame(hello("raw-1"))
BAD_BYTES = {
    "garbage": (random.Random(SEED).randbytes(20_000), None),
    "text of a bootloader": (b"MPY: soft reboot\r\nTraceback (most recent call last):\r\n\0", None),
    "broken COBS": (b"\xff\x01\x02\0", "cobs"),
    "half a frame, then the next": (SOUND[:30] + b"\0", None),
    "a flipped bit": (SOUND.replace(b"raw-1", b"saw-1"), "crc"),
    "a frame too long": (b"\x02" * 5000 + b"\0", "too_long"),
    "a megabyte without an end": (b"\x02" * 1_000_000 + b"\0", "too_long"),
    "CBOR nested 400 deep": (frame(b"\x84\x01\x07\x09" + b"\x81" * 400), "cbor"),
    "CBOR array of 2^63 items": (frame(b"\x9b" + b"\x7f" + b"\xff" * 7), "cbor"),
    "CBOR text of 2^63 bytes": (frame(b"\x84\x01\x07\x09\x7b\x7f" + b"\xff" * 7), "cbor"),
    "CBOR of indefinite length": (frame(b"\x9f\x01\x01\x01\xff"), "cbor"),
    "a gateway's frame turned around": (frame(hello(), flags=0x12), "direction"),
    "an envelope from the future": (frame(hello(), flags=0x20), "version"),
    "a message without a session": (frame([8, [0, 0, 0, 0]]), "session"),
    "a message of an unknown session": (frame([8, [0, 0, 0, 0]], session=b"abcd"), "session"),
    "an unknown message": (frame([99, 1, 2, 3]), "unknown_type"),
    "a HELLO of the wrong form": (frame(hello(boot="one")), None),
}


@pytest.fixture
async def raw(tmp_path):
    port = RawPort(tmp_path / "tty-raw")
    yield port
    port.close()


@pytest.mark.parametrize("what", BAD_BYTES)
async def test_bad_bytes_are_counted_on_their_port_and_no_other_port_notices(
    gateway, boards, raw, what
):
    print(f"seed {SEED}")
    data, code = BAD_BYTES[what]
    board = boards("pump-1")
    await gateway.start([raw.path, board.path])
    await eventually(lambda: board.linked)
    board.sample(10)
    await raw.write(data)
    board.sample(10)
    labels = {"port": str(raw.path)} | ({"code": code} if code else {})
    await gateway.metric_reaches(1, "gapless_link_frame_faults_total", **labels)
    board.sample(10)
    await eventually(lambda: board.acked_through == 30)

    metrics = await gateway.metrics()
    other = {"port": str(board.path)}
    assert metrics.value("gapless_link_frame_faults_total", **other) == 0
    assert metrics.value("gapless_link_sessions_started_total", **other) == 1
    assert metrics.value("gapless_link_sessions_ended_total", **other) == 0
    assert metrics.value("gapless_produced_seqs") == 30
    metrics.assert_balanced()
    # And the port itself still hears a board that makes sense.
    await raw.write(b"\0" + SOUND)
    await eventually(lambda: raw.answers(raw_frames.WELCOME), "a WELCOME after the bad bytes")


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (hello(vmin=7, vmax=9), gateway_messages.REJECT_VERSION, "version"),
        ([raw_frames.HELLO, 7, 9, {"all": "new"}], gateway_messages.REJECT_VERSION, "version"),
        (hello("pump/#"), gateway_messages.REJECT_DEVICE_ID, "device id"),
        (hello("pümp"), gateway_messages.REJECT_DEVICE_ID, "device id"),
        (hello("x" * 33), gateway_messages.REJECT_DEVICE_ID, "device id"),
        (hello(""), gateway_messages.REJECT_DEVICE_ID, "device id"),
        (hello(boot="one"), gateway_messages.REJECT_MALFORMED, "HELLO"),
    ],
)
async def test_a_hello_that_cannot_be_accepted_is_answered_by_a_reject_that_says_why(
    gateway, raw, message, code, words
):
    await gateway.start([raw.path])
    await raw.write(frame(message))
    await eventually(lambda: raw.answers(raw_frames.REJECT), "a REJECT")
    _, got, said, _ = raw.answers(raw_frames.REJECT)[0].message
    assert got == code
    assert words in said
    assert (await gateway.get("/account"))[1]["streams"] == []


async def test_a_stale_hello_registers_nothing(gateway, raw):
    await gateway.start([raw.path])
    await raw.write(frame(hello("ghost", next=500)))
    await eventually(lambda: raw.answers(raw_frames.WELCOME), "a WELCOME")
    stale_start = [raw_frames.START, [0, 2000, 1, 5], b"8 bytes!", b""]
    session = raw.answers(raw_frames.WELCOME)[0].session
    await raw.write(frame(stale_start, session=session))
    await gateway.metric_reaches(1, "gapless_link_frame_faults_total", code="nonce")
    assert (await gateway.get("/account"))[1]["streams"] == []
    assert (await gateway.metrics()).value("gapless_link_sessions_started_total") == 0


async def test_a_hello_left_over_in_the_line_does_not_disturb_the_session_that_runs(
    gateway, boards
):
    board = boards("pump-1")
    await gateway.start([board.path])
    board.sample(5)
    await eventually(lambda: board.acked_through == 5)
    hello_frame = next(one + b"\0" for one in bytes(board.sent).split(b"\0") if len(one) > 40)
    board.write_raw(hello_frame)
    board.sample(5)
    await eventually(lambda: board.acked_through == 10)
    metrics = await gateway.metrics()
    assert metrics.value("gapless_link_sessions_started_total") == 1
    assert metrics.value("gapless_link_hellos_total") >= 2
    metrics.assert_balanced()


async def test_two_boards_of_one_name_are_told_apart_by_uid_and_the_second_is_refused(
    gateway, boards
):
    board = boards("pump-1", b"uid-1")
    impostor = boards("pump-1", b"uid-2", port="other")
    await gateway.start([board.path])
    board.sample(3)
    await eventually(lambda: board.acked_through == 3)
    await gateway.stop()
    await gateway.start([board.path, impostor.path])
    await eventually(lambda: impostor.rejections, "the refusal")
    code, words = impostor.rejections[0]
    assert code == gateway_messages.REJECT_IDENTITY
    assert "pump-1" in words
    board.sample(3)
    await eventually(lambda: board.acked_through == 6)
    metrics = await gateway.metrics()
    assert metrics.value("gapless_identity_faults_total", what="name_taken") >= 1
    assert metrics.value("gapless_produced_seqs") == 6
    metrics.assert_balanced()


async def test_one_uid_under_two_names_is_refused(gateway, boards):
    board = boards("pump-1", b"uid-1")
    await gateway.start([board.path])
    board.sample()
    await eventually(lambda: board.acked_through == 1)
    await gateway.stop()
    renamed = boards("pump-2", b"uid-1", port="other")
    await gateway.start([renamed.path])
    await eventually(lambda: renamed.rejections, "the refusal")
    assert renamed.rejections[0][0] == gateway_messages.REJECT_IDENTITY


async def test_records_of_bytes_that_are_no_record_are_kept_and_not_dated(gateway, raw):
    await gateway.start([raw.path])
    await raw.write(frame(hello("odd", next=3, held=[[1, 2]])))
    await eventually(lambda: raw.answers(raw_frames.WELCOME), "a WELCOME")
    welcome = raw.answers(raw_frames.WELCOME)[0]
    await raw.write(raw_frames.start(welcome))
    await eventually(lambda: raw.answers(raw_frames.ACK), "the session")
    records = [raw_frames.RECORDS, [0, 1020, 1, 5], 1, b"\xff\xff", cbor2.dumps(["a", 1])]
    await raw.write(frame(records, session=welcome.session, counter=2))
    await eventually(lambda: raw.answers(raw_frames.ACK)[-1].message[1] == 2, "the ACK of both")
    metrics = await gateway.metrics()
    assert metrics.value("gapless_records_undated_total", device="odd") == 2
    metrics.assert_balanced()
