"""Bodies of `multipart/form-data`: fields and one file, read into a `Body` like any other.

Such a body is small enough to be held (`max_body_bytes`), and its file goes on as base64, as if it had come in JSON.
"""

import asyncio
import base64
import re
from collections.abc import AsyncIterator

from deployments.errors import BadRequest, TooLarge
from deployments.ingress.http.body import DATA_PREFIX, Body

MAX_FIELDS = 64
MAX_FIELD_BYTES = 64 * 1024
MAX_HEAD_BYTES = 4096
_BOUNDARY = re.compile(r'multipart/form-data\s*;.*?boundary="?([^";,\s]{1,70})"?', re.IGNORECASE)
_DISPOSITION = re.compile(rb"^content-disposition:\s*form-data\s*;(.*)$", re.IGNORECASE | re.MULTILINE)
_NAME = re.compile(rb'(?:^|[;\s])name="([^"]*)"')
_FILENAME = re.compile(rb'(?:^|[;\s])filename="([^"]*)"')


def boundary_of(content_type: str) -> bytes | None:
    """What separates the parts; None for anything but a form."""
    found = _BOUNDARY.match(content_type)
    return found[1].encode() if found else None


async def read_form(chunks: AsyncIterator[bytes], boundary: bytes, max_bytes: int) -> Body:
    """Fields by name; a name that ends in `[]` holds a list. Files are cuts: `data:` URLs by placeholder.

    Raises `TooLarge` and `BadRequest`.
    """
    whole = bytearray()
    async for chunk in chunks:
        whole += chunk
        if len(whole) > max_bytes:
            raise TooLarge(f"the body is larger than the {max_bytes} bytes that are allowed")
    return await asyncio.to_thread(_parsed, whole, boundary)


def part_names(head: bytes) -> tuple[str, str | None]:
    """The name of the part with this head, and the one of its file. Raises `BadRequest`."""
    disposition = _DISPOSITION.search(head)
    named = _NAME.search(disposition[1]) if disposition else None
    if disposition is None or named is None:
        raise BadRequest("a part of the form has no name")
    filename = _FILENAME.search(disposition[1])
    return named[1].decode(errors="replace"), filename[1].decode(errors="replace") if filename else None


def _parsed(whole: bytearray, boundary: bytes) -> Body:
    mark = b"--" + boundary
    begin = whole.find(mark)
    if begin < 0:
        raise BadRequest("the form has no parts")
    body = Body({}, size_bytes=len(whole))
    for _ in range(MAX_FIELDS + 1):
        begin += len(mark)
        if whole[begin : begin + 2] == b"--":
            return body
        end = whole.find(b"\r\n" + mark, begin)
        if end < 0:
            raise BadRequest("the form is not complete")
        _read_part(whole, begin + 2, end, body)
        begin = end + 2
    raise BadRequest(f"the form has more than {MAX_FIELDS} parts")


def _read_part(whole: bytearray, begin: int, end: int, body: Body) -> None:
    """The part between two places: its headers, an empty line, its content."""
    split = whole.find(b"\r\n\r\n", begin - 2, min(end, begin + MAX_HEAD_BYTES))
    name, filename = part_names(bytes(whole[begin:split]) if split >= 0 else b"")
    content = memoryview(whole)[split + 4 : end]
    if filename is not None:
        placeholder = f"data:form/{len(body.cuts)}"
        body.cuts[placeholder] = bytearray(DATA_PREFIX + base64.b64encode(content))
        body.document[name] = {"file": placeholder, "filename": filename}
        return
    if len(content) > MAX_FIELD_BYTES:
        raise TooLarge(f"a field of the form is larger than {MAX_FIELD_BYTES} bytes", param=name)
    value = bytes(content).decode(errors="replace")
    if name.endswith("[]"):
        body.document.setdefault(name.removesuffix("[]"), []).append(value)
    else:
        body.document[name] = value
