"""Reading a JSON body: counted as it arrives, and rid of its media before it is parsed.

A body may hold tens of megabytes of base64 in a few long strings. A JSON parser would go over all of it in one go and
stop the event loop meanwhile. `BodyScanner` takes such strings out chunk by chunk: what is left to parse is small, and
the media text lies in buffers that need no further copy on their way into shared memory.

Which strings: those that begin with `data:`, and the value of a key `data` (of `input_audio`), `image_embeds` and its
kin, from `CUT_CHARS` on, but not the value of a key `text` or `content`. In valid JSON an unescaped quote before
`data:` always opens a string.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.datastructures import Headers

from deployments.errors import BadRequest, TooLarge, UnsupportedMediaType, shown
from deployments.ingress.http.media_text import MediaText

CUT_CHARS = 4096
BYTES_BETWEEN_YIELDS = 512 * 1024
MAX_DATA_STRINGS = 2048
"""Strings that begin with `data:`, short ones included: each costs a few microseconds."""
MAX_VALUES = 20_000
"""Values outside strings that are parsed in one go; what few bytes a value takes, its object takes many."""
VALUES_BETWEEN_YIELDS = 2000
MAX_DEPTH = 128
"""Arrays and objects within each other: whoever goes through a document later does so by recursion."""
DATA_PREFIX = b"data:;base64,"
"""Makes a `data:` URL of `input_audio.data`, which is bare base64."""

_START = re.compile(rb'"(?:[dD][aA][tT][aA]:|(?:data|(?:image|video|audio)_embeds)"\s{0,8}:\s{0,8}")')
_START_MAX_BYTES = 40
_STRING_REST = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_TEXT_KEY = re.compile(rb'"(?:text|content)"\s*:\s*\Z')
_ESCAPE_MAX_BYTES = 6
_ESCAPES = (
    (rb"\/", b"/"),
    (rb"\n", b"\n"),
    (rb"\r", b"\r"),
    (rb"\t", b"\t"),
    (rb"\u002B", b"+"),
    (rb"\u002b", b"+"),
    (rb"\u002F", b"/"),
    (rb"\u002f", b"/"),
    (rb"\u003D", b"="),
    (rb"\u003d", b"="),
)
"""What JSON writers make of base64: some escape slashes, some escape what HTML minds, some break lines."""


@dataclass(slots=True)
class Body:
    """A parsed body and the media texts that were taken out of it."""

    document: Any
    cuts: dict[str, bytearray] = field(default_factory=dict)
    """By the string that stands in the document instead: a whole `data:` URL each."""
    size_bytes: int = 0


class BodyScanner:
    """Fed with chunks, gives a `Body`. The longest pause is that of one chunk, and of parsing what is not media."""

    def __init__(self, max_body_bytes: int, max_text_bytes: int, on_media: Callable[[], None] | None = None) -> None:
        """`on_media()` is called when the first media text begins; what it raises ends the reading."""
        self._max_body_bytes = max_body_bytes
        self._max_text_bytes = max_text_bytes
        self._on_media = on_media
        self._has_media = False
        self._size_bytes = 0
        self._text = bytearray()
        self._unscanned = b""
        self._in_string = False
        self._is_key_data = False
        self._string = bytearray()  # of the string being read: all of it, or what is not yet unescaped
        self._cut: MediaText | None = None
        self._cuts: dict[str, bytearray] = {}
        self._data_strings = 0
        self._mark = secrets.token_hex(16)  # so that no client can write a placeholder itself

    def feed(self, chunk: bytes) -> None:
        """Raises `TooLarge`, or `BadRequest` for escapes in a `data:` URL that no URL needs."""
        self._size_bytes += len(chunk)
        if self._size_bytes > self._max_body_bytes:
            raise TooLarge(f"the body is larger than the {self._max_body_bytes} bytes that are allowed")
        data, position = self._unscanned + chunk, 0
        self._unscanned = b""
        while position < len(data):
            step = self._read_string if self._in_string else self._read_text
            position = step(data, position)
        if len(self._text) > self._max_text_bytes:
            raise TooLarge(f"the body without its media is larger than the {self._max_text_bytes} bytes allowed")

    async def check_values(self) -> None:
        """Raise `BadRequest` when the text holds more values than may be parsed in one go."""
        text = bytes(self._text + self._unscanned)
        if sum(text.count(sign) for sign in (b",", b"[", b"{")) <= MAX_VALUES:
            return  # the usual case: few enough even if all of them stood outside strings
        values = position = strings = 0
        while position < len(text):
            quote = text.find(b'"', position)
            end = len(text) if quote < 0 else quote
            values += sum(text.count(sign, position, end) for sign in (b",", b"[", b"{", b":"))
            if values > MAX_VALUES:
                raise BadRequest(f"the body holds more than {MAX_VALUES} values")
            rest = _STRING_REST.match(text, end + 1)
            position = rest.end() if rest else len(text)
            strings += 1
            if strings % VALUES_BETWEEN_YIELDS == 0:
                await asyncio.sleep(0)

    def finish(self) -> Body:
        """Raises `BadRequest` when the whole is not JSON."""
        self._text += self._unscanned
        if self._in_string:
            raise BadRequest("the body is not valid JSON: it ends inside a string")
        try:
            document = orjson.loads(self._text)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"the body is not valid JSON: {error.msg}") from error
        _check_depth(document)
        return Body(document, self._cuts, self._size_bytes)

    def _read_text(self, data: bytes, position: int) -> int:
        start = _START.search(data, position)
        if start is None:
            self._unscanned = data[max(position, len(data) - _START_MAX_BYTES) :]
            self._text += data[position : len(data) - len(self._unscanned)]
            return len(data)
        self._data_strings += 1
        if self._data_strings > MAX_DATA_STRINGS:
            raise BadRequest(f"the body holds more than {MAX_DATA_STRINGS} strings that begin with `data:`")
        self._text += data[position : start.start()]
        if _odd_backslashes(self._text) or _TEXT_KEY.search(self._text[-64:]):
            self._text += start.group()
            return start.end()
        self._is_key_data = start.group().endswith(b'"')
        self._in_string = True
        opening_quote = start.end() if self._is_key_data else start.start() + 1
        self._text += data[start.start() : opening_quote]
        return opening_quote

    def _read_string(self, data: bytes, position: int) -> int:
        quote = data.find(b'"', position)
        end = len(data) if quote < 0 else quote
        if not self._has_media and len(self._string) + end - position >= CUT_CHARS:
            self._has_media = True
            if self._on_media is not None:
                self._on_media()
        if self._cut is not None and not self._string and data.find(b"\\", position, end) < 0:
            self._cut.add(memoryview(data)[position:end])  # as nearly all of nearly every text is
        else:
            self._string += memoryview(data)[position:end]
        if quote >= 0 and _odd_backslashes(self._string):
            self._string += b'"'
            return quote + 1
        if quote >= 0:
            self._close_string()
        elif len(self._string) >= CUT_CHARS:
            escape = self._string.rfind(b"\\", -_ESCAPE_MAX_BYTES)
            self._move_to_cut(len(self._string) if escape < 0 else escape)
        return end if quote < 0 else quote + 1

    def _close_string(self) -> None:
        if self._cut is None and len(self._string) < CUT_CHARS:
            self._text += self._string
            self._string.clear()
        else:
            self._move_to_cut(len(self._string))
            assert self._cut is not None
            placeholder = f"data:cut/{self._mark}/{len(self._cuts)}"
            self._cuts[placeholder] = self._cut
            self._text += placeholder.encode()
            self._cut = None
        self._text += b'"'
        self._in_string = False

    def _move_to_cut(self, length: int) -> None:
        """The first `length` bytes of the string being read go, unescaped, to the cut."""
        if self._cut is None:
            bare = self._is_key_data and self._string[:5].lower() != b"data:"
            self._cut = MediaText(DATA_PREFIX if bare else b"")
        piece = bytes(self._string[:length])
        self._cut.add(piece if b"\\" not in piece else _unescaped(piece))
        del self._string[:length]


def _check_depth(document: object) -> None:
    level, depth = [document], 0
    while level := [inner for value in level for inner in _within(value)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise BadRequest(f"the body is nested deeper than {MAX_DEPTH} levels")


def _within(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


async def read_body(chunks: AsyncIterator[bytes], scanner: BodyScanner) -> Body:
    """The body that `chunks` make up. Raises what `scanner` does, at the first byte that is too many or not JSON."""
    since_yield = 0
    async for chunk in chunks:
        for start in range(0, len(chunk), BYTES_BETWEEN_YIELDS):
            piece = chunk[start : start + BYTES_BETWEEN_YIELDS]
            scanner.feed(piece)
            since_yield += len(piece)
            if since_yield >= BYTES_BETWEEN_YIELDS:
                since_yield = 0
                await asyncio.sleep(0)
    await scanner.check_values()
    return scanner.finish()


def check_type(headers: Headers, body_type: str) -> None:
    """A web page may send other types anywhere without asking; it must not have a local server work for it."""
    declared = headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared != body_type:
        said = f"the body must be declared as {body_type}, not as {shown(declared) or 'nothing'}"
        raise UnsupportedMediaType(f"{said}, by the header content-type")
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(f"bodies with content-encoding {shown(encoding)} are not read; send it as it is")


def _odd_backslashes(text: bytearray) -> bool:
    """Whether the next character is escaped."""
    tail = len(text)
    while tail and text[tail - 1] == 0x5C:
        tail -= 1
    return (len(text) - tail) % 2 == 1


def _unescaped(text: bytes) -> bytes:
    for escape, char in _ESCAPES:
        text = text.replace(escape, char)
    if b"\\" in text:
        raise BadRequest("a data: URL in the body holds an escaped character that is not of its alphabet")
    return text
