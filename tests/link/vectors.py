"""The vectors of tests/vectors/link.json: bytes made by other codecs (cbor2, zlib, cobs)."""

import json


def _folder():
    parts = __file__.replace("\\", "/").split("/")
    return "/".join(parts[:-2]) + "/vectors/"


def rows(name):
    """Return one list of vectors; each has "what", which a failing test prints."""
    with open(_folder() + "link.json") as file:
        return json.load(file)[name]


def value_of(given):
    """Turn {"hex": ...} into bytes, at any depth."""
    if isinstance(given, list):
        return [value_of(item) for item in given]
    if isinstance(given, dict) and list(given) == ["hex"]:
        return unhex(given["hex"])
    return given


def unhex(text):
    return bytes(int(text[at : at + 2], 16) for at in range(0, len(text), 2))


def to_hex(data):
    return "".join("%02x" % byte for byte in data)
