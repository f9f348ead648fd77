"""Calls keep off replicas whose node is about to go, as long as there are others."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from deployments.serving.draining_nodes import LOOK_S, DrainingNodes


@dataclass(frozen=True)
class Replica:
    name: str
    node_id: str


A, B, C = Replica("a", "node 1"), Replica("b", "node 2"), Replica("c", "node 2")


class Cluster:
    """Says which nodes drain, and counts how often it is asked."""

    def __init__(self) -> None:
        self.draining: dict[str, int] = {}
        self.asked = 0
        self.now = 0.0
        self.fails = False

    def __call__(self) -> dict[str, int]:
        self.asked += 1
        if self.fails:
            raise RuntimeError("no GCS")
        return dict(self.draining)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    return Cluster()


async def staying(nodes: DrainingNodes, cluster: Cluster, *replicas: Replica) -> list[str]:
    """What is known once an answer has come: the first call only makes it ask."""
    cluster.now += LOOK_S
    nodes.staying(replicas)
    before = cluster.asked
    async with asyncio.timeout(10):
        while cluster.asked == before:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
    return [replica.name for replica in nodes.staying(replicas)]


async def test_replicas_on_a_draining_node_are_left_out(cluster: Cluster) -> None:
    nodes = DrainingNodes(cluster, lambda: cluster.now)
    assert await staying(nodes, cluster, A, B, C) == ["a", "b", "c"]
    cluster.draining = {"node 2": 0}
    assert await staying(nodes, cluster, A, B, C) == ["a"]
    cluster.draining = {}
    assert await staying(nodes, cluster, A, B, C) == ["a", "b", "c"]


async def test_where_every_node_drains_all_of_them_take_calls(cluster: Cluster) -> None:
    nodes = DrainingNodes(cluster, lambda: cluster.now)
    cluster.draining = {"node 1": 0, "node 2": 0}
    assert await staying(nodes, cluster, A, B) == ["a", "b"]


async def test_one_replica_alone_asks_nobody_and_many_calls_ask_once(cluster: Cluster) -> None:
    nodes = DrainingNodes(cluster, lambda: cluster.now)
    assert list(nodes.staying([A])) == [A]
    await asyncio.sleep(0.01)
    assert cluster.asked == 0
    for _ in range(100):
        nodes.staying([A, B])
    await asyncio.sleep(0.05)
    assert cluster.asked == 1


async def test_what_was_known_holds_while_nobody_can_tell(cluster: Cluster) -> None:
    nodes = DrainingNodes(cluster, lambda: cluster.now)
    cluster.draining = {"node 2": 0}
    await staying(nodes, cluster, A, B)
    cluster.fails = True
    assert await staying(nodes, cluster, A, B) == ["a"]
