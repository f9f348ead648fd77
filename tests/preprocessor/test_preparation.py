from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from deployments.config import AppConfig, DecoderConfig, EngineConfig
from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, BadRequest, ContextTooLong, StageTimeout, TooLarge, WorkCancelled
from deployments.preprocessor.loading import Checkpoint, load_checkpoint
from deployments.preprocessor.preparation import Preparation
from deployments.types import FrameSampling, MediaKind, ResizeRule
from tests.support.preparing import (
    asking,
    audio,
    decoded,
    frozen,
    image,
    noise,
    picture_file,
    preparation,
    prepare,
    sound_file,
    tone,
    video,
)
from tests.support.tiny_processors import FAMILIES, byte_tokenizer, tiny_checkpoint

PICTURE = picture_file(noise(56, 84, 3))


def test_text_alone_has_no_tensors_and_no_use_for_the_processor() -> None:
    stage = preparation("qwen2_vl")
    processor = FAMILIES["qwen2_vl"]()
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    prepared, tensors = stage.prepare(Deadline(60, "preprocess"), asking("Hi"), (), ())
    assert tensors is None
    assert prepared.token_ids.dtype == np.int32
    assert prepared.token_ids.tolist() == processor.tokenizer(text)["input_ids"]
    assert prepared.counts["text"] == len(prepared.token_ids)


def test_model_of_text_alone_is_served() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    text_config = SimpleNamespace(max_position_embeddings=100)
    checkpoint = Checkpoint(tokenizer, tokenizer, SimpleNamespace(get_text_config=lambda: text_config))
    stage = Preparation(checkpoint, AppConfig())
    assert stage.profile.modalities == frozenset()
    assert prepare(stage, asking("Hi"))[0].counts["text"] == 2
    with pytest.raises(BadRequest, match="does not take image input; it takes: text only"):
        prepare(stage, asking(0), [image(0)], [PICTURE])


def test_context_that_is_too_small_is_told_in_numbers() -> None:
    stage = preparation("qwen2_vl", context_length=60)
    prompt = prepare(stage, asking("x" * 20))[0].counts.total
    assert prepare(stage, asking("x" * 20, max_new_tokens=60 - prompt))[0].counts.total == prompt
    with pytest.raises(ContextTooLong, match=rf"is 60 tokens, .* 61: {prompt} in .* {61 - prompt} for"):
        prepare(stage, asking("x" * 20, max_new_tokens=61 - prompt))
    with pytest.raises(ContextTooLong, match="maximum context length is 60 tokens"):
        prepare(stage, asking("x" * 60))


@pytest.mark.parametrize("family", ["gemma3", "idefics3"])
def test_kind_that_the_model_lacks_is_refused_by_name(family: str) -> None:
    with pytest.raises(BadRequest, match="does not take audio input; it takes: image") as caught:
        prepare(preparation(family), asking(0), [audio(0)], [sound_file(tone(1))])
    assert caught.value.param == "item 0"


