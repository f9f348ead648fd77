"""Can requests be answered now? Which stages have a replica, why others have none, and whether the server is stopping.

Asked of the cluster in the background, so that `/ready` and every request know at once: a client that comes while the
model loads is told to come back, instead of waiting for a replica until its time is over.

A model that was scaled to nothing is idle, not broken: the server is ready, and the first request for it makes it load.
Were it unready, no load balancer would send that request. Where another model is starting and none answers yet, the
server is starting. Fetchers and decoders start within seconds: their requests wait for them.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from deployments.errors import StageStarting, StageUnavailable
from deployments.ingress.http.waking import Wake, Waking, nothing_to_wake
from deployments.served_model import DRAINING, IDLE, PARTLY_READY, READY, STARTING
from deployments.types import StageStates

Look = Callable[[], Awaitable[StageStates]]
"""What the cluster knows of the deployments. Raises `ConnectionError` where nobody can tell now."""

STARTING_LOOK_S, READY_LOOK_S = 0.5, 2.0
"""Between two looks while something is missing, and while nothing is."""
LOOK_TIMEOUT_S = 5.0
STARTING_RETRY_AFTER_S = 5.0

ASKABLE = (READY, IDLE, PARTLY_READY)
"""What `status` may be where a request has a chance."""


async def nothing_missing() -> StageStates:
    """A `Look` for applications whose stages are always there."""
    return StageStates()


class Readiness:
    """One for an ingress replica."""

    def __init__(
        self,
        models: Mapping[str, Sequence[str]],
        look: Look = nothing_missing,
        wake: Wake = nothing_to_wake,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`models`: the deployments that each one has for itself."""
        self._models = models
        self._look = look
        self._states: StageStates | None = None
        self._waking = Waking(wake, self.look, clock)
        self.draining = False
        """Set once, when the server is about to stop: nothing new is taken."""

    async def watch(self) -> None:
        """Look again and again; cancelled at the end."""
        try:
            while True:
                await self.look()
                restless = self._states is None or self._states.missing
                await asyncio.sleep(STARTING_LOOK_S if restless else READY_LOOK_S)
        finally:
            await self._waking.close()

    async def look(self) -> None:
        """Bring what is known up to date. A cluster that does not answer changes nothing."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                self._states = await self._look()

    async def check(self, stages: Iterable[str] = ()) -> None:
        """Raise `StageStarting` when one of `stages` has no replica, `StageUnavailable` when the server is stopping."""
        if self.draining:
            raise StageUnavailable("the server is shutting down", retry_after_s=STARTING_RETRY_AFTER_S)
        missing = (await self._known()).missing
        for stage in stages:
            if stage in missing:
                why = f": {missing[stage]}" if missing[stage] else ""
                raise StageStarting(f"the {stage} stage is starting{why}", retry_after_s=self._retry_after_s(stage))

    async def check_any(self) -> None:
        """The same for a request of which it is not known yet which model it asks: of what all of them lack."""
        own = [set(stages) for stages in self._models.values()]
        await self.check(sorted(own[0]) if len(own) == 1 else ())

    async def check_model(self, model: str) -> None:
        """The same of what a model has for itself, which is made to start where it is idle."""
        stages = self._models[model]
        await self.check(stages)
        idle = [stage for stage in stages if stage in (await self._known()).idle]
        for stage in idle:
            self._waking.ask_for(stage)
        if idle:
            after_s = max(self._retry_after_s(stage) for stage in idle)
            said = f"the model {model!r} was idle and is being started: ask again in about {after_s:.0f} s"
            raise StageStarting(said, retry_after_s=after_s)

    async def document(self) -> dict[str, Any]:
        """What `/ready` says: a `status`, what is waited for, what is idle, and of several models each one's status."""
        if self.draining:
            return {"status": DRAINING}
        states = await self._known()
        each = {name: _status(stages, states) for name, stages in self._models.items()}
        said: dict[str, Any] = {"status": self._overall(states, each.values())}
        if states.missing:
            said["waiting_for"] = sorted(states.missing)
        if reasons := {stage: why for stage, why in sorted(states.missing.items()) if why}:
            said["reasons"] = reasons
        if states.idle:
            said["idle"] = sorted(states.idle)
        if len(each) > 1:
            said["models"] = each
        return said

    def _overall(self, states: StageStates, each: Collection[str]) -> str:
        own = {stage for stages in self._models.values() for stage in stages}
        if states.missing.keys() - own:
            return STARTING
        if READY in each:
            return PARTLY_READY if STARTING in each else READY
        return STARTING if STARTING in each else IDLE

    def _retry_after_s(self, stage: str) -> float:
        return self._waking.left_s(stage) or STARTING_RETRY_AFTER_S

    async def _known(self) -> StageStates:
        if self._states is None:
            await self.look()
        if self._states is not None:
            return self._states
        return StageStates(dict.fromkeys(stage for stages in self._models.values() for stage in stages))


def _status(stages: Iterable[str], states: StageStates) -> str:
    if any(stage in states.missing for stage in stages):
        return STARTING
    return IDLE if any(stage in states.idle for stage in stages) else READY
