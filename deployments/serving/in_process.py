"""A stage in the process that calls it: nothing is pickled, and what passes between two such stages is not copied.

What is called is the very class that a replica would be, by the same door: its bounds, its time, its metrics and its
spans are what they are elsewhere, and so are its errors. What it does not have is a process that can die alone.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.errors import InternalError, Overloaded, SluiceError, StageTimeout
from deployments.observability.spans import current_carrier
from deployments.serving.client import DEFAULT_RETRY_AFTER_S, taken, unfailed
from deployments.serving.replica import CARRIER
from deployments.stage_calls import StageResult, TensorRef

MAX_CALLS = 512
"""Of one stage at once, those included that wait for its threads: the next one is refused, as by a full replica."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """What a caller is bound to in place of a stage's deployment."""

    replica: type
    """The class that is deployed elsewhere."""
    config: AppConfig

    def start(self, name: str) -> "InProcess":
        """On the event loop that calls it; to be closed. `name` stands in errors and timings."""
        base: Any = self.replica
        # What Serve calls at a replica's end is called by `close`, and not once more by the garbage collector.
        once = type(base.__name__, (base,), {"__del__": lambda replica: None})
        return InProcess(once(self.config), base.__del__, name)


class InProcess:
    """`stage_calls.StageClient` over an object of this process."""

    def __init__(self, replica: Any, end: Any, name: str, max_calls: int = MAX_CALLS) -> None:
        """`end(replica)`, awaited if it can be, closes it."""
        self._replica, self._end, self._name = replica, end, name
        self._max_calls = max_calls
        self._calls = 0

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
        """See `stage_calls.StageClient.call`. A payload is what the method yields, itself."""
        assert not also_as_refs, "there are no references within a process"
        started = time.monotonic()
        async with aclosing(self.stream(method, deadline, *args, payloads=payloads)) as values:
            meta = await anext(values)
            payload = await anext(values, None)
        return StageResult(meta, payload, time.monotonic() - started)

    async def stream(
        self,
        method: str,
        deadline: Deadline,
        *args: object,
        key: str | None = None,
        payloads: Sequence[TensorRef] = (),
        promises: Sequence[TensorRef] | None = None,
    ) -> AsyncGenerator[Any, None]:
        """See `stage_calls.StageClient.stream`."""
        assert promises is None, "nothing is promised to a stage of this process"
        deadline.check()
        with self._place():
            given = [await taken(payload) for payload in payloads]
            carrier = current_carrier()
            told = {} if carrier is None else {CARRIER: carrier}
            answers = getattr(self._replica, method)(deadline.remaining_s(), *args, *given, **told)
            async with aclosing(answers) as values:
                while True:
                    try:
                        async with asyncio.timeout(deadline.remaining_s()):
                            value = unfailed(await anext(values))
                    except StopAsyncIteration:
                        return
                    except TimeoutError as error:
                        raise StageTimeout(self._name) from error
                    except SluiceError:
                        raise
                    except Exception as error:  # a defect
                        raise InternalError(f"the {self._name} stage failed") from error
                    yield value

    async def check_health(self) -> None:
        """Raises what a replica would be replaced for."""
        await self._replica.check_health()

    async def close(self) -> None:
        ended = self._end(self._replica)
        if inspect.isawaitable(ended):
            await ended

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._calls >= self._max_calls:
            raise Overloaded(f"the {self._name} stage has no room now", retry_after_s=DEFAULT_RETRY_AFTER_S)
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
