"""Which nodes are about to leave the cluster, for whoever routes calls: asked in the background, known at once.

A node that drains (an autoscaler takes it, its pod is told to end, a spot machine is called back) is given some time.
Serve starts other replicas in the place of its own and goes on routing to these until the others are there: where there
is no room for others, until the node is gone, with every answer that has begun meanwhile.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

import ray
from ray.exceptions import RayError

LOOK_S = 2.0
"""Between two questions; a node has at least half a minute."""

logger = logging.getLogger("sluice.routing")


def nodes_that_drain() -> Collection[str]:
    """Ids of the cluster's nodes. Asks the cluster: blocks for a moment. Ray has no public function for it."""
    found: dict[str, int] = ray._private.state.state.get_draining_nodes()
    return found.keys()


class Placed(Protocol):
    @property
    def node_id(self) -> str: ...


R = TypeVar("R", bound=Placed)


class DrainingNodes:
    """One for a router, used on its event loop."""

    def __init__(self, ask: Callable[[], Collection[str]], clock: Callable[[], float] = time.monotonic) -> None:
        """`ask()`: ids of the nodes that drain; may block, and is called on a thread."""
        self._ask, self._clock = ask, clock
        self._known: frozenset[str] = frozenset()
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    def staying(self, replicas: list[R]) -> list[R]:
        """Those whose node is not known to drain; all of them where every one does."""
        if len(replicas) < 2:
            return replicas
        self._refresh()
        if not self._known:
            return replicas
        return [replica for replica in replicas if replica.node_id not in self._known] or replicas

    def _refresh(self) -> None:
        """Ask again where the last answer is some seconds old; whoever wants to know now does not wait for it."""
        if self._clock() - self._asked_at >= LOOK_S and (self._asking is None or self._asking.done()):
            self._asked_at = self._clock()
            self._asking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        try:
            self._known = frozenset(await asyncio.to_thread(self._ask))
        except (RayError, RuntimeError) as error:  # nobody can tell now: what was known holds
            logger.warning("it can't be told which nodes drain: %s", error)