def test_damaged_item_is_named() -> None:
    items = [image(0), image(1)]
    with pytest.raises(BadMedia) as caught:
        prepare(preparation("qwen2_vl"), asking(0, 1), items, [PICTURE, PICTURE[: len(PICTURE) // 2]])
    assert caught.value.param == "item 1"


def test_picture_too_narrow_for_the_model_is_named() -> None:
    with pytest.raises(BadMedia, match="too narrow") as caught:
        prepare(preparation("qwen2_vl"), asking(0), [image(7)], [picture_file(noise(2, 500, 3))])
    assert caught.value.param == "item 7"


@pytest.mark.parametrize(("family", "limit_s"), [("qwen2_5_omni", 10), ("gemma4", 30)])
def test_sound_that_would_be_cut_is_refused_with_the_limit(family: str, limit_s: int) -> None:
    stage = preparation(family)
    whole, _ = prepare(stage, asking(0), [audio(0)], [sound_file(tone(limit_s))])
    assert whole.counts["audio"] == limit_s * 25
    with pytest.raises(TooLarge, match=str(limit_s)) as caught:
        prepare(stage, asking(0), [audio(3)], [sound_file(tone(limit_s + 0.5))])
    assert caught.value.param == "item 3"


def test_sound_is_taken_whole_where_the_processor_does() -> None:
    prepared, _ = prepare(preparation("qwen3_omni"), asking(0), [audio(0)], [sound_file(tone(40))])
    assert prepared.counts["audio"] == 520


def test_sound_of_a_video_that_would_be_cut_is_refused() -> None:
    payload = {"frames_THWC": frozen(noise(4, 60, 80, 3)), "audio": tone(11)}
    item = video(5, decoded(range(4), 60, 80))
    with pytest.raises(BadRequest, match=r"11\.0 s, .* at most 10 s") as caught:
        prepare(preparation("qwen2_5_omni"), asking(0, use_audio_in_video=True), [item], [payload])
    assert caught.value.param == "item 5"


def test_sound_of_videos_is_not_promised_where_it_is_not_heard() -> None:
    payload = {"frames_THWC": frozen(noise(4, 60, 80, 3))}
    with pytest.raises(BadRequest, match="does not listen"):
        item = video(0, decoded(range(4), 60, 80))
        prepare(preparation("qwen2_vl"), asking(0, use_audio_in_video=True), [item], [payload])


def test_nothing_is_prepared_for_nobody() -> None:
    stage, cancelled = preparation("qwen2_vl"), Deadline(60, "preprocess")
    cancelled.cancel()
    with pytest.raises(WorkCancelled):
        stage.prepare(cancelled, asking("Hi"), (), ())
    with pytest.raises(StageTimeout):
        stage.prepare(Deadline(0, "preprocess"), asking("Hi"), (), ())


def test_requests_side_by_side_do_not_mix() -> None:
    stage = preparation("qwen2_vl")
    files = [picture_file(noise(56, 28 * (2 + number), 3, seed=number)) for number in range(4)]

    def once(number: int) -> tuple[list[int], bytes]:
        prepared, tensors = prepare(stage, asking(0, "w" * number), [image(number)], [files[number % 4]])
        return prepared.token_ids.tolist(), tensors["pixel_values"].tobytes()

    alone = [once(number) for number in range(24)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(once, range(24))) == alone


def test_profile_of_the_demo_model() -> None:
    profile = Preparation(load_checkpoint(AppConfig()), AppConfig()).profile
    assert profile.model == "demo"
    assert profile.modalities == frozenset(MediaKind)
    assert profile.audio_rate_hz == 16_000
    assert profile.audio_in_video
    assert profile.resize is not None


@pytest.mark.parametrize(
    ("family", "decoder", "expected"),
    [
        ("qwen3_vl", DecoderConfig(), FrameSampling(None, 2.0, 256, 4)),
        ("qwen3_vl", DecoderConfig(max_frames=3), FrameSampling(None, 2.0, 3, 3)),
        ("qwen3_vl", DecoderConfig(num_frames=8), FrameSampling(8, None, 256)),
        ("qwen3_vl", DecoderConfig(fps=0.5), FrameSampling(None, 0.5, 256, 4)),
        ("gemma4", DecoderConfig(), FrameSampling(32, None, 256)),
        ("gemma4", DecoderConfig(max_frames=16), FrameSampling(16, None, 16)),
        ("internvl", DecoderConfig(), FrameSampling(None, 2.0, 256, 1)),
    ],
)
def test_sampling_is_the_operators_else_the_familys(
    family: str, decoder: DecoderConfig, expected: FrameSampling
) -> None:
    assert preparation(family, AppConfig(decoder=decoder)).profile.sampling == expected


@pytest.mark.parametrize(
    ("family", "rule"),
    [
        ("qwen2_5_vl", ResizeRule("frame", 28, 2, 4 * 28 * 28, 16 * 28 * 28)),
        ("qwen3_vl", ResizeRule("clip", 32, 2, 4 * 32 * 32, 96 * 32 * 32)),
        ("glm46v", ResizeRule("clip", 28, 2, 8 * 28 * 28, 96 * 28 * 28)),
        ("internvl", ResizeRule("exact", height=56, width=56)),
        ("gemma4", None),
    ],
)
def test_decoder_is_told_the_size_that_the_processor_wants(family: str, rule: ResizeRule | None) -> None:
    assert preparation(family).profile.resize == rule


def test_decoder_is_told_no_size_when_the_operator_wants_none() -> None:
    assert preparation("qwen3_vl", AppConfig(decoder=DecoderConfig(resize=False))).profile.resize is None


def test_context_is_the_smaller_of_the_models_and_the_operators() -> None:
    config = AppConfig(engine=EngineConfig(max_context_tokens=1000))
    assert preparation("qwen2_vl", config).profile.context_length == 1000
    assert preparation("qwen2_vl", config, context_length=500).profile.context_length == 500


def test_checkpoint_without_a_context_length_stops_the_start() -> None:
    checkpoint = tiny_checkpoint(FAMILIES["qwen2_vl"](), context_length=0)
    with pytest.raises(ValueError, match="max_context_tokens"):
        Preparation(checkpoint, AppConfig())
