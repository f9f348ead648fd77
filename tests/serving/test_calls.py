"""The seam to Ray keeps its promises on a real cluster: references, errors, time, cancelling, refusals, deaths."""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import numpy as np
import pytest
import ray
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, InternalError, Overloaded, SluiceError, StageTimeout, StageUnavailable
from deployments.serving.client import Stage, put
from deployments.serving.replica import REPLY_TO, own_node, stage_method
from deployments.serving.side_channel import Inboxes, SentAside
from deployments.stage_calls import TensorRef
from tests.support.application import Cluster

OPTIONS: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0}, "health_check_period_s": 1}


@serve.deployment(max_ongoing_requests=100, **OPTIONS)
class Worker:
    def __init__(self) -> None:
        self.cancelled = 0

    @stage_method
    async def produce(self, remaining_s: float, size: int) -> AsyncGenerator[Any, None]:
        yield {"size": size, "remaining_s": remaining_s}
        yield np.full(size, 7, np.uint8)

    @stage_method
    async def consume(self, remaining_s: float, array: NDArray[np.uint8]) -> AsyncGenerator[Any, None]:
        yield {"writeable": array.flags.writeable, "total": int(array.sum()), "owned": array.base is None}

    @stage_method
    async def refuse(self, remaining_s: float) -> AsyncGenerator[Any, None]:
        raise BadMedia("not a video", param="messages[0].content[1]")
        yield

    @stage_method
    async def break_down(self, remaining_s: float) -> AsyncGenerator[Any, None]:
        yield 1 // 0

    @stage_method
    async def sleep(self, remaining_s: float, seconds: float) -> AsyncGenerator[Any, None]:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        yield "slept"

    @stage_method
    async def count_cancelled(self, remaining_s: float) -> AsyncGenerator[Any, None]:
        yield self.cancelled

    @stage_method
    async def count_to(
        self, remaining_s: float, last: int, fail_at: int, *payloads: NDArray[np.uint8]
    ) -> AsyncGenerator[Any, None]:
        try:
            for number in range(last):
                if number == fail_at:
                    raise BadMedia("no further")
                await asyncio.sleep(0.01)
                yield number
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@serve.deployment(max_ongoing_requests=1, max_queued_requests=1, **OPTIONS)
class Narrow:
    @stage_method
    async def sleep(self, remaining_s: float, seconds: float) -> AsyncGenerator[Any, None]:
        await asyncio.sleep(seconds)
        yield "slept"


@serve.deployment(**OPTIONS)
class Mortal:
    @stage_method
    async def die(self, remaining_s: float) -> AsyncGenerator[Any, None]:
        os._exit(1)
        yield

    @stage_method
    async def die_once(self, remaining_s: float, marker: str) -> AsyncGenerator[Any, None]:
        if not os.path.exists(marker):
            open(marker, "w").close()
            os._exit(1)
        yield "alive"

    @stage_method
    async def die_while_answering(self, remaining_s: float) -> AsyncGenerator[Any, None]:
        yield 1
        await asyncio.sleep(0.5)
        os._exit(1)


@serve.deployment(**OPTIONS)
class Root:
    def __init__(self, **handles: "DeploymentHandle[Any]") -> None:
        pass


@pytest.fixture(scope="module")
def stages(ray_cluster: Cluster) -> Iterator[dict[str, Any]]:
    root = Root.bind(worker=Worker.bind(), narrow=Narrow.bind(), mortal=Mortal.bind())
    serve.run(root, name="calls", route_prefix=None)
    yield {n: serve.get_deployment_handle(n.capitalize(), "calls") for n in ("worker", "narrow", "mortal")}
    serve.delete("calls")


@pytest.fixture
async def worker(stages: dict[str, Any]) -> AsyncGenerator[Stage, None]:
    stage = Stage(stages["worker"], "worker")
    yield stage
    stage.close()


@pytest.fixture(params=["by reference", "by value"])
def answer_has_payload(request: pytest.FixtureRequest) -> bool:
    """Calls without payloads go another way than those with one: what is promised holds on both."""
    return bool(request.param == "by reference")


@pytest.fixture(params=["by reference", "by value"])
def payloads(request: pytest.FixtureRequest, stages: dict[str, Any]) -> list[TensorRef]:
    """The same for streams."""
    return [put(np.zeros(3, np.uint8))] if request.param == "by reference" else []


async def test_a_payload_comes_by_reference_and_is_mapped_read_only_by_its_consumer(worker: Stage) -> None:
    produced = await worker.call("produce", Deadline(30, "t"), 5_000_000)
    assert produced.meta["size"] == 5_000_000
    assert 0 < produced.meta["remaining_s"] <= 30
    assert produced.payload is not None
    consumed = await worker.call("consume", Deadline(30, "t"), payloads=[produced.payload])
    assert consumed.meta == {"writeable": False, "total": 35_000_000, "owned": False}
    assert consumed.payload is None


async def test_what_is_put_by_the_caller_reaches_the_stage(worker: Stage) -> None:
    consumed = await worker.call("consume", Deadline(30, "t"), payloads=[put(np.arange(4, dtype=np.uint8))])
    assert consumed.meta["total"] == 6


async def test_metadata_alone_comes_by_value(worker: Stage) -> None:
    slept = await worker.call("sleep", Deadline(30, "t"), 0.0, answer_has_payload=False)
    assert slept.meta == "slept"
    assert slept.payload is None


async def test_a_stages_own_error_arrives_as_it_was_raised(worker: Stage, answer_has_payload: bool) -> None:
    with pytest.raises(BadMedia, match="not a video") as caught:
        await worker.call("refuse", Deadline(30, "t"), answer_has_payload=answer_has_payload)
    assert caught.value.param == "messages[0].content[1]"


