"""A real sender against a real receiver: everything arrives once, in order, and is accounted."""

from gapless_link.messages import TICKS_MASK
from tests.link.two_ends import TwoEnds

BAD_LINE = {"drop": 80, "cut": 20, "flip": 40, "repeat": 40, "garbage": 30}


def _everything_arrives(ends, bursts=20, faults_end_ms=None):
    for _ in range(bursts):
        ends.produce(ends.random.below(40), ends.random.below(120))
        ends.run_ms(ends.random.below(400))
    if faults_end_ms is not None:
        ends.run_ms(faults_end_ms)
        ends.up.faults = ends.down.faults = {}
    ends.run_until_settled()
    ends.check_account()
    assert not ends.gateway.lost


def test_everything_arrives_once_and_in_order_over_a_perfect_line():
    ends = TwoEnds(seed=1)
    _everything_arrives(ends)
    assert not ends.gateway.faults
    assert not ends.sender.frames_repeated
    assert ends.kinds().count("LINKED") == 1


def test_everything_arrives_byte_by_byte():
    ends = TwoEnds(seed=2, piece_bytes_max=1)
    _everything_arrives(ends, bursts=5)
    assert not ends.gateway.faults


def test_everything_arrives_over_a_slow_line():
    _everything_arrives(TwoEnds(seed=3, delay_ms_max=300, sync_ms=80))


def test_everything_arrives_over_a_lossy_line():
    for seed in range(10, 14):
        _everything_arrives(TwoEnds(seed=seed, faults={"drop": 250}, delay_ms_max=5))


def test_everything_arrives_over_a_line_that_flips_bits():
    for seed in range(20, 24):
        _everything_arrives(TwoEnds(seed=seed, faults={"flip": 250}))


def test_everything_arrives_over_a_line_that_repeats():
    for seed in range(30, 33):
        ends = TwoEnds(seed=seed, faults={"repeat": 400})
        _everything_arrives(ends)
        assert ends.gateway.receiver.counters["fault_counter"]


def test_everything_arrives_over_a_line_with_all_faults():
    for seed in range(40, 46):
        _everything_arrives(TwoEnds(seed=seed, faults=BAD_LINE, delay_ms_max=30, piece_bytes_max=7))


def test_everything_arrives_once_the_faults_stop():
    for seed in range(50, 53):
        worst = {"drop": 700, "flip": 300, "garbage": 300}
        _everything_arrives(TwoEnds(seed=seed, faults=worst), faults_end_ms=20000)


def test_an_overflow_is_declared_and_everything_is_accounted():
    for seed in range(60, 66):
        ends = TwoEnds(seed=seed, faults=BAD_LINE, delay_ms_max=40, capacity=25)
        for _ in range(15):
            ends.produce(ends.random.below(60), ends.random.below(100))
            ends.run_ms(ends.random.below(300))
        ends.run_until_settled()
        ends.check_account()
        assert ends.gateway.lost
        assert not any(by_gateway for _, by_gateway in ends.gateway.lost.values())


def test_a_board_that_lost_its_memory_costs_what_was_in_it_and_is_accounted():
    for seed in range(70, 74):
        ends = TwoEnds(seed=seed, faults=BAD_LINE, delay_ms_max=20)
        for boot in range(2, 6):
            ends.produce(30, 40)
            ends.run_ms(ends.random.below(600))
            # Only the next number survives (in a backup register).
            ends.restart_board(boot)
        ends.produce(10)
        ends.run_until_settled()
        ends.check_account()


def test_a_gateway_that_was_killed_goes_on_where_its_disk_ends():
    for seed in range(80, 84):
        ends = TwoEnds(seed=seed, faults=BAD_LINE, delay_ms_max=20, sync_ms=60)
        for _ in range(5):
            ends.produce(40, 40)
            ends.run_ms(ends.random.below(900))
            ends.restart_gateway()
        ends.run_until_settled()
        ends.check_account()
        assert not ends.gateway.lost


def test_a_restarted_gateway_is_found_again_within_the_silence_time():
    ends = TwoEnds(seed=85)
    ends.run_ms(1000)
    ends.restart_gateway()
    ends.produce(1)
    ends.run_ms(5200)
    ends.run_until_settled(time_ms_max=500)


def test_a_board_with_small_buffers_is_never_overrun_and_gets_on():
    ends = TwoEnds(seed=90, frame_bytes_max=128, unanswered_bytes_max=256, delay_ms_max=10)
    _everything_arrives(ends, bursts=10)
    assert not ends.gateway.faults
    assert "too_long" not in ends.kinds()


def test_a_small_credit_is_kept_and_slows_nothing_down_for_ever():
    ends = TwoEnds(seed=91, faults=BAD_LINE, delay_ms_max=20, credit_ahead=3)
    _everything_arrives(ends, bursts=5)
    assert "fault_credit" not in ends.gateway.receiver.counters


def test_a_credit_that_was_withheld_is_used_when_it_comes_though_the_news_was_lost():
    ends = TwoEnds(seed=92, credit_ahead=0)
    ends.produce(20)
    ends.run_ms(3000)
    assert not ends.gateway.stored
    ends.gateway.credit_ahead = 100
    # The ACK that says so is lost: the board's probe asks for it.
    ends.gateway.receiver.acknowledge(0, 100)
    ends.gateway.receiver.data_to_send(ends.now_ms)
    ends.run_until_settled(time_ms_max=2000)
    ends.check_account()


def test_every_clock_sample_holds_the_true_moment():
    for seed in range(100, 104):
        ends = TwoEnds(seed=seed, faults=BAD_LINE, delay_ms_max=90)
        _everything_arrives(ends, bursts=10)
        assert len(ends.gateway.clock_samples) > 10
        for sample in ends.gateway.clock_samples:
            uptime_ms = sample.wraps * (TICKS_MASK + 1) + sample.ticks_ms
            true_ms = uptime_ms - ends.ticks_ahead_ms
            assert sample.sent_ms <= true_ms <= sample.received_ms


def test_a_lossy_line_costs_little_more_than_what_it_loses():
    ends = TwoEnds(seed=110, faults={"drop": 80}, delay_ms_max=2)
    ends.run_ms(3000)
    for _ in range(60):
        ends.produce(20, 30)
        ends.run_ms(100)
    ends.run_until_settled()
    ends.check_account()
    assert ends.sender.frames_repeated <= ends.sender.frames_sent // 4
