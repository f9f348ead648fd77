"""Formats in which the whole answer is a call: JSON objects in a row (Llama 3), or Python's calls in a list (Gemma)."""

import ast
import json
import re
from typing import Any

from deployments.ingress.tools.json_call import JsonCall
from deployments.ingress.tools.parser import CallArguments, CallStart, Content, ToolEvent, joined

PYTHON_TAG = "<|python_tag|>"
_CALL = re.compile(r"\s*([A-Za-z_][\w.]*)\(")
_BETWEEN = "; \t\r\n"
"""What may stand between two calls."""
_WORDS = {"true": True, "false": False, "null": None}


class JsonAnswer:
    """A `ToolParser`: an answer that begins with `{`, or with the tag that announces calls."""

    def __init__(self) -> None:
        self._text = ""
        """Not yet told."""
        self._call: JsonCall | None = None
        self._is_text = False
        self._called = False

    def push(self, text: str) -> list[ToolEvent]:
        self._text += text
        events: list[ToolEvent] = []
        while self._step(events):
            pass
        return joined(events)

    def finish(self) -> list[ToolEvent]:
        held = self._call.raw if self._call is not None else self._text
        self._call, self._text = None, ""
        return joined([Content(held)]) if held and held.strip(_BETWEEN) else []

    def _step(self, events: list[ToolEvent]) -> bool:
        if self._is_text:
            events.append(Content(self._text))
            self._text = ""
            return False
        if self._call is None:
            return self._begin()
        told, rest = self._call.push(self._text)
        events += told
        self._text = rest or ""
        if self._call.failed:
            self._text, self._call, self._is_text = self._call.raw or "", None, True
            return True
        if rest is not None:
            self._call, self._called = None, True
        return rest is not None

    def _begin(self) -> bool:
        """Whether it can be told if a call or text comes."""
        text = self._text.lstrip(_BETWEEN if self._called else None)
        if PYTHON_TAG.startswith(text):
            return False
        text = text.removeprefix(PYTHON_TAG).lstrip()
        if not text:
            return False
        if text.startswith("{"):
            self._text, self._call = text, JsonCall()
        else:
            self._is_text = True
        return True


class PythonAnswer:
    """A `ToolParser`: an answer that is a list of calls, `[f(x=1), g()]`; each argument goes out when it is whole."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._is_text = False
        self._name: str | None = None
        self._arguments = 0

    def push(self, text: str) -> list[ToolEvent]:
        if self._is_text:
            return [Content(text)]
        self._text += text
        start = self._text.lstrip()
        if not start or (start == "[" or (start[0] == "[" and re.fullmatch(r"\[\s*[\w.]*", start))):
            return []
        if not self._at:
            if not re.match(r"\[\s*[A-Za-z_][\w.]*\(", start):
                self._is_text = True
                return [Content(self._text)]
            self._at = self._text.index("[") + 1
        events: list[ToolEvent] = []
        while self._step(events):
            pass
        return joined(events)

    def finish(self) -> list[ToolEvent]:
        if self._is_text or self._at or not self._text.strip():
            return []
        return [Content(self._text)]

    def _step(self, events: list[ToolEvent]) -> bool:
        if self._name is None:
            begin = _CALL.match(self._text, self._at + (self._text[self._at : self._at + 1] == ","))
            if begin is None:
                return False
            self._name, self._arguments, self._at = begin[1], 0, begin.end()
            events.append(CallStart(begin[1]))
            return True
        end = _argument_end(self._text, self._at)
        if end is None:
            return False
        source = self._text[self._at : end].strip()
        if source:
            name, value = _argument(source)
            opening = ", " if self._arguments else "{"
            self._arguments += 1
            events.append(CallArguments(f"{opening}{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"))
        if self._text[end] == ")":
            events.append(CallArguments("}" if self._arguments else "{}"))
            self._name = None
        self._at = end + 1
        return True


def _argument_end(text: str, start: int) -> int | None:
    """Where the comma or bracket stands that ends the argument beginning at `start`; None while it has not come."""
    depth, quote, place = 0, "", start
    while place < len(text):
        char = text[place]
        if quote:
            if char == "\\":
                place += 1
            elif char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}" and depth:
            depth -= 1
        elif char == ")" or (char == "," and not depth):
            return place
        place += 1
    return None


def _argument(source: str) -> tuple[str, Any]:
    """Name and value of `x=1`; what Python can't read is a text."""
    name, equals, value = source.partition("=")
    if not equals:
        return "", source
    try:
        tree = ast.parse(value.strip(), mode="eval")
        for node in ast.walk(tree):
            for field, child in ast.iter_fields(node):
                if isinstance(child, ast.Name) and child.id in _WORDS:
                    setattr(node, field, ast.Constant(_WORDS[child.id]))
                elif isinstance(child, list):
                    child[:] = [
                        ast.Constant(_WORDS[c.id]) if isinstance(c, ast.Name) and c.id in _WORDS else c for c in child
                    ]
        read = ast.literal_eval(tree)
        json.dumps(read)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return name.strip(), value.strip()
    return name.strip(), read
