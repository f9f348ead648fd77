"""Answers that are one piece of JSON: results, and errors in OpenAI's shape. The status of an error is decided here."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from starlette.responses import Response

from deployments.errors import SluiceError, shown

MAX_MESSAGE_CHARS = 1000


def json_response(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, headers, media_type="application/json")


def error_document(error: SluiceError) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    return {
        "error": {
            "message": shown(error.message, MAX_MESSAGE_CHARS),
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def error_response(error: SluiceError, worded: Callable[[SluiceError], dict[str, Any]] = error_document) -> Response:
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return json_response(worded(error), error.status, headers)


def http_error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """For what HTTP itself refuses: unknown paths and methods."""
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "invalid_request")
    document = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return json_response(document, status, headers)
