"""What may stand in a topic (OASIS MQTT 5.0, sections 4.7.1 and 4.7.3)."""

from __future__ import annotations

from functools import lru_cache

TOPIC_BYTES_MAX = 65535


@lru_cache(maxsize=1024)
def topic_fault(topic: str) -> str | None:
    """Why nothing can be published to this topic, or None. Libraries check only some of it."""
    if not topic:
        return "the topic is empty"
    for forbidden, name in (("#", "#"), ("+", "+"), ("\0", "NUL")):
        if forbidden in topic:
            return f"the topic {topic!r} holds {name}"
    if len(topic.encode(errors="replace")) > TOPIC_BYTES_MAX:
        return f"the topic is longer than {TOPIC_BYTES_MAX} bytes"
    return None
