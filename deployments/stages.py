"""How a stage looks to its callers: what `calls.Stage` keeps to, so that rooms call each other without knowing Ray."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NewType, Protocol, TypeVar

from deployments.core.deadline import Deadline

TensorRef = NewType("TensorRef", object)
"""A payload in shared memory. Rooms hand it on; only `calls.py` knows what it is."""

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class StageResult(Generic[M]):
    """Answer of a stage: its metadata by value, its payload by reference, and the seconds that the call took in all."""

    meta: M
    payload: TensorRef | None
    seconds: float


class StageClient(Protocol):
    """A stage as its callers see it; `calls.Stage` in the application, a fake in tests."""

    async def call(
        self,
        method: str,
        deadline: Deadline,
        *args: object,
        payloads: Sequence[TensorRef] = (),
        answer_has_payload: bool = True,
    ) -> StageResult[Any]:
        """One answer. Raises `SluiceError`s: the stage's own, `Overloaded`, `StageUnavailable`, `StageTimeout`.

        A call without payloads whose answer can't have one either (`answer_has_payload` False) costs much less.
        """
        ...

    def stream(
        self, method: str, deadline: Deadline, *args: object, payloads: Sequence[TensorRef] = ()
    ) -> AsyncGenerator[Any, None]:
        """The values that the method yields. Closing it cancels the work; raises as `call` does."""
        ...
