"""The deployment's own part, without Ray: chunks of a stream, stop strings, and what closing a stream gives back."""

import asyncio
import json
import math
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest

from deployments.config import AppConfig, EngineConfig
from deployments.core.deadline import Deadline
from deployments.errors import BadRequest, ContextTooLong, PixelsWanted, StageTimeout
from deployments.model.deployment import Model
from deployments.preprocessor.loading import load_checkpoint
from deployments.preprocessor.preparation import Preparation
from deployments.serving.replica import StageFailure
from deployments.types import (
    Chat,
    ChatMessage,
    ChatPart,
    DecodedVideo,
    Grammar,
    MediaInput,
    MediaKind,
    Prepared,
    SamplingParams,
    TokenCounts,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")  # as a replica has one loop for its life
PROMPT = Prepared(np.array([20, 30, 40, 50], dtype=np.int32), TokenCounts({"text": 4}), None, False, 0.0)


@pytest.fixture(scope="module")
def model():
    config = AppConfig(engine=EngineConfig(kv_cache_gib=0.05, max_running=4, max_context_tokens=1024))
    replica = Model.func_or_class(config)
    yield replica
    replica._stage.engine.close(0)


async def _chunks(model, params, *, stream=False, remaining_s=60.0):
    async with aclosing(model.generate(remaining_s, PROMPT, params, stream, [])) as chunks:
        return [chunk async for chunk in chunks]


def _text(chunks, index=0):
    return "".join(delta.text for chunk in chunks for delta in chunk.deltas if delta.index == index)


async def test_stream_and_whole_answer_are_equal(model):
    params = SamplingParams(max_tokens=40, seed=5, ignore_eos=True)
    whole, streamed = await _chunks(model, params), await _chunks(model, params, stream=True)
    assert len(whole) == 1
    assert len(streamed) > 1
    assert _text(whole) == _text(streamed)
    assert sum(delta.num_tokens for chunk in streamed for delta in chunk.deltas) == 40
    assert streamed[0].deltas[0].num_tokens >= 1
    assert streamed[-1].times is not None
    assert streamed[-1].deltas[-1].finish_reason == "length"
    assert all(chunk.times is None for chunk in streamed[:-1])


async def test_stop_string_ends_the_answer_before_it(model):
    plain = SamplingParams(max_tokens=40, seed=5, ignore_eos=True)
    text = _text(await _chunks(model, plain))
    stop = text[len(text) // 2 :][:3]
    params = SamplingParams(max_tokens=40, seed=5, ignore_eos=True, stop=(stop,))
    for stream in (False, True):
        chunks = await _chunks(model, params, stream=stream)
        assert _text(chunks) == text[: text.index(stop)]
        assert chunks[-1].deltas[-1].finish_reason == "stop"


async def test_closing_a_stream_frees_the_slot(model):
    params = SamplingParams(max_tokens=900, ignore_eos=True)
    stream = model.generate(60.0, PROMPT, params, True, [])
    await anext(stream)
    assert model._stage.engine.busy
    await stream.aclose()
    for _ in range(2000):
        if not model._stage.engine.busy:
            break
        await asyncio.sleep(0.01)
    assert not model._stage.engine.busy


async def test_time_that_runs_out_is_told_naming_the_stage(model):
    (*_, last) = await _chunks(model, SamplingParams(max_tokens=1000, ignore_eos=True), stream=True, remaining_s=0.05)
    assert isinstance(last, StageFailure)
    assert isinstance(last.error, StageTimeout)
    assert last.error.stage == "model"


async def test_errors_of_the_request_come_as_values(model):
    (failure,) = await _chunks(model, SamplingParams(max_tokens=5000))
    assert isinstance(failure.error, ContextTooLong)
    (failure,) = await _chunks(model, SamplingParams(grammar=Grammar("json_schema", '{"type": "nonsense"}')))
    assert isinstance(failure.error, BadRequest)


@pytest.mark.parametrize(
    ("field", "wrong", "asked"),
    [
        ("logit_bias", 10**9 - 1, {"logit_bias": ((5, 1.0), (10**9 - 1, 1.0))}),
        ("stop_token_ids", 10**9 - 1, {"stop_token_ids": (10**9 - 1,), "min_tokens": 2}),
        ("stop_token_ids", -1, {"stop_token_ids": (-1,)}),
    ],
)
async def test_ids_outside_the_vocabulary_are_refused_by_field_id_and_size(model, field, wrong, asked):
    (failure,) = await _chunks(model, SamplingParams(max_tokens=5, **asked))
    assert isinstance(failure.error, BadRequest)
    assert failure.error.param == field
    assert f"`{field}` names the token {wrong};" in failure.error.message
    assert str(model._stage.engine.family.vocab_size) in failure.error.message
    await _chunks(model, SamplingParams(max_tokens=2))  # and nobody else is hurt


async def test_json_object_is_one(model):
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    chunks = await _chunks(model, SamplingParams(max_tokens=60, grammar=Grammar("json_schema", json.dumps(schema))))
    assert json.loads(_text(chunks)) in ({"n": 1}, {"n": 2})


async def test_healthy_while_it_runs(model):
    await model.check_health()


async def test_its_load_is_told_once_it_knows_any(model):
    await _chunks(model, SamplingParams(max_tokens=4, ignore_eos=True))
    async with asyncio.timeout(10):
        while not (stats := await model.record_autoscaling_stats()) or stats["load"]:
            await asyncio.sleep(0.05)
    assert 0 < stats["next_load"] <= 1


async def test_replica_whose_model_does_not_load_says_so_and_closes_quietly(tmp_path):
    replica = Model.func_or_class.__new__(Model.func_or_class)
    with pytest.raises(ValueError, match=r"config\.json"):
        replica.__init__(AppConfig(model=str(tmp_path)))
    replica.__del__()


def _about_a_clip(name: str) -> tuple[Prepared, dict[str, np.ndarray]]:
    """As a preprocessor would tell it, and the patches that the decoder cut."""
    preparation = Preparation(load_checkpoint(AppConfig()), AppConfig())
    rule = preparation.profile.patches
    assert rule is not None
    grid = (2, 2 * rule.merge, 2 * rule.merge)
    side = 2 * rule.merge * rule.patch
    patches = np.random.default_rng(0).integers(0, 256, (math.prod(grid), 3 * rule.temporal * rule.patch**2), np.uint8)
    times = (0.0, 0.5, 1.0, 1.5)
    video = DecodedVideo(2.0, 2.0, 4, (0, 1, 2, 3), times, side, side, 0, "", 0, 0.0, patches.nbytes, grid)
    item = MediaInput(MediaKind.VIDEO, "a clip", "mp4", video, pixels_at_model=True, digest=name)
    chat = Chat((ChatMessage("user", (ChatPart(None, 0), ChatPart("what moves?"))),))
    prepared, sizes = preparation.prepare(Deadline(60.0, "preprocess"), chat, (item,), [])
    assert video.patches_shape == patches.shape
    return replace(prepared, sizes=sizes), {"patches": patches}


async def test_a_clip_is_known_by_its_name_once_it_was_seen(model):
    params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)

    async def ask(prepared: Prepared, *clips: dict[str, np.ndarray]) -> list[object]:
        async with aclosing(model.generate(60.0, prepared, params, False, [], *clips)) as chunks:
            return [chunk async for chunk in chunks]

    prepared, clip = _about_a_clip("1" * 64)
    named = replace(prepared, named_clips=(clip["patches"].shape,))
    (unknown,) = await ask(named)
    assert isinstance(unknown, StageFailure)
    assert isinstance(unknown.error, PixelsWanted)
    seen, known = await ask(prepared, dict(clip)), await ask(named)
    assert _text(seen) == _text(known) != ""
    assert (seen[-1].encoded, known[-1].encoded) == ({"a clip"}, frozenset())
