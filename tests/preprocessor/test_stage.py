import asyncio

import pytest

from deployments.config import AppConfig, PreprocessorConfig
from deployments.errors import BadMedia, StageTimeout
from deployments.observability.metrics import RecordingSink
from deployments.preprocessor.stage import PreprocessStage
from tests.support.preparing import asking, image, noise, picture_file
from tests.support.tiny_processors import FAMILIES, tiny_checkpoint

PICTURE = picture_file(noise(56, 84, 3))


def stage(sink: RecordingSink, **settings: float) -> PreprocessStage:
    config = AppConfig(preprocessor=PreprocessorConfig(**settings))  # type: ignore[arg-type]
    return PreprocessStage(tiny_checkpoint(FAMILIES["qwen2_vl"]()), config, sink)


async def test_bytes_handed_on_are_counted() -> None:
    sink = RecordingSink()
    _, tensors = await stage(sink).prepare(60, asking(0), (image(0),), (PICTURE,))
    assert tensors is not None
    assert sink.values["sluice_prepared_bytes", ()] == sum(tensor.nbytes for tensor in tensors.values())
    assert sink.values["sluice_threads_busy", ("preprocess",)] == 0


async def test_requests_beyond_the_workers_wait_and_are_answered() -> None:
    room = stage(RecordingSink(), workers=2)
    calls = [room.prepare(60, asking(0, "w" * number), (image(0),), (PICTURE,)) for number in range(8)]
    lengths = [len(prepared.token_ids) for prepared, _ in await asyncio.gather(*calls)]
    assert lengths == list(range(lengths[0], lengths[0] + 8))


async def test_errors_pass_unchanged_and_free_the_worker() -> None:
    room = stage(RecordingSink(), workers=1)
    for _ in range(3):
        with pytest.raises(BadMedia):
            await room.prepare(60, asking(0), (image(0),), (PICTURE[:40],))
    room.check_health()
    assert (await room.prepare(60, asking("Hi"), (), ()))[1] is None


@pytest.mark.parametrize(("remaining_s", "timeout_s"), [(1e-9, 60), (60, 1e-9)])
async def test_time_of_the_request_and_of_the_stage_both_hold(remaining_s: float, timeout_s: float) -> None:
    with pytest.raises(StageTimeout, match="preprocess"):
        await stage(RecordingSink(), timeout_s=timeout_s).prepare(remaining_s, asking("Hi"), (), ())


async def test_closed_stage_takes_no_more_work() -> None:
    room = stage(RecordingSink())
    room.close()
    with pytest.raises(RuntimeError):
        await room.prepare(60, asking("Hi"), (), ())
