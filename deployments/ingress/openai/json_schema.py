"""JSON schemas as clients of OpenAI's API mean them."""

from typing import Any

import orjson

_OPEN = ("additionalProperties", "patternProperties", "unevaluatedProperties", "$ref", "allOf", "anyOf", "oneOf")
"""Keywords that say more about an object's other properties."""


def closed(schema: dict[str, Any]) -> str:
    """JSON text of `schema`; objects that name properties and say nothing of others have no others."""
    waiting: list[Any] = [schema]  # no recursion: how deep it goes, the client decides
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("properties"), dict) and not any(key in value for key in _OPEN):
                value["additionalProperties"] = False
            waiting += [inner for key, inner in value.items() if key not in ("enum", "const", "default", "examples")]
        elif isinstance(value, list):
            waiting += value
    return orjson.dumps(schema).decode()
