"""A person gets in, a gateway's frame does not. Under both interpreters."""

from gapless_device.boot_window import FRAME_END_MS, wants_maintenance

WINDOW_MS = 1500


class Port:
    """A line with a clock: `arrivals` is a list of (ms, bytes)."""

    def __init__(self, arrivals):
        self.now_ms = 0x3FFFFFFF - 700  # so that the ticks wrap in the window
        self.began_ms = self.now_ms
        self.arrivals = arrivals
        self.waiting = b""

    def ticks_ms(self):
        return self.now_ms & 0x3FFFFFFF

    def read_into(self, buffer):
        while self.arrivals and self.now_ms - self.began_ms >= self.arrivals[0][0]:
            self.waiting += self.arrivals.pop(0)[1]
        count = min(len(buffer), len(self.waiting))
        buffer[:count] = self.waiting[:count]
        self.waiting = self.waiting[count:]
        return count

    def wait(self, wait_ms):
        self.now_ms += wait_ms


def wanted(*arrivals):
    port = Port(list(arrivals))
    return wants_maintenance(port, port.ticks_ms, WINDOW_MS), port


def test_a_quiet_line_ends_the_window():
    answer, port = wanted()
    assert answer is False
    assert port.now_ms - port.began_ms >= WINDOW_MS


def test_ctrl_c_of_a_person_is_heard():
    assert wanted((400, b"\x03"))[0] is True
    assert wanted((WINDOW_MS - 10, b"\x03"))[0] is True
    assert wanted((400, b"\x03\x03\x03"))[0] is True


def test_mpremote_is_heard_and_its_next_bytes_are_left_to_the_repl():
    answer, port = wanted((300, b"\r\x03\r\x01"))
    assert answer is True
    assert port.waiting == b"\r\x01"


def test_a_frame_with_0x03_in_it_is_no_person():
    frame = b"\x06\x12abcd\x03\x03\x0d\x03xyz\x00"
    for at in range(len(frame)):
        assert wanted((100, frame))[0] is False
        assert wanted((100, frame[:at]), (100 + FRAME_END_MS - 10, frame[at:]))[0] is False
    assert wanted((100, frame * 30))[0] is False


def test_the_rest_of_a_frame_cut_by_the_reset_is_no_person():
    assert wanted((0, b"z\x03\x01\x02\x00"))[0] is False


def test_a_person_is_heard_behind_a_gateway():
    assert wanted((100, b"\x05\x12ab\x03\x00"), (300, b"\x03"))[0] is True
    assert wanted((100, b"\x05\x12ab\x03\x00"), (300, b"\r\x03\r\x01"))[0] is True
