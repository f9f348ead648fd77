"""Calls find their replica on a real cluster: side by side in one request, when all is full, when a replica goes."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.config import AppConfig, RoutingConfig
from deployments.core.deadline import Deadline
from deployments.serving.client import Stage
from deployments.serving.content_router import found_again
from deployments.serving.replica import stage_method
from deployments.types import StageName
from tests.support.application import Cluster

REPLICAS, PLACES = 3, 4
OPTIONS: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0}, "health_check_period_s": 1}


@serve.deployment(num_replicas=REPLICAS, max_ongoing_requests=PLACES, graceful_shutdown_timeout_s=5, **OPTIONS)
class Worker:
    def __init__(self) -> None:
        self.name = serve.get_replica_context().replica_id.unique_id
        self.cancelled = 0

    @stage_method
    async def work(self, remaining_s: float, seconds: float) -> AsyncGenerator[str, None]:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        yield self.name

    @stage_method
    async def say_cancelled(self, remaining_s: float) -> AsyncGenerator[int, None]:
        yield self.cancelled

    @stage_method
    async def say_request_id(self, remaining_s: float) -> AsyncGenerator[str, None]:
        yield serve.context._get_serve_request_context().request_id

    @stage_method
    async def die(self, remaining_s: float) -> AsyncGenerator[str, None]:
        os._exit(1)
        yield


@serve.deployment(max_ongoing_requests=100, **OPTIONS)
class Caller:
    """Where calls are made from: all those of one `ask` belong to one request, as those of an ingress do."""

    def __init__(self, worker: "DeploymentHandle[Any]") -> None:
        self._worker = Stage(worker, "worker")

    async def ask(self, keys: list[str], seconds: float = 0.0, by_value: bool = True) -> list[str]:
        calls = [
            self._worker.call("work", Deadline(30, "t"), seconds, key=key, answer_has_payload=not by_value)
            for key in keys
        ]
        return [result.meta for result in await asyncio.gather(*calls)]

    async def tell(self, method: str, key: str) -> Any:
        return (await self._worker.call(method, Deadline(30, "t"), key=key, answer_has_payload=False)).meta

    async def own_request_id(self, key: str) -> tuple[str, str]:
        return serve.context._get_serve_request_context().request_id, await self.tell("say_request_id", key)

    async def give_up(self, key: str) -> None:
        task = asyncio.create_task(self.ask([key], 60))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])


def _application() -> Any:
    config = AppConfig(routing=RoutingConfig(load_factor=1.25))
    return Caller.bind(found_again(Worker, StageName.MODEL, config).bind())


@pytest.fixture(scope="module")
def caller(ray_cluster: Cluster) -> Iterator[Any]:
    serve.run(_application(), name="routing", route_prefix=None)
    yield serve.get_deployment_handle("Caller", "routing")
    serve.delete("routing")


@pytest.mark.parametrize("by_value", [True, False], ids=["by value", "by reference"])
async def test_sixteen_calls_of_one_request_side_by_side_all_come_back(caller: Any, by_value: bool) -> None:
    async with asyncio.timeout(30):
        answers = await caller.ask.remote([f"{number % 5}" for number in range(16)], 0.05, by_value)
    assert len(answers) == 16


async def test_calls_of_one_key_meet_and_other_keys_go_elsewhere(caller: Any) -> None:
    rounds = [[(await caller.ask.remote([f"key {number}"]))[0] for number in range(12)] for _ in range(2)]
    assert rounds[0] == rounds[1]
    assert len(set(rounds[0])) == REPLICAS


async def test_a_full_preference_gives_way_and_a_full_stage_is_waited_for(caller: Any) -> None:
    async with asyncio.timeout(60):
        answers = await caller.ask.remote(["one key"] * REPLICAS * PLACES * 2, 0.3)
    counts = Counter(answers)
    assert len(answers) == REPLICAS * PLACES * 2
    assert len(counts) == REPLICAS


async def test_a_request_keeps_its_id_at_the_replicas_that_it_calls(caller: Any) -> None:
    own, seen = await caller.own_request_id.remote("key")
    assert own == seen


async def test_who_gives_up_has_its_work_cancelled(caller: Any) -> None:
    before = await caller.tell.remote("say_cancelled", "given up")
    await caller.give_up.remote("given up")
    async with asyncio.timeout(20):
        while await caller.tell.remote("say_cancelled", "given up") == before:
            await asyncio.sleep(0.05)


async def test_a_dead_replica_costs_nothing_but_its_own_keys(caller: Any) -> None:
    keys = [f"key {number}" for number in range(12)]
    before = await caller.ask.remote(keys)
    with pytest.raises(Exception, match="no replica of the worker stage"):  # the second try kills another one
        await caller.tell.remote("die", "key 0")
    async with asyncio.timeout(60):
        after = await caller.ask.remote(keys)
    stayed = set(before) & set(after)
    assert all(now == then for then, now in zip(before, after, strict=True) if then in stayed)
