"""Can requests be answered now? Which stages have a replica, why others have none, and whether the server is stopping.

Asked of the cluster in the background, so that `/ready` and every request know at once: a client that comes while the
model loads is told to come back, instead of waiting for a replica until its time is over.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from deployments.errors import StageUnavailable

Look = Callable[[], Awaitable[Mapping[str, str | None]]]
"""The stages that should have a replica and have none, by name, with why where that is known. Raises `ConnectionError`
where nobody can tell now."""

STARTING_LOOK_S, READY_LOOK_S = 0.5, 2.0
"""Between two looks while something is missing, and while nothing is."""
LOOK_TIMEOUT_S = 5.0
STARTING_RETRY_AFTER_S = 5.0

FIRST_STAGES = ("Preprocessor", "Model")
"""Needed by every request, one of text alone too."""


async def nothing_missing() -> Mapping[str, str | None]:
    """A `Look` for applications whose stages are always there."""
    return {}


class Readiness:
    """One for an ingress replica."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._missing: Mapping[str, str | None] | None = None
        self.draining = False
        """Set once, when the server is about to stop: nothing new is taken."""

    async def watch(self) -> None:
        """Look again and again; cancelled at the end."""
        while True:
            await self.look()
            await asyncio.sleep(STARTING_LOOK_S if self._missing else READY_LOOK_S)

    async def look(self) -> None:
        """Bring what is known up to date. A cluster that does not answer changes nothing."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                self._missing = await self._look()

    async def check(self, *stages: str) -> None:
        """Raise `StageUnavailable` when one of `stages` has no replica, or the server is stopping."""
        if self.draining:
            raise StageUnavailable("the server is shutting down", retry_after_s=STARTING_RETRY_AFTER_S)
        for stage in stages:
            missing = await self._known()
            if stage in missing:
                why = f": {missing[stage]}" if missing[stage] else ""
                raise StageUnavailable(f"the {stage} stage is starting{why}", retry_after_s=STARTING_RETRY_AFTER_S)

    async def document(self) -> dict[str, Any]:
        """What `/ready` says; `status` is `ready`, `starting` or `draining`."""
        if self.draining:
            return {"status": "draining"}
        missing = await self._known()
        if not missing:
            return {"status": "ready"}
        said: dict[str, Any] = {"status": "starting", "waiting_for": sorted(missing)}
        reasons = {stage: why for stage, why in sorted(missing.items()) if why}
        return {**said, "reasons": reasons} if reasons else said

    async def _known(self) -> Mapping[str, str | None]:
        if self._missing is None:
            await self.look()
        return self._missing if self._missing is not None else dict.fromkeys(FIRST_STAGES)
