"""The one seam between Sluice and Ray's handles.

A stage method is an async generator that yields its metadata and then its payload. Called as a stream whose items are
taken as object refs, that gives the caller the metadata by value and the payload as a ref which the *caller* owns: it
survives the stage replica's death, is freed as soon as the caller lets go of it, and is handed to the next stage as a
top-level argument, which maps it from shared memory without a copy. Since refs are ready when they are passed on,
`max_queued_requests` counts them truly. `_to_object_ref_gen` is a developer API of Ray: the version is pinned.

Calls without any payload go by value, over gRPC straight to the replica, which spares both ends the book-keeping of
object references; so do small payloads that are in this process (`in_process`). Others go by reference. A stream's
values go past Ray where both ends are on one node (`side_channel`).

Leaving a call early (time over, request cancelled) always cancels the work that was assigned: Ray by itself does not.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NoReturn, TypeVar

import ray
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    RequestCancelledError,
)
from ray.serve.handle import DeploymentHandle

from deployments.core.deadline import Deadline
from deployments.errors import (
    InternalError,
    MediaLost,
    Overloaded,
    SluiceError,
    StageTimeout,
    StageUnavailable,
    WorkCancelled,
)
from deployments.observability.spans import current_carrier
from deployments.serving.replica import CALLER, CARRIER, REPLY_TO, StageFailure, own_node
from deployments.serving.side_channel import Inboxes, ReplyTo
from deployments.stage_calls import Begun, Promise, StageResult, TensorRef

DEFAULT_RETRY_AFTER_S = 1.0

_MESSAGE_BYTES = 2**20
"""Largest payloads that go by value: of pixels as a small model sees them, two copies in a millisecond."""
_LONG_COPY_BYTES = 2**20

T = TypeVar("T")

_REPLICA_LOST = (ActorDiedError, ActorUnavailableError, ObjectLostError, DeploymentUnavailableError)


def put(array: NDArray[Any]) -> TensorRef:
    """Copy `array` into shared memory once; the caller owns the ref."""
    return TensorRef(ray.put(array))


async def taken(ref: TensorRef) -> Any:
    """What `ref` refers to, mapped from shared memory; raises as `Stage.call` does when it is lost."""
    if not isinstance(ref, ray.ObjectRef):
        return ref
    awaitable: Any = ref
    try:
        return await awaitable
    except _REPLICA_LOST as lost:
        raise StageUnavailable("what a stage answered was lost") from lost


async def promised(refs: list[TensorRef]) -> AsyncGenerator[Any, None]:
    """What was promised (`PromisingClient.promise`), one after the other; `refs` is emptied.

    Raises `MediaLost` for what does not come, `StageTimeout` where there was no time for it.
    """
    while refs:
        try:
            value = unfailed(await taken(refs.pop(0)))
        except StageTimeout:
            raise
        except (SluiceError, RayError) as error:
            raise MediaLost("a part of a clip did not come") from error
        yield value


class Stage:
    """A stage as the ingress calls it: `stage_calls.StageClient` over a Ray Serve handle."""

    def __init__(self, handle: "DeploymentHandle[Any]", name: str, *, retries: int = 1) -> None:
        """`name` stands in errors and timings. `retries`: how often a call is made again when its replica dies."""
        self._by_reference = handle.options(stream=True)
        self._by_value = handle.options(
            stream=True, _by_reference=False, request_serialization="pickle", response_serialization="pickle"
        )
        self._one_value = handle.options(stream=False)
        self._name = name
        self._retries = retries
        self._caller = _own_name()
        self._inboxes: Inboxes | None = None

    def close(self) -> None:
        """After the last stream."""
        if self._inboxes is not None:
            self._inboxes.close()

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
        """Metadata by value and payload by reference of one call; see `stage_calls.StageClient.call`.

        Stages behind `call` are idempotent: a call whose replica dies is made again while time is left.
        """
        started = time.monotonic()
        by_value = not payloads and not answer_has_payload
        shared = await _shared(payloads)
        args = (*args, shared) if also_as_refs else args
        send = partial(self._send, method, deadline, args, shared, key, by_value=by_value)
        meta, payload = await self._made(send, deadline, _meta_alone if by_value else _meta_and_payload)
        return StageResult(meta, payload, time.monotonic() - started)

    async def begin(
        self,
        method: str,
        deadline: Deadline,
        *args: object,
        key: str | None = None,
        payloads: Sequence[TensorRef] = (),
    ) -> Begun[Any]:
        """Metadata by value as soon as they are there; see `stage_calls.PromisingClient.begin`.

        A replica's death until then is made up for as `call` does; afterwards it is `StageUnavailable`.
        """
        shared = await _shared(payloads)

        async def begun(response: Any) -> Begun[Any]:
            refs, meta = await _meta_before_others(response)
            return Begun(meta, partial(self._payload, response, refs, deadline), partial(_cancel, response), shared)

        return await self._made(partial(self._send, method, deadline, (*args, shared), shared, key), deadline, begun)

    async def _payload(self, response: Any, refs: Any, deadline: Deadline) -> TensorRef:
        async with self._within(deadline, response):
            return TensorRef(await anext(refs))

    async def promise(
        self, method: str, deadline: Deadline, *args: object, payloads: Sequence[TensorRef] = ()
    ) -> Promise:
        """See `stage_calls.PromisingClient.promise`."""
        shared = await _shared(payloads)
        response = self._send(method, deadline, (*args, shared), shared, None, one_value=True)
        async with self._within(deadline, response):
            return Promise(TensorRef(await response._to_object_ref()), partial(_cancel, response))

    async def stream(
        self,
        method: str,
        deadline: Deadline,
        *args: object,
        key: str | None = None,
        payloads: Sequence[TensorRef] = (),
        promises: Sequence[TensorRef] | None = None,
    ) -> AsyncGenerator[Any, None]:
        """The values that the method yields; see `StageClient.stream`. Closing the generator cancels the work."""
        self._inboxes = self._inboxes or Inboxes(own_node())
        by_value = not promises and _is_small(payloads)
        args = args if promises is None else (*args, list(promises))
        payloads = payloads if by_value else await _shared(payloads)
        for attempt in range(self._retries + 1):
            inbox = self._inboxes.open()
            response = self._send(method, deadline, args, payloads, key, inbox.reply_to, by_value=by_value)
            following = asyncio.create_task(inbox.follow(response))
            begun = finished = False
            try:
                while True:
                    # Not around the yield: the caller's own waiting is not the stage's.
                    async with asyncio.timeout(deadline.remaining_s()):
                        value = unfailed(await inbox.next())
                    begun = True
                    yield value
            except StopAsyncIteration:
                finished = True
                return
            except _REPLICA_LOST as lost:
                if begun or attempt == self._retries:
                    raise StageUnavailable(f"a replica of the {self._name} stage was lost while it answered") from lost
            except Exception as error:
                self._raise_ours(error)
            finally:
                inbox.close()
                if not finished:
                    _cancel(response)
                    following.cancel()

    async def _made(self, send: Callable[[], Any], deadline: Deadline, read: Callable[[Any], Awaitable[T]]) -> T:
        """What `read` makes of the response to `send()`, which is sent again when a replica dies."""
        for attempt in range(self._retries + 1):
            response = send()
            try:
                async with asyncio.timeout(deadline.remaining_s()):
                    return await read(response)
            except _REPLICA_LOST as lost:
                if attempt == self._retries:
                    raise StageUnavailable(f"no replica of the {self._name} stage could finish the work") from lost
            except BaseException as error:
                _cancel(response)
                self._raise_ours(error)
        raise AssertionError("the loop returns or raises")

    @asynccontextmanager
    async def _within(self, deadline: Deadline, response: Any) -> AsyncIterator[None]:
        """What goes wrong in the block, its time included, cancels the work and means to a caller what it does."""
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                yield
        except BaseException as error:
            _cancel(response)
            self._raise_ours(error)

    def _send(
        self,
        method: str,
        deadline: Deadline,
        args: tuple[object, ...],
        payloads: Sequence[TensorRef],
        key: str | None,
        reply_to: ReplyTo | None = None,
        *,
        by_value: bool = False,
        one_value: bool = False,
    ) -> Any:
        deadline.check()
        carrier = current_carrier()
        told: dict[str, object] = {} if carrier is None else {CARRIER: carrier}
        if reply_to is not None:
            told[REPLY_TO] = reply_to
        by_reference = self._one_value if one_value else self._by_reference
        handle = (self._by_value if by_value else by_reference).options(method_name=method, session_id=key or "")
        if by_value:  # its connection breaks when this process dies
            return handle.remote(deadline.remaining_s(), *args, *payloads, **told)
        caller = {} if self._caller is None else {CALLER: self._caller}
        return handle.remote(deadline.remaining_s(), *args, *payloads, **told, **caller)

    def _raise_ours(self, error: BaseException) -> NoReturn:
        """Raise what `error` means to a caller of the stage; cancellation and the like pass unchanged."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, BackPressureError):
            after_s = cause.retry_after_s or DEFAULT_RETRY_AFTER_S
            raise Overloaded(f"the {self._name} stage has no room now", retry_after_s=after_s) from error
        if isinstance(cause, TimeoutError):
            raise StageTimeout(self._name) from error
        if isinstance(cause, RequestCancelledError | WorkCancelled):
            raise WorkCancelled(f"the {self._name} stage's work was cancelled") from error
        if isinstance(cause, SluiceError):
            raise cause from None
        if isinstance(cause, _REPLICA_LOST):  # a payload with the node that kept it, or a stage behind this one
            raise StageUnavailable(f"what the {self._name} stage works with was lost") from error
        if isinstance(cause, Exception):  # a defect; Ray wraps it when it comes by reference, and does not by value
            raise InternalError(f"the {self._name} stage failed") from error
        raise error


