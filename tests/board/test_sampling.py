"""The rhythm of sampling. Under both interpreters."""

from gapless_device.sampling import TICKS_MASK, Sample, plan
from gapless_link.cbor import ARRAY, put_head

SENSORS = {"a_mV": lambda now_ms: now_ms, "b_mdegC": lambda now_ms: -5}


def read(sample, now_ms):
    buffer = bytearray(64)
    return bytes(buffer[: sample.read(now_ms, buffer, 0)])


def test_readings_are_a_map_of_names_and_integers():
    sample = Sample(100, SENSORS, ["a_mV", "b_mdegC"], 0)
    assert read(sample, 23) == b"\xa2\x64a_mV\x17\x67b_mdegC\x24"


def test_the_rhythm_is_kept_when_a_beat_is_late():
    sample = Sample(100, SENSORS, ["a_mV"], 0)
    read(sample, 0)
    assert sample.wait_ms(0) == 100
    read(sample, 130)
    assert sample.wait_ms(130) == 70
    assert sample.missed == 0


def test_beats_that_passed_are_counted_not_made_up():
    sample = Sample(100, SENSORS, ["a_mV"], 0)
    read(sample, 350)
    assert sample.missed == 3
    assert sample.wait_ms(350) == 50


def test_the_rhythm_goes_on_when_the_ticks_wrap():
    now_ms = TICKS_MASK - 30
    sample = Sample(100, SENSORS, ["a_mV"], now_ms)
    read(sample, now_ms)
    assert sample.wait_ms(TICKS_MASK) == 70
    assert sample.wait_ms(10) == 59
    assert sample.wait_ms(69) == 0


def test_a_sensor_that_the_board_lacks_is_told_and_the_others_are_read():
    settings = {"period_ms": 50, "samples": [{"period_ms": 9, "values": ["a_mV", "x"]}]}
    samples, unknown = plan(settings, SENSORS, 0)
    assert unknown == ["x"]
    assert [sample.period_ms for sample in samples] == [9]


def test_without_a_plan_all_sensors_are_read():
    samples, unknown = plan({"period_ms": 50, "samples": []}, SENSORS, 0)
    assert unknown == []
    assert read(samples[0], 1)[0] == put_head(bytearray(2), 0, ARRAY, 0) + 0xA1
