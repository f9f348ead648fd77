"""Calls whose arguments stand one by one between tags: `<parameter=x>1</parameter>`, `<arg_key>x</arg_key>…`.

What stands between tags is bare text. Where the tool's schema takes a text it is one, piece by piece as it comes;
anything else is read as JSON when it is whole.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from deployments.ingress.tools.parser import CallArguments, CallStart, ToolEvent, overlap

Schemas = Mapping[str, dict[str, Any]]
"""Of the parameters of each tool, by the tool's name."""


@dataclass(frozen=True, slots=True)
class Tags:
    """`name_begin` NAME `name_end` (`key_begin` KEY `key_end` VALUE `value_end`)* `end`."""

    name_begin: str
    name_end: tuple[str, ...]
    """Whichever comes first."""
    key_begin: str
    key_end: str
    value_begin: str
    value_end: str
    end: str
    keeps_lines: bool
    """Whether the value is all that stands between its tags; otherwise a line break at either end is layout."""


QWEN3_CODER = Tags("<function=", (">",), "<parameter=", ">", "", "</parameter>", "</function>", keeps_lines=False)
GLM = Tags(
    name_begin="",
    name_end=("\n", "<arg_key>", "</tool_call>"),
    key_begin="<arg_key>",
    key_end="</arg_key>",
    value_begin="<arg_value>",
    value_end="</arg_value>",
    end="</tool_call>",
    keeps_lines=True,
)


class TaggedCall:
    """A `CallReader`."""

    def __init__(self, tags: Tags, schemas: Schemas) -> None:
        self._tags = tags
        self._schemas = schemas
        self._text = ""
        self._seen = ""
        self._name: str | None = None
        self._key: str | None = None
        self._value = ""
        """Of the argument being read, as far as it has not been told."""
        self._value_begun = False
        self._num_arguments = 0
        self._quoted = False
        self._ended = False

    @property
    def raw(self) -> str | None:
        return self._seen if self._name is None else None

    def push(self, text: str) -> tuple[list[ToolEvent], str | None]:
        self._text += text
        if self._name is None:
            self._seen += text
        events: list[ToolEvent] = []
        while not self._ended and self._step(events):
            pass
        return events, self._text if self._ended else None

    def _step(self, events: list[ToolEvent]) -> bool:
        if self._name is None:
            return self._read_name(events)
        return self._read_key(events) if self._key is None else self._read_value(events)

    def _read_name(self, events: list[ToolEvent]) -> bool:
        text = self._text.lstrip()
        if not text.startswith(self._tags.name_begin):
            return False
        text = text[len(self._tags.name_begin) :]
        ends = [(place, end) for end in self._tags.name_end if (place := text.find(end)) >= 0]
        if not ends:
            return False
        place, end = min(ends)
        self._name = text[:place].strip()
        taken = len(end) if end in (">", "\n") else 0
        self._text = text[place + taken :]
        events.append(CallStart(self._name))
        return True

    def _read_key(self, events: list[ToolEvent]) -> bool:
        text = self._text.lstrip()
        if text.startswith(self._tags.end):
            events.append(CallArguments("}" if self._num_arguments else "{}"))
            # What closes the call may be what closes its place in the text.
            self._text = text[len(self._tags.end) :] if self._tags is not GLM else text
            self._ended = True
            return False
        begin = text.find(self._tags.key_begin)
        end = text.find(self._tags.key_end, begin + len(self._tags.key_begin)) if begin >= 0 else -1
        if end < 0:
            return False
        self._key = text[begin + len(self._tags.key_begin) : end].strip()
        self._text = text[end + len(self._tags.key_end) :]
        self._value, self._value_begun = "", False
        opening = "{" if not self._num_arguments else ", "
        self._num_arguments += 1
        self._quoted = _is_text(self._schemas.get(self._name or ""), self._key)
        events.append(CallArguments(f"{opening}{json.dumps(self._key)}: " + ('"' if self._quoted else "")))
        return True

    def _read_value(self, events: list[ToolEvent]) -> bool:
        if not self._value_begun and not self._begin_value():
            return False
        end = self._text.find(self._tags.value_end)
        if end >= 0:
            self._value += self._text[:end]
            self._text = self._text[end + len(self._tags.value_end) :]
            value = self._value if self._tags.keeps_lines else self._value.removesuffix("\n")
            events.append(CallArguments(_escaped(value) + '"' if self._quoted else _as_json(value)))
            self._key = None
            return True
        held = overlap(self._text, self._tags.value_end)
        self._value += self._text[: len(self._text) - held]
        self._text = self._text[len(self._text) - held :]
        if self._quoted:
            told = self._value if self._tags.keeps_lines else self._value.removesuffix("\n")
            events.append(CallArguments(_escaped(told)))
            self._value = self._value[len(told) :]
        return False

    def _begin_value(self) -> bool:
        begin = self._tags.value_begin
        if begin:
            place = self._text.find(begin)
            if place < 0:
                return False
            self._text = self._text[place + len(begin) :]
        if not self._tags.keeps_lines:
            if not self._text:
                return False
            self._text = self._text.removeprefix("\n")
        self._value_begun = True
        return True


def _is_text(schema: dict[str, Any] | None, key: str) -> bool:
    properties = (schema or {}).get("properties")
    named = properties.get(key) if isinstance(properties, dict) else None
    return isinstance(named, dict) and named.get("type") == "string"


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _as_json(text: str) -> str:
    """The JSON that the text is, or it as a JSON text."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        said = {"True": "true", "False": "false", "None": "null"}.get(text.strip())
        return said or json.dumps(text, ensure_ascii=False)
    return text.strip()
