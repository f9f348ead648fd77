"""A call written as a JSON object, read as it comes: `{"name": "look", "arguments": {"x": 1}}`.

The text of the arguments goes out as the model wrote it, piece by piece, as soon as the name is known.
"""

from enum import Enum, auto

import orjson

from deployments.ingress.tools.parser import CallArguments, CallStart, ToolEvent

ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
_KEYS = ARGUMENT_KEYS | {"name", "type", "id"}
"""An object that begins with other keys is no call, and need not be held back."""


class _At(Enum):
    START = auto()
    KEY = auto()
    IN_KEY = auto()
    COLON = auto()
    VALUE = auto()
    IN_STRING = auto()
    IN_NESTED = auto()
    IN_SCALAR = auto()
    END = auto()
    FAILED = auto()


class JsonCall:
    """A `CallReader`. What is no such object is never announced as a call."""

    def __init__(self) -> None:
        self._at = _At.START
        self._text = ""
        self._place = 0
        self._from = 0
        """Where the key or value being read begins."""
        self._key = ""
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self._name: str | None = None
        self._arguments = ""
        """Not yet told."""
        self._told = 0
        """Up to where the value being read has been taken over."""
        self._has_arguments = False
        self._announced = False

    @property
    def raw(self) -> str | None:
        return None if self._announced else self._text

    @property
    def failed(self) -> bool:
        """Whether this is no call."""
        return self._at is _At.FAILED

    def push(self, text: str) -> tuple[list[ToolEvent], str | None]:
        self._text += text
        while self._place < len(self._text) and self._at not in (_At.END, _At.FAILED):
            self._read(self._text[self._place])
            self._place += 1
        self._take_piece(self._place)
        if self._at is _At.END and self._name is None:
            self._at = _At.FAILED
        events = self._events()
        return events, self._text[self._place :] if self._at is _At.END else None

    def _events(self) -> list[ToolEvent]:
        if self._name is None or self.failed:
            return []
        events: list[ToolEvent] = [] if self._announced else [CallStart(self._name)]
        self._announced = True
        if self._at is _At.END and not self._has_arguments:
            self._arguments = "{}"
        if self._arguments:
            events.append(CallArguments(self._arguments))
            self._arguments = ""
        return events

    def _read(self, char: str) -> None:
        match self._at:
            case _At.IN_KEY | _At.IN_STRING:
                self._read_string(char)
            case _At.IN_NESTED:
                self._read_nested(char)
            case _At.IN_SCALAR if char in ",}" or char.isspace():
                self._close_value(self._place)
                self._read(char)
            case _At.IN_SCALAR:
                pass
            case _ if char.isspace():
                pass
            case _At.START:
                self._at = _At.KEY if char == "{" else _At.FAILED
            case _At.KEY if char == '"':
                self._at, self._from = _At.IN_KEY, self._place
            case _At.KEY if char == "}":
                self._at = _At.END
            case _At.KEY if char == ",":
                pass
            case _At.COLON if char == ":":
                self._at = _At.VALUE
            case _At.VALUE:
                self._open_value(char)
            case _:
                self._at = _At.FAILED

    def _open_value(self, char: str) -> None:
        self._from = self._told = self._place
        if self._key in ARGUMENT_KEYS:
            self._has_arguments = True
        if char == '"':
            self._at = _At.IN_STRING
        elif char in "{[":
            self._at, self._depth = _At.IN_NESTED, 1
        else:
            self._at = _At.IN_SCALAR

    def _read_string(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"' and self._at is _At.IN_KEY:
            self._key = self._string(self._place + 1)
            self._at = _At.COLON if self._announced or self._key in _KEYS else _At.FAILED
        elif char == '"':
            self._close_string(self._place + 1)

    def _read_nested(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._quoted:
            self._escaped, self._quoted = char == "\\", char != '"'
        elif char == '"':
            self._quoted = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            if not self._depth:
                self._close_value(self._place + 1)

    def _close_string(self, end: int) -> None:
        text = self._string(end)
        if self._key == "name":
            self._name = text
        elif self._key in ARGUMENT_KEYS:
            self._arguments += text  # some models write the JSON text of the arguments as a string
        self._at = _At.KEY

    def _close_value(self, end: int) -> None:
        self._take_piece(end)
        self._at = _At.KEY

    def _take_piece(self, end: int) -> None:
        if self._key in ARGUMENT_KEYS and self._at in (_At.IN_NESTED, _At.IN_SCALAR):
            self._arguments += self._text[self._told : end]
            self._told = end

    def _string(self, end: int) -> str:
        quoted = self._text[self._from : end]
        try:
            return str(orjson.loads(quoted))
        except orjson.JSONDecodeError:
            return quoted[1:-1]
