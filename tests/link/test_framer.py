"""Frames are found again after anything, at the price of the one that was hit."""

from gapless_link.errors import FrameFault
from gapless_link.frame import FrameEncoder, Framer, decode_in_place, encode_in_place
from gapless_link.gateway_framer import GatewayFramer, decode
from tests.link.handmade import encoded_bytes_max
from tests.link.simulated_line import Random

SESSION = b"\x01\x02\x03\x04"


def _frame(counter, size=20):
    encoder = FrameEncoder(512, 0)
    at = encoder.begin(SESSION, counter)
    for i in range(size):
        encoder.buffer[at + i] = (counter + i) & 0xFF
    return bytes(encoder.finish(at + size))


def _outcomes(framer):
    """Counters of the sound frames, and codes of the faults, in order."""
    found = []
    while True:
        try:
            if not framer.next_frame():
                return found
            found.append(framer.counter)
        except FrameFault as fault:
            found.append(fault.code)


def _feed(data, piece_bytes=0):
    """What the framer of a board finds, and that of a gateway finds the same."""
    found = _feed_to(Framer(512, 0), data, piece_bytes)
    assert _feed_to(GatewayFramer(512, 0), data, piece_bytes) == found
    return found


def _feed_to(framer, data, piece_bytes):
    found = []
    size = piece_bytes or len(data)
    for at in range(0, len(data), size):
        framer.feed(data[at : at + size])
        found += _outcomes(framer)
    return found


def test_frames_are_found_in_pieces_of_any_size():
    data = b"".join(_frame(n, 5 + 40 * n) for n in range(1, 11))
    for piece_bytes in (1, 2, 3, 7, 64, 500, len(data)):
        assert _feed(data, piece_bytes) == list(range(1, 11)), piece_bytes


def test_frames_are_read_from_bytearrays_and_memoryviews():
    data = _frame(1) + _frame(2)
    assert _feed(bytearray(data)) == [1, 2]
    assert _feed(memoryview(data)) == [1, 2]


def test_empty_frames_are_nothing():
    assert _feed(b"\0\0\0" + _frame(1) + b"\0\0") == [1]


def test_garbage_costs_at_most_the_frame_that_it_hit():
    random = Random(7)
    for _ in range(100):
        garbage = random.bytes(1 + random.below(200))
        found = _feed(_frame(1) + garbage + _frame(2) + _frame(3), 1 + random.below(50))
        assert found[0] == 1
        assert found[-1] == 3, (garbage, found)


def test_garbage_that_is_ended_costs_no_frame():
    found = _feed(_frame(1) + b"MPY: soft reboot\r\n\0" + _frame(2))
    assert found == [1, "cobs", 2]


def test_one_turned_bit_anywhere_costs_at_most_this_frame_and_its_neighbour():
    good = _frame(2, 30)
    for at in range(len(good)):
        for bit in range(8):
            damaged = good[:at] + bytes((good[at] ^ 1 << bit,)) + good[at + 1 :]
            found = _feed(_frame(1) + damaged + _frame(3) + _frame(4))
            assert found[0] == 1
            assert 2 not in found
            assert found[-1] == 4
            # Only a hit on the 0x00 itself can take the neighbour along.
            assert found[-2] == 3 or at == len(good) - 1


def test_a_frame_too_long_is_dropped_without_more_memory():
    framer = Framer(512, 0)
    for _ in range(200):
        framer.feed(b"\x55" * 1000)
        assert _outcomes(framer) == []
    assert len(framer.body) == 512
    framer.feed(b"\0" + _frame(1))
    assert _outcomes(framer) == ["too_long", 1]


def test_a_gateway_keeps_no_more_of_a_frame_without_an_end_than_a_frame():
    framer = GatewayFramer(512, 0)
    for _ in range(200):
        framer.feed(b"\x55" * 1000)
        assert _outcomes(framer) == []
        assert len(framer._rest) == 512 and not framer._frames
    framer.feed(b"\0" + _frame(1))
    assert _outcomes(framer) == ["too_long", 1]


def test_bytes_that_are_fed_before_the_others_are_parsed_come_behind_them():
    for framer in (Framer(512, 0), GatewayFramer(512, 0)):
        data = _frame(1) + _frame(2) + _frame(3)
        framer.feed(data[:40])
        assert framer.next_frame() and framer.counter == 1
        framer.feed(data[40:])
        assert _outcomes(framer) == [2, 3]


def test_the_longest_frame_fits_and_one_byte_more_does_not():
    size = FrameEncoder(512, 0).limit - 10
    frame = _frame(1, size)
    assert len(frame) <= 512
    assert _feed(frame) == [1]
    assert _feed(b"\x01" * 511 + b"\0") == ["crc"]
    assert _feed(b"\x01" * 512 + b"\0") == ["too_long"]
    try:
        _frame(1, size + 1)
    except IndexError:
        pass
    else:
        raise AssertionError("a frame of more than 512 bytes was made")


def test_any_body_survives_cobs():
    random = Random(11)
    for length in list(range(30)) + [252, 253, 254, 255, 256, 400, 507, 508]:
        for zeros_per_mille in (0, 10, 500, 1000):
            raw = bytes(
                0 if random.chance(zeros_per_mille) else 1 + random.below(255)
                for _ in range(length)
            )
            buffer = bytearray(encoded_bytes_max(length))
            buffer[1 : 1 + length] = raw
            end = encode_in_place(buffer, 1 + length)
            encoded = buffer[: end - 1]
            assert b"\0" not in bytes(encoded) and buffer[end - 1] == 0
            assert end <= encoded_bytes_max(length)
            assert decode(encoded) == raw
            decoded_bytes = decode_in_place(encoded, len(encoded))
            assert encoded[:decoded_bytes] == raw


def test_a_body_of_the_size_promised_fits():
    for size in range(128, 513):
        # The body begins at 1, and 4 bytes of CRC follow the CBOR.
        body_bytes_max = FrameEncoder(size, 0).limit - 1 + 4
        assert encoded_bytes_max(body_bytes_max) <= size
        assert encoded_bytes_max(body_bytes_max + 1) > size
