"""A number is never used twice, and damage is never taken for truth. Under both interpreters."""

import os

from gapless_device.numbering import Numbering, SeqMark
from gapless_device.state import FILES, State


class Registers:
    def __init__(self):
        self.words = [0, 0, 0, 0]

    def read(self, index):
        return self.words[index]

    def write(self, index, value):
        assert 0 <= value < 1 << 30, "no small int on a board"
        self.words[index] = value


def sync():
    pass


def boot(registers, block=10):
    """Start as a board does; return (state, numbering)."""
    state = State(sync)
    return state, Numbering(state, registers, block)


def use(numbering, count):
    used = []
    for _ in range(count):
        seq = numbering.next_seq
        numbering.use(seq)
        used.append(seq)
    return used


def damage(name, at=12):
    with open(name, "rb") as file:
        data = bytearray(file.read())
    data[at] ^= 0x40
    with open(name, "wb") as file:
        file.write(data)


def test_with_registers_the_next_boot_goes_on_exactly_behind_the_last_number():
    registers = Registers()
    used = []
    for _ in range(5):
        state, numbering = boot(registers)
        used += use(numbering, 7)
        assert state.exact
    assert used == list(range(1, 36))


def test_without_registers_the_next_boot_skips_the_reserved_and_says_so():
    state, numbering = boot(None)
    assert state.exact
    assert use(numbering, 3) == [1, 2, 3]
    state, numbering = boot(None)
    assert not state.exact
    assert use(numbering, 1) == [11]


def test_a_power_cut_that_empties_the_registers_is_no_reason_to_use_a_number_twice():
    registers = Registers()
    used = use(boot(registers)[1], 25)
    state, numbering = boot(Registers())
    assert not state.exact
    assert numbering.next_seq > max(used)


def test_a_doubt_lasts_until_the_gateway_settled_it():
    use(boot(None)[1], 3)
    registers = Registers()
    _, numbering = boot(registers)
    use(numbering, 2)
    state, numbering = boot(registers)  # exact itself, but the hole before it was never settled
    assert not state.exact
    assert not numbering.settled(9)
    assert numbering.settled(numbering.next_seq - 1)
    assert State(sync).exact


def test_boots_are_counted():
    assert [boot(Registers())[0].boot for _ in range(4)] == [1, 2, 3, 4]


def test_a_register_pair_that_does_not_fit_is_not_believed():
    registers = Registers()
    use(boot(registers)[1], 4)
    registers.words[0] ^= 1
    registers.words[2] ^= 1
    assert SeqMark(registers).read() is None
    state, numbering = boot(registers)
    assert not state.exact
    assert numbering.next_seq == 11


def test_a_mark_half_written_falls_back_to_the_one_before_it():
    registers = Registers()
    mark = SeqMark(registers)
    for seq in (1, 2, 3):
        mark.write(seq)
    registers.write(mark._slot ^ 2, 4)  # killed before its check was written
    assert SeqMark(registers).read() == 3


def test_marks_of_another_life_are_not_believed():
    registers = Registers()
    use(boot(registers, 100)[1], 50)
    old = list(registers.words)
    use(boot(registers, 100)[1], 50)
    use(boot(registers, 100)[1], 50)
    registers.words = old
    state, numbering = boot(registers, 100)
    assert not state.exact
    assert numbering.next_seq > 150


def test_one_damaged_file_costs_no_number_twice_and_no_boot_twice():
    for name in FILES:
        for generations in range(1, 6):
            for file in FILES:
                try:
                    os.remove(file)
                except OSError:
                    pass
            used = []
            boots = []
            for _ in range(generations):
                state, numbering = boot(None)
                used += use(numbering, 17)
                boots.append(state.boot)
            try:
                damage(name)
            except OSError:
                continue  # the second file does not exist yet
            state, numbering = boot(None)
            if state.stream is None and state.generation <= 2 and numbering.next_seq == 1:
                continue  # nothing could be read: a wiped board, which gets a new stream
            assert numbering.next_seq > max(used), (name, generations)
            assert state.boot not in boots, (name, generations)


def test_a_write_cut_short_at_any_byte_costs_only_itself():
    registers = None
    state, numbering = boot(registers)
    used = use(numbering, 3)
    state, numbering = boot(registers)
    used += use(numbering, 3)
    with open(FILES[state.generation & 1], "rb") as file:
        whole = file.read()
    for length in range(len(whole)):
        with open(FILES[state.generation & 1], "wb") as file:
            file.write(whole[:length])
        again = State(sync)
        assert again.doubtful
        assert again.generation == state.generation - 1
        assert again.reserved_through + again.step >= max(used)


def test_a_larger_block_than_before_is_reached_in_two_writes():
    use(boot(None, 5)[1], 2)
    _, numbering = boot(None, 1000)
    used = use(numbering, 40)
    with open(FILES[State(sync).generation & 1], "wb") as file:
        file.write(b"")
    assert boot(None, 1000)[1].next_seq > max(used)


def test_stream_and_log_survive_a_reset():
    state = State(sync)
    state.stream = b"abcd"
    state.acked_by = b"12345678"
    state.acked = 77
    state.save()
    again = State(sync)
    assert (again.stream, again.acked_by, again.acked) == (b"abcd", b"12345678", 77)


def test_a_board_without_any_state_is_a_new_one():
    state = State(sync)
    assert (state.generation, state.stream, state.boot) == (0, None, 0)
    for name in FILES:
        with open(name, "wb") as file:
            file.write(b"\xff" * 45)
    state = State(sync)
    assert (state.generation, state.stream, state.boot) == (0, None, 0)


def test_a_boot_that_uses_no_number_takes_none_away():
    registers = Registers()
    for _ in range(3):
        state, numbering = boot(registers)
        assert (numbering.next_seq, state.exact) == (1, True)