async def _shared(payloads: Sequence[TensorRef]) -> tuple[TensorRef, ...]:
    """`payloads` in shared memory; those of this process are copied there, on a thread if that takes long."""
    shared: list[object] = []
    for payload in payloads:
        if isinstance(payload, ray.ObjectRef):
            shared.append(payload)
        elif _size_bytes(payload) < _LONG_COPY_BYTES:
            shared.append(ray.put(payload))
        else:
            shared.append(await asyncio.to_thread(ray.put, payload))
    return tuple(map(TensorRef, shared))


def _is_small(payloads: Sequence[TensorRef]) -> bool:
    """Whether they may travel within a message: no references, and few bytes."""
    if any(isinstance(payload, ray.ObjectRef) for payload in payloads):
        return False
    return sum(map(_size_bytes, payloads)) <= _MESSAGE_BYTES


def _size_bytes(payload: Any) -> int:
    """Of an array, or of several by name."""
    return sum(array.nbytes for array in (payload.values() if isinstance(payload, dict) else (payload,)))


async def _meta_before_others(response: Any) -> tuple[Any, Any]:
    """The references that follow, and the metadata."""
    refs = await response._to_object_ref_gen()
    return refs, unfailed(await (await anext(refs)))


async def _meta_and_payload(response: Any) -> tuple[Any, TensorRef | None]:
    refs, meta = await _meta_before_others(response)
    payload = await anext(refs, None)
    return meta, None if payload is None else TensorRef(payload)


async def _meta_alone(response: Any) -> tuple[Any, None]:
    meta = unfailed(await anext(response))
    await anext(response, None)  # a call counts as running until its end has been read
    return meta, None


def unfailed(value: Any) -> Any:
    if isinstance(value, StageFailure):
        raise value.error
    return value


def _own_name() -> str | None:
    """The name of the replica that this process is, None where it is none."""
    try:
        return str(serve.get_replica_context().replica_id.to_full_id_str())
    except RayServeException:
        return None


def _cancel(response: Any) -> None:
    try:
        response.cancel()
    except (RayServeException, RayError):
        return  # the call failed before it was assigned: there is nothing to cancel
