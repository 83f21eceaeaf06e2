"""Only typed outcomes from any bytes (hypothesis), and the codec against cbor2 both ways."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import cbor2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gapless_link import cbor
from gapless_link.errors import FrameFault
from gapless_link.frame import (
    FLAG_TOWARDS_BOARD,
    FrameEncoder,
    Framer,
    decode_in_place,
    encode_in_place,
)
from gapless_link.gateway_cbor import ValueReader
from gapless_link.gateway_framer import decode
from gapless_link.gateway_messages import read_records, record_head
from gapless_link.receiver import Receiver
from gapless_link.sender import Identity, Sender
from tests.link.handmade import (
    LOG_ID,
    STREAM,
    clock,
    drain,
    encoded_bytes_max,
    frame,
    from_gateway,
    hello,
    messages,
)
from tests.link.two_ends import ListOutbox, TwoEnds

FEW = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)

float32 = st.floats(width=32, allow_nan=False)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | float32
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 99), inner, max_size=4)
    ),
    max_leaves=8,
)


def _depth(value: object) -> int:
    if isinstance(value, list):
        return 1 + max((_depth(item) for item in value), default=0)
    if isinstance(value, dict):
        return 1 + max((_depth(item) for item in value.values()), default=0)
    return 0


@FEW
@given(values)
def test_cbor2_reads_what_the_codec_writes(value: object) -> None:
    buffer = bytearray(4096)
    end = cbor.put_value(buffer, 0, value)
    assert len(buffer) == 4096
    assert cbor2.loads(bytes(buffer[:end])) == value


@FEW
@given(values)
def test_the_codec_reads_what_cbor2_writes(value: object) -> None:
    def encode(item: object) -> bytes:
        if isinstance(item, float):
            return b"\xfa" + struct.pack(">f", item)
        if isinstance(item, list):
            return bytes([0x80 + len(item)]) + b"".join(map(encode, item))
        if isinstance(item, dict):
            pairs = b"".join(encode(k) + encode(v) for k, v in item.items())
            return bytes([0xA0 + len(item)]) + pairs
        return cbor2.dumps(item)

    data = encode(value)
    reader = ValueReader().load(data, 0, len(data))
    if _depth(value) > 4:
        return
    assert reader.value() == value
    reader.finish()


@FEW
@given(st.floats())
def test_a_float_beyond_float32_becomes_infinite_and_never_an_error(value: float) -> None:
    buffer = bytearray(5)
    cbor.put_value(buffer, 0, value)
    read = cbor2.loads(bytes(buffer))
    if math.isnan(value):
        assert math.isnan(read)
    else:
        assert math.isinf(read) or math.isclose(read, value, rel_tol=1e-6, abs_tol=1e-37)


@FEW
@given(values, st.integers(0, 60))
def test_a_buffer_too_short_is_an_index_error_and_stays_as_long(value: object, size: int) -> None:
    buffer = bytearray(size)
    try:
        cbor.put_value(buffer, 0, value)
    except IndexError:
        pass
    assert len(buffer) == size


@FEW
@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_fault(data: bytes) -> None:
    reader = ValueReader().load(data, 0, len(data))
    try:
        value = reader.value()
    except FrameFault as fault:
        assert fault.code == "cbor"
    else:
        # What it reads is CBOR, and the same.
        read = cbor2.loads(data[: reader.at])
        assert read == value or repr(read) == repr(value) or "nan" in repr(read)


@FEW
@given(st.binary(max_size=80))
def test_any_bytes_are_a_record_or_a_fault(data: bytes) -> None:
    try:
        assert len(record_head(data)) == 4
    except FrameFault:
        pass


@FEW
@given(st.binary(max_size=600))
def test_any_body_survives_cobs(raw: bytes) -> None:
    buffer = bytearray(encoded_bytes_max(len(raw)))
    buffer[1 : 1 + len(raw)] = raw
    end = encode_in_place(buffer, 1 + len(raw))
    assert buffer.count(0) - buffer[end:].count(0) == 1 and buffer[end - 1] == 0
    assert decode(bytes(buffer[: end - 1])) == raw
    decoded_bytes = decode_in_place(buffer, end - 1)
    assert buffer[:decoded_bytes] == raw


string_heads = st.sampled_from(
    [b"\x40", b"\x41", b"\x57", b"\x58\x17", b"\x58\x18", b"\x58\xff", b"\x59\0\x18", b"\x59\1\xb9"]
)
strings = st.binary(max_size=60).map(cbor2.dumps) | st.just(cbor2.dumps(bytes(441)))


@FEW
@given(st.lists(string_heads | strings, max_size=5), st.binary())
def test_records_are_read_as_strings_one_by_one(items: list[bytes], tail: bytes) -> None:
    data = b"".join(items) + tail
    at_once, one_by_one = ValueReader(), ValueReader()
    assert _outcome(
        lambda: read_records(at_once.load(data, 0, len(data)), 1, len(items))
    ) == _outcome(lambda: _read_strings(one_by_one.load(data, 0, len(data)), len(items)))


def _read_strings(reader: ValueReader, count: int) -> list[bytes]:
    strings = [reader.bytes(1, 440) for _ in range(count)]
    reader.finish()
    return strings


def _outcome(read: Callable[[], list[bytes]]) -> list[bytes] | tuple[str, str]:
    try:
        return read()
    except FrameFault as fault:
        return fault.code, fault.detail


@FEW
@given(st.lists(st.binary(max_size=700), max_size=8))
def test_a_framer_gives_frames_or_faults_and_keeps_its_size(pieces: list[bytes]) -> None:
    framer = Framer(512, 0)
    for piece in pieces:
        framer.feed(piece)
        while True:
            try:
                if not framer.next_frame():
                    break
            except FrameFault:
                pass
        assert len(framer.body) == 512
    # Whatever came: two frames later at the latest it understands again.
    good = frame(b"sess", 7, [8, clock()])
    framer.feed(b"\0" + good)
    while True:
        try:
            assert framer.next_frame()
            break
        except FrameFault:
            pass
    assert framer.counter == 7


def _sealed(session: bytes, counter: int, payload: bytes, flags: int) -> bytes:
    encoder = FrameEncoder(1024, flags)
    at = encoder.begin(session, counter)
    encoder.buffer[at : at + len(payload)] = payload
    return bytes(encoder.finish(at + len(payload)))


some_items = st.lists(
    st.integers(0, 9) | st.integers(0, 2**31) | scalars | st.lists(st.integers(0, 600), max_size=5),
    min_size=1,
    max_size=20,
)
payloads = some_items.map(cbor2.dumps) | st.binary(min_size=1, max_size=150)


@FEW
@given(st.lists(payloads, max_size=12))
def test_a_linked_receiver_gives_only_events(bodies: list[bytes]) -> None:
    receiver = Receiver(lambda count: b"r" * count)
    receiver.receive(frame(b"\0\0\0\0", 1, hello()), 0)
    drain(receiver)
    receiver.welcome(LOG_ID, STREAM, 0, 500)
    ((session, _, welcome),) = messages(receiver.data_to_send(0), True)
    receiver.receive(frame(session, 1, [3, clock(), welcome[7], b""]), 0)
    drain(receiver)
    receiver.begin(1, [])
    for number, body in enumerate(bodies):
        receiver.receive(_sealed(session, number + 2, body, 0), number)
        drain(receiver)
        receiver.data_to_send(number)


@FEW
@given(st.lists(payloads, max_size=12))
def test_a_linked_sender_gives_only_events(bodies: list[bytes]) -> None:
    outbox = ListOutbox()
    for _ in range(30):
        outbox.add(b"record")
    sender = Sender(Identity("pump-1", b"uid-1"), outbox)
    sender.data_to_send(0)
    ((_, _, greeting),) = messages(sender.data_to_send(0), False)
    welcome = [2, 1, LOG_ID, STREAM, 0, 900, greeting[14], b"n" * 8, b""]
    sender.receive(from_gateway(b"sess", 1, welcome), 0)
    drain(sender)
    sender.confirm()
    sender.receive(from_gateway(b"sess", 2, [6, 0, 900, b""]), 0)
    for number, body in enumerate(bodies):
        while len(sender.data_to_send(number)):
            pass
        sender.receive(_sealed(b"sess", number + 3, body[:110], FLAG_TOWARDS_BOARD), number)
        drain(sender)
    assert outbox.freed_through < outbox.next_seq


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 2**31 - 1),
    st.fixed_dictionaries(
        {
            name: st.integers(0, limit)
            for name, limit in (
                ("drop", 400),
                ("cut", 200),
                ("flip", 300),
                ("repeat", 300),
                ("garbage", 200),
            )
        }
    ),
    st.integers(0, 200),
    st.integers(0, 9),
)
def test_the_account_holds_on_any_line(
    seed: int, faults: dict[str, int], delay_ms_max: int, piece_bytes_max: int
) -> None:
    ends = TwoEnds(seed, faults, delay_ms_max, piece_bytes_max, capacity=60)
    for _ in range(4):
        ends.produce(ends.random.below(50), ends.random.below(100))
        ends.run_ms(ends.random.below(800))
    ends.up.faults = ends.down.faults = {}
    ends.run_until_settled()
    ends.check_account()
