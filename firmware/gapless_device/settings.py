"""settings.json: what the person who provisions a board decides. Checked, never trusted.

    device             the name, 1..32 of A-Z a-z 0-9 . _ -, first a letter or digit
    profile            the module in gapless_device/boards
    samples            list of {"period_ms": int, "values": [sensor's name, ...]}, a record each;
                       when empty, all sensors of the board every `period_ms`
    period_ms
    outbox_records     records that wait in RAM at most
    outbox_bytes       and their bytes
    overflow           "oldest" or "newest": which records a full outbox gives up
    reservation_block  seqs reserved in storage at a time, see numbering.py
    boot_window_ms     how long the start waits for a person at the cable
    debug_memory       true: prints the free heap once, before the link begins

What is missing has a default. What is wrong, a value or the whole file, is replaced by that of the
last good file, of which a copy is kept, else by its default; an event record says what it was.
"""

import json

FILE = "settings.json"
COPY = "settings.good"

DEFAULTS = {
    "device": "",
    "profile": "",
    "samples": [],
    "period_ms": 1000,
    "outbox_records": 96,
    "outbox_bytes": 4096,
    "overflow": "oldest",
    "reservation_block": 1024,
    "boot_window_ms": 1500,
    "debug_memory": False,
}
PERIOD_MS_MIN = 1
PERIOD_MS_MAX = 86400000
_BOUNDS = {
    "period_ms": (PERIOD_MS_MIN, PERIOD_MS_MAX),
    "outbox_records": (4, 8192),
    "outbox_bytes": (512, 65535),
    "reservation_block": (1, 1000000),
    "boot_window_ms": (0, 60000),
}
_NAME_BYTES_MAX = 32
VALUES_MAX = 12
SAMPLES_MAX = 8


def load(folder=""):
    """Return (settings, faults): a dict with every key of DEFAULTS, and words on what was wrong."""
    raw = _read(folder + FILE)
    good = _read(folder + COPY) or {}
    faults = []
    if raw is None:
        faults.append(FILE)
        raw = good
    settings = {}
    for key in DEFAULTS:
        settings[key] = DEFAULTS[key]
        if key in raw and valid(key, raw[key]):
            settings[key] = raw[key]
        elif key in raw:
            faults.append(key)
            if key in good and valid(key, good[key]):
                settings[key] = good[key]
    for key in raw:
        if key not in DEFAULTS:
            faults.append(key)
    if not faults:
        _keep(settings, folder)
    return settings, faults


def valid(key, value):
    """Say whether `value` is a legal value of the setting `key`."""
    if key == "device":
        return valid_name(value)
    if key == "profile":
        return valid_name(value) and "." not in value and "-" not in value
    if key == "samples":
        return _valid_samples(value)
    if key == "overflow":
        return value in ("oldest", "newest")
    if key == "debug_memory":
        return isinstance(value, bool)
    low, high = _BOUNDS[key]
    return _is_int(value) and low <= value <= high


def valid_name(name):
    """Say whether `name` may be a device_id."""
    if not isinstance(name, str) or not 1 <= len(name) <= _NAME_BYTES_MAX:
        return False
    for index, letter in enumerate(name):
        if "a" <= letter <= "z" or "A" <= letter <= "Z" or "0" <= letter <= "9":
            continue
        if index == 0 or letter not in "._-":
            return False
    return True


def _valid_samples(samples):
    if not isinstance(samples, list) or len(samples) > SAMPLES_MAX:
        return False
    for sample in samples:
        if not isinstance(sample, dict):
            return False
        period_ms = sample.get("period_ms", 0)
        if not _is_int(period_ms) or not PERIOD_MS_MIN <= period_ms <= PERIOD_MS_MAX:
            return False
        values = sample.get("values")
        if not isinstance(values, list) or not 1 <= len(values) <= VALUES_MAX:
            return False
        for name in values:
            if not isinstance(name, str):
                return False
    return True


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _read(path):
    try:
        with open(path) as file:
            raw = json.load(file)
    except (OSError, ValueError):
        return None
    return raw if isinstance(raw, dict) else None


def _keep(settings, folder):
    """Keep a copy of good settings; written only when they changed, which spares the flash."""
    if _read(folder + COPY) == settings:
        return
    try:
        with open(folder + COPY, "w") as file:
            json.dump(settings, file)
    except OSError:
        pass  # a full file system: the settings themselves are good
