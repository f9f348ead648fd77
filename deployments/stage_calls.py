"""How calls travel between stages: what carries them, and what comes back.

`serving.client.Stage` carries them in the application, `serving.in_process.InProcess` within a process, fakes in tests.
"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NewType, Protocol, TypeVar

from deployments.core.deadline import Deadline

TensorRef = NewType("TensorRef", object)
"""A payload: in shared memory, or in this process where the stage that made it is (`serving.in_process`). Rooms hand it
on; only `serving/` knows what it is."""

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class StageResult(Generic[M]):
    """Answer of a stage: its metadata by value, its payload by reference, and the seconds that the call took in all."""

    meta: M
    payload: TensorRef | None
    seconds: float

    @property
    def own_payload(self) -> TensorRef:
        """Of a stage that always has one."""
        assert self.payload is not None, "this stage always has a payload"
        return self.payload


@dataclass(frozen=True, slots=True)
class Begun(Generic[M]):
    """A call that has told its metadata and goes on."""

    meta: M
    payload: Callable[[], Coroutine[Any, Any, TensorRef]]
    """Waits for it; to be called once. Where the stage fails after its metadata, that is a promise that is not kept."""
    cancel: Callable[[], None]
    given: tuple[TensorRef, ...] = ()
    """The payloads that it was given, in shared memory."""


@dataclass(frozen=True, slots=True)
class Promise:
    """A payload that a stage is about to make; whoever takes it finds out whether it came."""

    payload: TensorRef
    cancel: Callable[[], None]


class StageClient(Protocol):
    """How calls travel: `serving.client.Stage` in the application, a fake in tests."""

    async def call(
        self,
        method: str,
        deadline: Deadline,
        *args: object,
        key: str | None = None,
        payloads: Sequence[TensorRef] = (),
        answer_has_payload: bool = True,
        also_as_refs: bool = False,
    ) -> StageResult[Any]:
        """One answer. Raises `SluiceError`s: the stage's own, `Overloaded`, `StageUnavailable`, `StageTimeout`.

        Calls of one `key` go to one replica while it is not busier than the others.
        A call without payloads whose answer can't have one either (`answer_has_payload` False) costs much less.
        `also_as_refs`: before the payloads themselves goes a tuple of the references to them.
        """
        ...

    def stream(
        self,
        method: str,
        deadline: Deadline,
        *args: object,
        key: str | None = None,
        payloads: Sequence[TensorRef] = (),
        promises: Sequence[TensorRef] | None = None,
    ) -> AsyncGenerator[Any, None]:
        """The values that the method yields. Closing it cancels the work; raises as `call` does.

        `promises`: references that nothing waits for, given as a list before the payloads.
        """
        ...


class PromisingClient(StageClient, Protocol):
    """Of a stage whose answers are handed on before they are there. Before the payloads themselves goes a tuple of the
    references to them."""

    async def begin(
        self,
        method: str,
        deadline: Deadline,
        *args: object,
        key: str | None = None,
        payloads: Sequence[TensorRef] = (),
    ) -> Begun[Any]:
        """As soon as its metadata are there. Raises as `call` does."""
        ...

    async def promise(
        self, method: str, deadline: Deadline, *args: object, payloads: Sequence[TensorRef] = ()
    ) -> Promise:
        """What a method will return that yields nothing; once it has a place at a replica. Raises as `call` does."""
        ...
