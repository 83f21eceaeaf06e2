"""Settings are checked, and a damaged file does not stop a board. Under both interpreters."""

import json

from gapless_device.settings import COPY, DEFAULTS, FILE, load, valid_name

GOOD = {"device": "pump-1", "profile": "virtual", "period_ms": 250, "overflow": "newest"}


def write(settings):
    with open(FILE, "w") as file:
        file.write(settings if isinstance(settings, str) else json.dumps(settings))


def test_good_settings_are_taken_and_the_rest_has_defaults():
    write(GOOD)
    settings, faults = load()
    assert faults == []
    for key in DEFAULTS:
        assert settings[key] == GOOD.get(key, DEFAULTS[key])


def test_without_a_file_everything_is_a_default_and_it_is_told():
    settings, faults = load()
    assert faults == [FILE]
    assert settings == DEFAULTS


def test_a_damaged_file_is_replaced_by_the_last_good_one():
    write(GOOD)
    load()
    for text in ("", "{", "[]", "\x00\xff" * 9, '{"device": "pump-1"'):
        write(text)
        settings, faults = load()
        assert faults == [FILE], text
        assert settings["device"] == "pump-1", text
        assert settings["period_ms"] == 250, text


def test_a_wrong_value_is_named_and_replaced_by_the_last_good_one():
    write(GOOD)
    load()
    wrong = {
        "device": ["", "-x", "a" * 33, "a b", 7],
        "profile": ["", "../x", "a.b", 7],
        "samples": [7, [{}], [{"period_ms": 0, "values": ["a"]}], [{"period_ms": 9, "values": []}]],
        "period_ms": [0, -1, "x", True, 1.5, None],
        "outbox_records": [0, 100000],
        "outbox_bytes": [1, 10000000],
        "overflow": ["middle", None],
        "reservation_block": [0],
        "boot_window_ms": [-1, 1000000],
        "debug_memory": [1],
    }
    assert sorted(wrong) == sorted(DEFAULTS)
    for key in wrong:
        for value in wrong[key]:
            settings = dict(GOOD)
            settings[key] = value
            write(settings)
            loaded, faults = load()
            assert faults == [key], (key, value)
            assert loaded[key] == GOOD.get(key, DEFAULTS[key]), (key, value)


def test_an_unknown_setting_is_named():
    settings = dict(GOOD)
    settings["perod_ms"] = 5
    write(settings)
    assert load()[1] == ["perod_ms"]


def test_a_damaged_copy_is_no_harm():
    write(GOOD)
    load()
    with open(COPY, "w") as file:
        file.write("{")
    settings, faults = load()
    assert faults == []
    assert settings["device"] == "pump-1"


def test_names_are_those_of_the_link():
    for name in ("a", "pump-1", "A.b_c-d", "0", "x" * 32):
        assert valid_name(name), name
    for name in ("", ".a", "_a", "-a", "a/b", "a#", "a+", "ä", "x" * 33, None, 5):
        assert not valid_name(name), name
