"""Server-sent events as OpenAI's clients read them."""

from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"
HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}


def event(document: dict[str, Any]) -> bytes:
    """One event. JSON has no line breaks, so a single `data:` line holds it."""
    return b"data: " + orjson.dumps(document) + b"\n\n"
