"""What a gateway that was killed has said on standard error."""

from __future__ import annotations

import json

GRAVE = frozenset({"ERROR", "CRITICAL"})


def grave_lines(stderr: bytes) -> list[str]:
    """Return the lines that report a fault, and those that are no line of its log at all."""
    grave = []
    lines = stderr.decode(errors="replace").splitlines(keepends=True)
    for line in lines:
        if not line.endswith("\n"):
            continue  # torn by the kill
        try:
            level = json.loads(line)["level"]
        except (ValueError, KeyError):
            level = "ERROR"
        if level in GRAVE:
            grave.append(line.rstrip())
    return grave
