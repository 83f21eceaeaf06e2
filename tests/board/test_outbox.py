"""What the outbox promises. Plain functions: they run under CPython and MicroPython."""

from gapless_device.outbox import LOST_RANGES_MAX, NEWEST, OLDEST, Outbox
from gapless_link.gateway_messages import HELD_RANGES_MAX
from gapless_link.messages import REASON_OVERFLOW


def record(seq):
    return bytes([seq & 0xFF]) * (5 + seq % 7)


def fill(outbox, count):
    for _ in range(count):
        data = record(outbox.next_seq)
        outbox.append(data, len(data))


def contents(outbox):
    """Everything that a sender would see, from the lowest seq on: {seq: bytes or None for LOST}."""
    seen = {}
    buffer = bytearray(64)
    seq = outbox.find(1)
    while seq:
        if outbox.size(seq):
            length = outbox.read_into(seq, buffer, 3)
            assert length == outbox.size(seq)
            seen[seq] = bytes(buffer[3 : 3 + length])
            seq = outbox.find(seq + 1)
        else:
            first, last, reason, at_most = outbox.lost_range(seq)
            assert first <= seq <= last
            assert reason == REASON_OVERFLOW
            assert at_most is False
            for lost in range(seq, last + 1):
                seen[lost] = None
            seq = outbox.find(last + 1)
    return seen


def check(outbox, first):
    """Each seq is answered for, records with the bytes that went in, and HELLO says the same."""
    seen = contents(outbox)
    assert sorted(seen) == list(range(first, outbox.next_seq))
    for seq in seen:
        assert seen[seq] in (None, record(seq)), seq
    expected = [(first, outbox.next_seq - 1)] if first < outbox.next_seq else []
    assert outbox.held() == expected
    assert len(outbox.held()) <= HELD_RANGES_MAX
    return [seq for seq in seen if seen[seq] is None]


def test_records_come_out_as_they_went_in_and_in_order():
    outbox = Outbox(7, 10, bytearray(200), OLDEST)
    fill(outbox, 9)
    assert check(outbox, 7) == []


def test_the_oldest_records_become_one_lost_range_when_records_are_too_many():
    outbox = Outbox(1, 5, bytearray(1000), OLDEST)
    fill(outbox, 12)
    assert sorted(check(outbox, 1)) == list(range(1, 8))
    assert outbox.lost_range(1)[:2] == (1, 7)
    assert outbox.dropped == 7


def test_the_oldest_records_become_lost_when_bytes_are_too_many():
    outbox = Outbox(1, 100, bytearray(60), OLDEST)
    fill(outbox, 40)
    lost = check(outbox, 1)
    assert lost
    assert max(lost) < min(set(range(1, 41)) - set(lost))


def test_the_newest_records_become_lost_under_the_other_policy():
    outbox = Outbox(1, 5, bytearray(1000), NEWEST)
    fill(outbox, 12)
    assert sorted(check(outbox, 1)) == list(range(6, 13))


def test_a_record_larger_than_the_outbox_is_declared_lost():
    for policy in (OLDEST, NEWEST):
        outbox = Outbox(1, 5, bytearray(30), policy)
        fill(outbox, 2)
        outbox.append(bytes(31), 31)
        assert 3 in check(outbox, 1)
        fill(outbox, 2)
        check(outbox, 1)


def test_more_lost_pieces_than_the_bound_are_joined_and_declared():
    outbox = Outbox(1, 4, bytearray(1000), NEWEST)
    durable = 0
    for _ in range(3 * LOST_RANGES_MAX):
        fill(outbox, 6)  # some are lost at the end
        first = outbox.first_seq
        if outbox.size(first):  # room for one record, behind the LOST
            durable = first
            outbox.free_through(durable)
        check(outbox, durable + 1)
    assert len(outbox._lost) <= LOST_RANGES_MAX


def test_only_what_is_durable_is_forgotten():
    outbox = Outbox(1, 5, bytearray(1000), OLDEST)
    fill(outbox, 9)  # 1..4 lost
    outbox.free_through(2)
    assert sorted(check(outbox, 3)) == [3, 4]
    outbox.free_through(6)
    assert check(outbox, 7) == []
    outbox.free_through(9)
    assert outbox.held() == []
    assert outbox.find(1) == 0
    fill(outbox, 3)
    assert check(outbox, 10) == []


def test_a_long_life_of_both_policies_answers_for_every_number():
    for policy in (OLDEST, NEWEST):
        seed = 20261122
        outbox = Outbox(1, 6, bytearray(70), policy)
        durable = 0
        for _ in range(400):
            seed = (seed * 1103515245 + 12345) & 0x3FFFFFFF
            fill(outbox, (seed >> 8) % 5)
            if (seed >> 16) % 3 == 0:
                durable = min(durable + (seed >> 12) % 9, outbox.next_seq - 1)
                outbox.free_through(durable)
            check(outbox, durable + 1)


def test_numbers_that_a_gateway_knows_as_used_are_skipped():
    outbox = Outbox(1, 5, bytearray(1000), OLDEST)
    data = [record(1), record(2)]
    fill(outbox, 2)
    outbox.renumber(41)
    assert [contents(outbox)[seq] for seq in (41, 42)] == data
    assert outbox.next_seq == 43


def test_the_interface_names_what_it_does_not_hold():
    outbox = Outbox(5, 5, bytearray(1000), OLDEST)
    fill(outbox, 1)
    for seq in (4, 6):
        assert outbox.size(seq) == 0
        try:
            outbox.lost_range(seq)
        except KeyError:
            continue
        raise AssertionError(seq)
