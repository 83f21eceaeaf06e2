"""Logging: one JSON object a line on standard error, or text for a person's eyes.

The facts of a line stand in `extra`, never in the message, so that a machine can filter them:
`log.warning("port cannot be opened", extra={"port": path, "retry_in_s": 0.5})`.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class TextFormatter(logging.Formatter):
    """Time, level, logger, message, then the extra facts as `key=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """Append the extra facts to the line."""
        facts = [
            f"{key}={value}"
            for key, value in vars(record).items()
            if key not in _STANDARD_ATTRIBUTES
        ]
        return " ".join([super().formatMessage(record), *facts])


def make_formatter(form: Literal["json", "text"]) -> logging.Formatter:
    """Return the formatter of one form of lines."""
    if form == "text":
        return TextFormatter()
    return JsonFormatter(
        "{message}{levelname}{name}",
        style="{",
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp="at",
    )


def set_up(level: str, form: Literal["json", "text"]) -> None:
    """Send everything from `level` up to standard error, replacing earlier handlers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(make_formatter(form))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)  # a line per scrape otherwise
    logging.getLogger("asyncio").setLevel(logging.WARNING)
