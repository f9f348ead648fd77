"""What an endpoint that generates is made of: how its requests are read, and how its answers are worded.

Everything between the two is the same for all of them; see `generation`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from starlette.responses import Response

from deployments.errors import SluiceError
from deployments.ingress.http.body import Body
from deployments.ingress.http.timing import Timings
from deployments.ingress.output.answer import Answer, ChoiceDelta
from deployments.ingress.pipeline.pipeline import ReadyPrompt
from deployments.ingress.request import GenerationRequest
from deployments.types import MediaProfile


class Writer(Protocol):
    """Words one answer: whole, or as the events of a stream."""

    def whole(self, timings: Timings) -> Response: ...

    def opening(self) -> bytes:
        """What a stream begins with, before anything is said."""
        ...

    def pieces(self, deltas: Sequence[ChoiceDelta]) -> bytes: ...

    def closing(self, timings: Timings) -> bytes:
        """The end of a stream that went well."""
        ...

    def failure(self, error: SluiceError) -> bytes:
        """The end of one that did not."""
        ...


class Readable(Protocol):
    """How the requests of an API are read."""

    body_type: str
    """`application/json` or `multipart/form-data`."""

    @property
    def error_document(self) -> Callable[[SluiceError], dict[str, Any]]:
        """How the API words errors."""
        ...

    def read(self, body: Body) -> list[GenerationRequest]:
        """The requests in a body: one, but for APIs that take several prompts at once, which do not stream.

        Raises `SluiceError`s that name the field at fault.
        """
        ...


@runtime_checkable
class Endpoint(Readable, Protocol):
    """An API that answers."""

    def writer(self, requests: Sequence[GenerationRequest], answers: Sequence[Answer], answer_id: str) -> Writer: ...


class CountingEndpoint(Readable, Protocol):
    """An API that only wants to know how a request reads to the model."""

    def respond(
        self, requests: Sequence[GenerationRequest], prompt: ReadyPrompt, profile: MediaProfile
    ) -> Response: ...