async def test_a_defect_becomes_an_internal_error_without_its_details(worker: Stage, answer_has_payload: bool) -> None:
    with pytest.raises(InternalError) as caught:
        await worker.call("break_down", Deadline(30, "t"), answer_has_payload=answer_has_payload)
    assert str(caught.value) == "the worker stage failed"


async def _cancellations(worker: Stage) -> int:
    return int((await worker.call("count_cancelled", Deadline(30, "t"))).meta)


async def _until_cancelled(worker: Stage, count: int) -> None:
    async with asyncio.timeout(20):
        while await _cancellations(worker) < count:
            await asyncio.sleep(0.05)


async def test_when_time_is_over_the_stage_is_named_and_its_work_is_cancelled(
    worker: Stage, answer_has_payload: bool
) -> None:
    before = await _cancellations(worker)
    with pytest.raises(StageTimeout, match="worker"):
        await worker.call("sleep", Deadline(0.3, "t"), 60, answer_has_payload=answer_has_payload)
    await _until_cancelled(worker, before + 1)


async def test_cancelling_the_caller_cancels_the_stages_work(worker: Stage, answer_has_payload: bool) -> None:
    before = await _cancellations(worker)
    call = worker.call("sleep", Deadline(60, "t"), 60, answer_has_payload=answer_has_payload)
    task = asyncio.create_task(call)
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _until_cancelled(worker, before + 1)


async def test_a_stream_yields_every_value_in_order(worker: Stage, payloads: list[TensorRef]) -> None:
    stream = worker.stream("count_to", Deadline(30, "t"), 20, -1, payloads=payloads)
    assert [n async for n in stream] == list(range(20))


async def test_on_one_node_only_the_number_of_a_streams_values_goes_through_ray(stages: dict[str, Any]) -> None:
    inboxes = Inboxes(own_node())
    inbox = inboxes.open()
    count_to = stages["worker"].options(stream=True, method_name="count_to")
    response = count_to.remote(30, 3, -1, **{REPLY_TO: inbox.reply_to})
    assert [value async for value in response] == [SentAside(3)]
    assert [await inbox.next() for _ in range(3)] == [0, 1, 2]
    inboxes.close()


async def test_an_error_in_the_middle_of_a_stream_arrives_after_what_came_before(
    worker: Stage, payloads: list[TensorRef]
) -> None:
    seen = []
    with pytest.raises(BadMedia, match="no further"):
        async for number in worker.stream("count_to", Deadline(30, "t"), 20, 3, payloads=payloads):
            seen.append(number)
    assert seen == [0, 1, 2]


async def test_closing_a_stream_cancels_its_producer(worker: Stage, payloads: list[TensorRef]) -> None:
    before = await _cancellations(worker)
    stream = worker.stream("count_to", Deadline(60, "t"), 100_000, -1, payloads=payloads)
    assert await anext(stream) == 0
    await stream.aclose()
    await _until_cancelled(worker, before + 1)


async def test_a_stream_that_outlasts_its_time_ends_with_the_stages_name(
    worker: Stage, payloads: list[TensorRef]
) -> None:
    with pytest.raises(StageTimeout, match="worker"):
        async for _ in worker.stream("count_to", Deadline(0.5, "t"), 100_000, -1, payloads=payloads):
            pass


async def test_a_full_stage_refuses_with_a_time_to_come_back(stages: dict[str, Any], answer_has_payload: bool) -> None:
    narrow = Stage(stages["narrow"], "narrow")
    calls = [narrow.call("sleep", Deadline(30, "t"), 0.5, answer_has_payload=answer_has_payload) for _ in range(6)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refusals = [o for o in outcomes if isinstance(o, Overloaded)]
    assert refusals
    assert all(r.retry_after_s and r.retry_after_s > 0 for r in refusals)
    assert [o.meta for o in outcomes if not isinstance(o, BaseException)]
    assert not [o for o in outcomes if isinstance(o, BaseException) and not isinstance(o, Overloaded)]


async def test_a_call_is_made_again_when_its_replica_dies(
    stages: dict[str, Any], tmp_path: Any, answer_has_payload: bool
) -> None:
    mortal, marker = Stage(stages["mortal"], "mortal"), str(tmp_path / "died")
    result = await mortal.call("die_once", Deadline(60, "t"), marker, answer_has_payload=answer_has_payload)
    assert result.meta == "alive"


async def test_a_call_that_kills_every_replica_ends_as_unavailable(
    stages: dict[str, Any], answer_has_payload: bool
) -> None:
    with pytest.raises(StageUnavailable, match="mortal"):
        await Stage(stages["mortal"], "mortal").call("die", Deadline(60, "t"), answer_has_payload=answer_has_payload)


@ray.remote(num_cpus=0)
class Owner:
    def put(self) -> list[Any]:
        return [ray.put(np.zeros(5_000_000, np.uint8))]


async def test_a_payload_that_was_lost_makes_the_stage_unavailable(worker: Stage) -> None:
    owner = Owner.remote()
    [ref] = await owner.put.remote()
    ray.kill(owner)  # with it goes what it owns, as with a node that is lost
    with pytest.raises(StageUnavailable):
        while True:  # until the cluster has noticed
            await worker.call("consume", Deadline(30, "t"), payloads=[TensorRef(ref)])
            await asyncio.sleep(0.1)


async def test_a_death_after_the_first_value_is_told_and_not_hidden_by_a_second_try(stages: dict[str, Any]) -> None:
    seen = []
    with pytest.raises(SluiceError) as caught:
        async for value in Stage(stages["mortal"], "mortal").stream("die_while_answering", Deadline(60, "t")):
            seen.append(value)
    assert seen == [1]
    assert caught.value.status == 503
