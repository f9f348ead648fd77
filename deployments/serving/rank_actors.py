"""The further ranks of a model replica that is divided: an actor each, in the bundles of the replica's placement group.

Ray places a replica with all of its bundles or not at all, and the replica sits in the first. That one of its actors
has died Ray does not tell it: its health check asks them.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util import get_current_placement_group, get_node_ip_address
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from deployments.config import AppConfig
from deployments.errors import InternalError, ReplicaLost
from deployments.serving.replica import hide_gpus

CHECK_S = 5.0
"""Longest wait for the ranks' answers to a health check."""
_STRATEGY = "STRICT_PACK"

Address = tuple[str, int]


class RankWork(Protocol):
    """What a rank does, without Ray."""

    @property
    def address(self) -> Address: ...

    def run(self) -> None: ...

    def check_health(self) -> None: ...


def with_ranks(deployment: Any, config: AppConfig) -> Any:
    """`deployment` with a bundle for each rank, all on one node; as it is where there is one rank.

    The config file's own `placement_group_bundles` and `placement_group_strategy` take the place of these.
    """
    ranks = config.engine.tensor_parallel
    if ranks == 1:
        return deployment
    bundle = {"CPU": 1.0, "GPU": 1.0} if config.device == "cuda" else {"CPU": 1.0}
    return deployment.options(placement_group_bundles=[bundle] * ranks, placement_group_strategy=_STRATEGY)


class _RankActor:
    """Runs a rank's work in one thread, answers in another."""

    def __init__(self, make: Callable[[str], RankWork]) -> None:
        hide_gpus()
        self._work = make(get_node_ip_address())

    def address(self) -> Address:
        return self._work.address

    def run(self) -> None:
        self._work.run()

    def check_health(self) -> None:
        self._work.check_health()


class RankActors:
    """Of one replica, whose end is theirs too."""

    def __init__(self, make: Callable[[str], RankWork], ranks: int) -> None:
        """`make`: a rank's work, given its process's address; shipped to the actors, which start side by side.

        Raises `InternalError` where the replica has not a bundle for each of its `ranks`.
        """
        group = get_current_placement_group()
        bundles = [] if group is None else group.bundle_specs
        if len(bundles) != ranks:
            raise InternalError(
                f"engine.tensor_parallel is {ranks}, and the Model deployment has {len(bundles)}"
                " placement_group_bundles: give it one for each rank"
            )
        actor = ray.remote(_RankActor)
        self._actors = [
            actor.options(
                max_concurrency=2,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number),
                **_resources(bundles[number]),
            ).remote(make)
            for number in range(1, ranks)
        ]
        self.host = get_node_ip_address()
        self._addresses = [each.address.remote() for each in self._actors]
        self._runs = [each.run.remote() for each in self._actors]

    def addresses(self) -> list[Address]:
        """Wait until all ranks listen: where each of them does."""
        # Not `ray.get`, which warns where an event loop waits for it; here nothing else is to be done.
        return [each.future().result() for each in self._addresses]

    async def check(self) -> None:
        """Raise naming the first rank at fault: `ReplicaLost` when it is dead or has ended, `InternalError` when it
        does not answer."""
        checks = [asyncio.wait_for(_answer(each.check_health.remote()), CHECK_S) for each in self._actors]
        for rank, found in enumerate(await asyncio.gather(*checks, return_exceptions=True), start=1):
            if isinstance(found, RayTaskError):
                raise ReplicaLost(f"rank {rank} is lost: {found.cause}") from found
            if isinstance(found, RayActorError):
                raise ReplicaLost(f"rank {rank} is lost: its process has ended") from found
            if isinstance(found, RayError | TimeoutError):
                raise InternalError(f"rank {rank} does not answer") from found
            if isinstance(found, BaseException):
                raise found

    def close(self) -> None:
        for each in self._actors:
            ray.kill(each)


async def _answer(ref: Any) -> None:
    await ref


def _resources(bundle: dict[str, float]) -> dict[str, Any]:
    """All of a bundle, as an actor asks for it."""
    others = {name: amount for name, amount in bundle.items() if name not in ("CPU", "GPU")}
    return {"num_cpus": bundle.get("CPU", 0), "num_gpus": bundle.get("GPU", 0), "resources": others}
