"""The lines of a batch's input, one request each, and what is found wrong with them before anything is done."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from deployments.errors import BadRequest, shown

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/responses"]
MAX_CUSTOM_ID_CHARS = 512
MAX_ERRORS = 20
"""Of a whole batch that are told."""
_ENVELOPE_BYTES = 4096
"""What of a line is not the request's body, at most."""


@dataclass(frozen=True, slots=True)
class Line:
    """A request as it came. `text` is None for one that is longer than any request may be."""

    number: int
    """From 1."""
    text: bytes | None


@dataclass(frozen=True, slots=True)
class LineRequest:
    custom_id: str
    body: bytes
    """JSON."""


class WrongLine(BadRequest):
    """One line that says no request; the others are answered all the same."""

    code = "invalid_line"

    def __init__(self, message: str, custom_id: str | None) -> None:
        super().__init__(message)
        self.custom_id = custom_id


@dataclass(frozen=True, slots=True)
class InputCheck:
    total: int
    errors: tuple[dict[str, Any], ...]
    """Why none of it can be done, as OpenAI's API has them; empty where it can."""


def lines(path: Path, max_body_bytes: int) -> Iterator[Line]:
    """Empty lines are passed over, and counted. Never holds more than one line."""
    longest = max_body_bytes + _ENVELOPE_BYTES
    number = 0
    with path.open("rb") as file:
        while text := file.readline(longest + 1):
            number += 1
            too_long = len(text) > longest
            while not text.endswith(b"\n") and (rest := file.readline(longest)):
                text = rest
            if too_long or text.strip():
                yield Line(number, None if too_long else text)


def read_line(line: Line, endpoint: str) -> LineRequest:
    """Raises `WrongLine`, which names the line."""
    if line.text is None:
        raise WrongLine(f"line {line.number} is larger than a request may be", None)
    try:
        said = orjson.loads(line.text)
    except orjson.JSONDecodeError as error:
        raise WrongLine(f"line {line.number} is not valid JSON: {error.msg}", None) from error
    custom_id = said.get("custom_id") if isinstance(said, dict) else None
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID_CHARS:
        raise WrongLine(f"line {line.number} has no `custom_id` of 1 to {MAX_CUSTOM_ID_CHARS} characters", None)
    for field, wanted in (("method", "POST"), ("url", endpoint)):
        if said.get(field) != wanted:
            raise WrongLine(f"line {line.number}: `{field}` must be {wanted!r} in this batch", custom_id)
    if unknown := sorted(said.keys() - {"custom_id", "method", "url", "body"}):
        raise WrongLine(f"line {line.number}: unknown field `{shown(unknown[0])}`", custom_id)
    body = said.get("body")
    if not isinstance(body, dict):
        raise WrongLine(f"line {line.number}: `body` must be an object", custom_id)
    if body.get("stream"):
        raise WrongLine(f"line {line.number}: answers of a batch are not streamed", custom_id)
    return LineRequest(custom_id, orjson.dumps(body))


def check_input(path: Path, endpoint: str, max_body_bytes: int, max_lines: int) -> InputCheck:
    """How many lines there are, and whether each has a name of its own."""
    names: dict[str, int] = {}
    errors: list[dict[str, Any]] = []
    total = 0
    for line in lines(path, max_body_bytes):
        total += 1
        if total > max_lines:
            return InputCheck(0, (_error("too_many_lines", f"a batch may have {max_lines} requests at most"),))
        try:
            name = read_line(line, endpoint).custom_id
        except WrongLine as error:
            name = error.custom_id or ""
        if not name:
            continue
        if name in names and len(errors) < MAX_ERRORS:
            said = f"`custom_id` {shown(name)!r} is that of line {names[name]} already"
            errors.append(_error("duplicate_custom_id", said, line.number, "custom_id"))
        names.setdefault(name, line.number)
    if not total:
        errors.append(_error("empty_file", "the file has no lines"))
    return InputCheck(total, tuple(errors))


def _error(code: str, message: str, line: int | None = None, param: str | None = None) -> dict[str, Any]:
    return {"code": code, "message": message, "line": line, "param": param}
