"""JSON bodies that hold nothing but a few fields: read whole, once their declared length has been judged."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.datastructures import Headers

from deployments.core.declared_length import declares_more
from deployments.errors import BadRequest, TooLarge
from deployments.ingress.http.body import check_type


def check_length(headers: Headers, max_bytes: int) -> int | None:
    """The bytes that a body declares, if it does. Raises `TooLarge` where they are too many: none of them is read, and
    a client that waits for `100 Continue` sends none.
    """
    declared = headers.get("content-length", "")
    if declares_more(declared, max_bytes):
        raise TooLarge(f"the body has {declared[:20]} bytes; at most {max_bytes} are allowed")
    return int(declared) if declared.isdecimal() else None


async def read_object(headers: Headers, chunks: AsyncIterator[bytes], max_bytes: int) -> dict[str, Any]:
    """Raises `UnsupportedMediaType`, `TooLarge`, and `BadRequest` for what is no JSON object."""
    check_type(headers, "application/json")
    check_length(headers, max_bytes)
    body = b""
    async for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            raise TooLarge(f"the body is larger than the {max_bytes} bytes that are allowed")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error.msg}") from error
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object")
    return document
