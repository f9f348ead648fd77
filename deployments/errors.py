"""Every error that Sluice raises on purpose; each knows its HTTP status, OpenAI error type and code.

    SluiceError
    ├── RequestError             4xx: the client can mend it
    │   ├── BadRequest             400  malformed JSON, unknown or unsupported fields, wrong values
    │   │   ├── BadMedia             400  bytes that are not what they should be: garbage, truncated, wrong kind
    │   │   ├── MediaNotReachable    400  a URL that may not be dialled, or whose host answers 4xx
    │   │   ├── TooManyItems         400  more media items than one prompt may hold
    │   │   └── ContextTooLong       400  prompt and answer do not fit the model's context
    │   ├── Unauthorized           401  no or a wrong API key
    │   ├── ModelNotFound          404
    │   ├── NotFound               404  something else that was named and is not here
    │   ├── TooSlow                408  a body that arrives too slowly
    │   ├── TooLarge               413  a body, a download or a decoded size over its limit
    │   ├── UnsupportedCodec       415  a codec that this server can't decode; names it where the file does
    │   ├── UnsupportedMediaType   415  a body that is not declared as what is read here
    │   └── Overloaded             429  no room now; `retry_after_s` says when to come back
    ├── ServerError              5xx: the client can only retry
    │   ├── InternalError          500  a defect or a lack of memory, descriptors
    │   │   └── ReplicaLost          500  found by a health check: this replica can answer nobody any more
    │   ├── MediaHostError         502  the media host could not be resolved, connected to, or answered 5xx
    │   ├── StageUnavailable       503  no replica of a stage is alive
    │   │   ├── StageStarting        503  none is there yet; `retry_after_s` says when to come back
    │   │   ├── PixelsWanted         503  a model does not know media that were not sent along: the ingress sends them
    │   │   └── MediaLost            503  frames of a clip that were to follow did not come
    │   └── StageTimeout           504  the request's time ran out; names the stage
    └── WorkCancelled            499  the client has gone or another item failed: never shown to anyone

`param` names the item or field at fault (`messages[0].content[1]`). Messages say what was wrong and what is allowed;
they carry no payload, no credentials, no object addresses. The ingress turns an error into a response in one place.
Errors cross process boundaries: state beyond the message lives in attributes, so that plain pickling keeps it.
"""

MAX_SHOWN_CHARS = 200


def shown(text: str, limit: int = MAX_SHOWN_CHARS) -> str:
    """`text` as it may stand in a message or a log: printable, at most `limit` characters, `data:` payloads cut."""
    if text[:5].lower() == "data:":
        head, _, payload = text.partition(",")
        text = f"{head[:60]},<{len(payload)} characters>"
    if not (text := text[: limit + 1]).isprintable():
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


class SluiceError(Exception):
    """Base of all errors raised on purpose."""

    status: int = 500
    type: str = "server_error"
    code: str = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message


class RequestError(SluiceError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class BadRequest(RequestError):
    """The request itself is malformed or asks for what is not supported."""


class BadMedia(BadRequest):
    code = "invalid_media"


class MediaNotReachable(BadRequest):
    code = "media_not_reachable"


class TooManyItems(BadRequest):
    code = "too_many_items"


class ContextTooLong(BadRequest):
    code = "context_length_exceeded"


class Unauthorized(RequestError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class ModelNotFound(RequestError):
    status = 404
    type = "not_found_error"
    code = "model_not_found"


class NotFound(RequestError):
    status = 404
    type = "not_found_error"
    code = "not_found"


class TooSlow(RequestError):
    status = 408
    code = "too_slow"


class TooLarge(RequestError):
    status = 413
    code = "too_large"


class UnsupportedCodec(RequestError):
    status = 415
    code = "unsupported_codec"


class UnsupportedMediaType(RequestError):
    status = 415
    code = "unsupported_media_type"


class Overloaded(RequestError):
    status = 429
    type = "overloaded_error"
    code = "overloaded"


class ServerError(SluiceError):
    status = 500


class InternalError(ServerError):
    """A defect of ours, or a resource of the machine that ran out."""


class ReplicaLost(InternalError):
    """This replica can answer nobody any more, whatever it is asked: another one must take its place."""


class MediaHostError(ServerError):
    status = 502
    code = "media_host_error"


class StageUnavailable(ServerError):
    status = 503
    code = "stage_unavailable"


class StageStarting(StageUnavailable):
    code = "stage_starting"


class PixelsWanted(StageUnavailable):
    """Media that were seen before were named instead of sent, and the model replica does not know them any more."""


class MediaLost(StageUnavailable):
    """Of a clip that was decoded in groups; the same clip may well be had whole."""


class StageTimeout(ServerError):
    """The time a request had ran out while `stage` held it."""

    status = 504
    type = "timeout_error"
    code = "timeout"

    def __init__(self, stage: str, *, param: str | None = None) -> None:
        super().__init__(f"the request's time ran out in the {stage} stage", param=param)
        self.stage = stage
        self.args = (stage,)  # what unpickling calls the constructor with


class WorkCancelled(SluiceError):
    """Work was told to stop; raised inside stages to unwind their threads."""

    status = 499
    type = "cancelled"
    code = "cancelled"
