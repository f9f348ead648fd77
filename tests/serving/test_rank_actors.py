"""A replica of several ranks on a real cluster: placed by bundles, sees no GPU that is not its own, replaced as one."""

import os
import signal
import threading
import time
from typing import Any

from ray import serve

from deployments.config import AppConfig, EngineConfig
from deployments.errors import ReplicaLost
from deployments.serving.rank_actors import RankActors, with_ranks
from deployments.serving.replica import leave
from tests.support.application import Cluster

GIVE_UP_S = 60.0


class Waiting:
    """A rank that does nothing; its address says which process it is and what it sees."""

    def __init__(self, host: str) -> None:
        self.address = os.environ.get("CUDA_VISIBLE_DEVICES", "all"), os.getpid()

    def run(self) -> None:
        threading.Event().wait()

    def check_health(self) -> None:
        """It is well."""


@serve.deployment(
    health_check_period_s=0.5,
    ray_actor_options={"num_cpus": 0.1},
    placement_group_bundles=[{"CPU": 0.1}, {"CPU": 0.1}],
    placement_group_strategy="STRICT_PACK",
)
class Divided:
    def __init__(self) -> None:
        self.ranks = RankActors(Waiting, 2)
        self.addresses = self.ranks.addresses()

    async def check_health(self) -> None:
        try:
            await self.ranks.check()
        except ReplicaLost as lost:
            await leave(lost)

    async def processes(self) -> tuple[int, int, str]:
        """Of rank 0 and of rank 1, and the GPUs that the latter may see."""
        ((gpus, rank),) = self.addresses
        return os.getpid(), rank, gpus


def test_a_dead_rank_takes_its_replica_along_and_both_are_replaced(ray_cluster: Cluster) -> None:
    handle = serve.run(Divided.bind(), name="divided", route_prefix=None)
    try:
        first, rank, gpus = handle.processes.remote().result(timeout_s=GIVE_UP_S)
        assert gpus == ""
        os.kill(rank, signal.SIGKILL)
        now = first, rank
        deadline = time.monotonic() + GIVE_UP_S
        while first in now and time.monotonic() < deadline:
            time.sleep(0.2)
            now = handle.processes.remote().result(timeout_s=GIVE_UP_S)[:2]
        assert not {*now} & {first, rank}
    finally:
        serve.delete("divided")


def test_bundles_come_from_the_settings_unless_the_file_has_its_own() -> None:
    class Recorded:
        def options(self, **options: Any) -> dict[str, Any]:
            return options

    deployment = Recorded()
    assert with_ranks(deployment, AppConfig()) is deployment
    asked = with_ranks(deployment, AppConfig(device="cuda", engine=EngineConfig(tensor_parallel=2)))
    assert asked["placement_group_bundles"] == [{"CPU": 1, "GPU": 1}] * 2
    assert asked["placement_group_strategy"] == "STRICT_PACK"
