"""The bytes on the line are those of the documented format, made by other codecs."""

from gapless_link import cbor
from gapless_link.errors import FrameFault
from gapless_link.frame import (
    FLAG_TOWARDS_BOARD,
    HEADER_BYTES,
    FrameEncoder,
    Framer,
    decode_in_place,
    encode_in_place,
)
from gapless_link.gateway_cbor import ValueReader
from gapless_link.gateway_messages import put_all
from gapless_link.receiver import HelloReceived, Receiver
from tests.link.handmade import encoded_bytes_max
from tests.link.vectors import rows, to_hex, unhex, value_of


def _cobs_decoded(encoded):
    buffer = bytearray(encoded)
    return buffer, decode_in_place(buffer, len(encoded))


def test_cobs_is_encoded_as_the_vectors_say():
    for row in rows("cobs"):
        raw = unhex(row["decoded"])
        buffer = bytearray(encoded_bytes_max(len(raw)))
        buffer[1 : 1 + len(raw)] = raw
        end = encode_in_place(buffer, 1 + len(raw))
        assert to_hex(buffer[:end]) == row["encoded"] + "00", row["what"]


def test_cobs_is_decoded_as_the_vectors_say():
    for row in rows("cobs"):
        target, length = _cobs_decoded(unhex(row["encoded"]))
        assert to_hex(target[:length]) == row["decoded"], row["what"]


def test_what_is_no_cobs_is_refused():
    for row in rows("cobs_bad"):
        assert _cobs_decoded(unhex(row["encoded"]))[1] == -1, row["what"]


def test_values_are_written_as_the_vectors_say():
    for row in rows("cbor"):
        value = value_of(row["value"])
        if isinstance(value, dict):
            # MicroPython's dict keeps no order: written and read back.
            buffer = bytearray(100)
            end = cbor.put_value(buffer, 0, value)
            assert ValueReader().load(buffer, 0, end).value() == value
            continue
        buffer = bytearray(len(row["hex"]) // 2)
        end = cbor.put_value(buffer, 0, value)
        assert to_hex(buffer[:end]) == row["hex"], row["what"]


def test_values_are_read_as_the_vectors_say():
    for row in rows("cbor"):
        data = unhex(row["hex"])
        reader = ValueReader().load(data, 0, len(data))
        assert reader.value() == value_of(row["value"]), row["what"]
        reader.finish()


def test_what_is_not_of_the_subset_is_refused():
    for row in rows("cbor_bad"):
        data = unhex(row["hex"])
        reader = ValueReader().load(data, 0, len(data))
        try:
            value = reader.value()
            reader.finish()
        except FrameFault as fault:
            assert fault.code == "cbor", row["what"]
        else:
            raise AssertionError("%s was read as %r" % (row["what"], value))


def test_every_message_is_written_as_the_vectors_say():
    for row in rows("frames"):
        flags = FLAG_TOWARDS_BOARD if row["towards"] == "board" else 0
        encoder = FrameEncoder(128 if flags else 512, flags)
        at = encoder.begin(unhex(row["session"]), row["counter"])
        items = value_of(row["message"])
        at = put_all(encoder.buffer, at, items[0], items[1:])
        assert to_hex(encoder.finish(at)) == row["hex"], row["what"]


def test_every_message_is_read_as_the_vectors_say():
    for row in rows("frames"):
        framer = Framer(512, FLAG_TOWARDS_BOARD if row["towards"] == "board" else 0)
        framer.feed(unhex(row["hex"]))
        assert framer.next_frame(), row["what"]
        assert framer.session_is(unhex(row["session"]))
        assert framer.counter == row["counter"]
        reader = ValueReader().load(framer.body, HEADER_BYTES, framer.cbor_end)
        assert reader.value() == value_of(row["message"]), row["what"]
        reader.finish()
        assert not framer.next_frame()


def test_every_bad_frame_gives_its_fault_and_the_next_one_is_read():
    hello = unhex(rows("frames")[0]["hex"])
    for row in rows("bad_frames"):
        receiver = Receiver(lambda count: b"r" * count)
        receiver.receive(unhex(row["hex"]) + hello, 0)
        fault = receiver.next_event()
        assert isinstance(fault, FrameFault), row["what"]
        assert fault.code == row["fault"], (row["what"], fault.code, fault.detail)
        assert _reject_code(receiver.data_to_send(0)) == row["reject"], row["what"]
        assert isinstance(receiver.next_event(), HelloReceived), row["what"]
        assert receiver.next_event() is None


def _reject_code(data):
    if not data:
        return None
    framer = Framer(128, FLAG_TOWARDS_BOARD)
    framer.feed(data)
    assert framer.next_frame()
    message = ValueReader().load(framer.body, HEADER_BYTES, framer.cbor_end).value()
    assert message[0] == 7
    return message[1]
