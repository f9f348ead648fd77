"""Every family's tensors are those of its own processor, called as transformers' documentation does."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from deployments.config import AppConfig, PreprocessorConfig
from deployments.media.geometry import target_size
from deployments.preprocessor.handoff import normalised
from deployments.preprocessor.preparation import Preparation
from deployments.preprocessor.timeline import sampled_fps, video_metadata
from deployments.types import Chat, ChatMessage, ChatPart, MediaKind
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
from tests.support.tiny_processors import FAMILIES, tiny_checkpoint

CLIP = decoded((0, 21, 42, 64, 85, 106, 127, 149), 60, 80)
FRAMES = frozen(noise(8, 60, 80, 3, seed=1))
SAMPLES = tone(1.5)
ITEMS = {MediaKind.IMAGE: image(0), MediaKind.VIDEO: video(1, CLIP), MediaKind.AUDIO: audio(2)}


def pixels() -> Any:
    return noise(90, 130, 3)


PAYLOADS = {
    MediaKind.IMAGE: picture_file(pixels()),
    MediaKind.VIDEO: {"frames_THWC": FRAMES},
    MediaKind.AUDIO: sound_file(SAMPLES),
}
RAW = {MediaKind.IMAGE: pixels(), MediaKind.VIDEO: FRAMES, MediaKind.AUDIO: SAMPLES}


def told_by_transformers(family: str, kinds: list[MediaKind]) -> dict[str, Any]:
    """What `apply_chat_template` of a fresh processor makes of the same media."""
    processor = FAMILIES[family]()
    content = [{"type": str(kind), str(kind): RAW[kind]} for kind in kinds] + [{"type": "text", "text": "What?"}]
    options: dict[str, Any] = {}
    if MediaKind.VIDEO in kinds:
        options = {"do_sample_frames": False, "video_metadata": [video_metadata(CLIP)]}
        options["size"] = dict(processor.video_processor.size or {}) or None
        if "omni" in family:
            options["fps"] = sampled_fps(CLIP)
    videos = {key: value for key, value in options.items() if value is not None}
    outputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"videos_kwargs": videos} if videos else None,
    )
    return dict(outputs)


def combinations() -> list[Any]:
    found = []
    for family in FAMILIES:
        kinds = [kind for kind in MediaKind if kind in preparation(family).profile.modalities]
        for chosen in [[kind] for kind in kinds] + ([kinds] if len(kinds) > 1 else []):
            found.append(pytest.param(family, chosen, id=f"{family}-{'-'.join(chosen)}"))
    return found


@pytest.mark.parametrize("handoff", [True, False], ids=["uint8", "float"])
@pytest.mark.parametrize(("family", "kinds"), combinations())
def test_tensors_are_the_processors_own(family: str, kinds: list[MediaKind], handoff: bool) -> None:
    stage = preparation(family, AppConfig(preprocessor=PreprocessorConfig(uint8_handoff=handoff)))
    chat = asking(*range(len(kinds)), "What?")
    prepared, tensors = prepare(stage, chat, [ITEMS[kind] for kind in kinds], [PAYLOADS[kind] for kind in kinds])
    expected = told_by_transformers(family, kinds)
    assert prepared.token_ids.tolist() == expected.pop("input_ids")[0].tolist()
    for name in ("attention_mask", "video_metadata"):
        expected.pop(name, None)
    assert set(expected) - {"mm_token_type_ids"} == set(tensors) - {"mm_token_type_ids"}
    for name, value in expected.items():
        ours = tensors[name]
        if ours.dtype == np.uint8:
            assert prepared.pixel_norm is not None
            ours = normalised(ours, prepared.pixel_norm)
        torch.testing.assert_close(torch.from_numpy(np.ascontiguousarray(ours)), value, rtol=0, atol=4e-6, msg=name)


@pytest.mark.parametrize(("family", "kinds"), combinations())
def test_tokens_of_each_modality_add_up(family: str, kinds: list[MediaKind]) -> None:
    chat = asking(*range(len(kinds)), "What?")
    payloads = [PAYLOADS[kind] for kind in kinds]
    prepared, _ = prepare(preparation(family), chat, [ITEMS[kind] for kind in kinds], payloads)
    assert prepared.counts.total == len(prepared.token_ids)
    assert {kind for kind in MediaKind if prepared.counts[kind] > 0} == set(kinds)


@pytest.mark.parametrize(
    ("family", "uint8"),
    [
        ("qwen2_vl", {"pixel_values", "pixel_values_videos"}),
        ("qwen2_5_vl", {"pixel_values", "pixel_values_videos"}),
        ("qwen2_5_omni", {"pixel_values", "pixel_values_videos"}),
        ("qwen3_omni", {"pixel_values", "pixel_values_videos"}),
        ("glm4v", {"pixel_values", "pixel_values_videos"}),
        ("internvl", {"pixel_values"}),
        ("llava_onevision", {"pixel_values", "pixel_values_videos"}),
        ("gemma3", {"pixel_values"}),
        ("idefics3", set()),
    ],
)
def test_pixels_travel_as_bytes_where_that_is_exact(family: str, uint8: set[str]) -> None:
    stage = preparation(family)
    kinds = [kind for kind in (MediaKind.IMAGE, MediaKind.VIDEO) if kind in stage.profile.modalities]
    chat, items = asking(*range(len(kinds)), "What?"), [ITEMS[kind] for kind in kinds]
    prepared, tensors = prepare(stage, chat, items, [PAYLOADS[kind] for kind in kinds])
    assert {name for name, tensor in tensors.items() if tensor.dtype == np.uint8} == uint8
    assert (prepared.pixel_norm is not None) == bool(uint8)


def test_two_normalisations_in_one_request_are_left_to_the_processor() -> None:
    processor = FAMILIES["qwen3_vl"]()
    processor.image_processor.image_mean = [0.4, 0.5, 0.5]
    prepared, tensors = prepare(
        Preparation(tiny_checkpoint(processor), AppConfig()),
        asking(0, 1, "What?"),
        [ITEMS[MediaKind.IMAGE], ITEMS[MediaKind.VIDEO]],
        [PAYLOADS[MediaKind.IMAGE], PAYLOADS[MediaKind.VIDEO]],
    )
    assert prepared.pixel_norm is None
    assert {tensors[name].dtype for name in ("pixel_values", "pixel_values_videos")} == {np.dtype(np.float32)}


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "glm4v", "internvl", "llava_onevision"])
def test_frames_at_the_target_size_are_not_resampled(family: str) -> None:
    stage = preparation(family)
    rule = stage.profile.resize
    assert rule is not None
    height, width = target_size(rule, 7, 360, 640)
    frames = noise(7, height, width, 3)
    facts = decoded(range(7), 360, 640)
    _, tensors = prepare(stage, asking(0, "What?"), [video(0, facts)], [{"frames_THWC": frozen(frames)}])
    pixels = tensors.get("pixel_values_videos", tensors.get("pixel_values"))
    assert pixels is not None
    values, counts = np.unique(frames, return_counts=True)
    padding = pixels.size / frames.size  # an odd number of frames: the last one is repeated
    seen, times = np.unique(pixels, return_counts=True)
    assert np.array_equal(values, seen)
    assert padding in (1, 8 / 7)
    assert np.abs(times / counts - padding).max() < 0.2


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("gemma3", "idefics3")])
def test_clip_of_one_frame_is_answered(family: str) -> None:
    facts = dataclasses.replace(decoded((0,), 60, 80), total_frames=1, duration_s=0.0, source_fps=1.0)
    payload = {"frames_THWC": frozen(noise(1, 60, 80, 3))}
    prepared, _ = prepare(preparation(family), asking(0, "What?"), [video(0, facts)], [payload])
    assert prepared.counts["video"] > 0


@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen3_omni"])
def test_sound_of_a_video_is_woven_between_its_frames(family: str) -> None:
    stage = preparation(family)
    payload = {"frames_THWC": FRAMES, "audio": tone(5)}
    heard, tensors = prepare(stage, asking(0, "What?", use_audio_in_video=True), [ITEMS[MediaKind.VIDEO]], [payload])
    silent, _ = prepare(stage, asking(0, "What?"), [ITEMS[MediaKind.VIDEO]], [payload])
    assert heard.use_audio_in_video
    assert not silent.use_audio_in_video
    assert heard.counts["video"] == silent.counts["video"]
    assert heard.counts["audio"] > 0
    assert silent.counts["audio"] == 0
    assert "input_features" in tensors


def test_video_without_a_track_is_prepared_silent_beside_a_sound() -> None:
    payload = {"frames_THWC": FRAMES, "audio": np.zeros(0, np.float32)}
    prepared, tensors = prepare(
        preparation("qwen2_5_omni"),
        asking(0, 1, "What?", use_audio_in_video=True),
        [ITEMS[MediaKind.VIDEO], ITEMS[MediaKind.AUDIO]],
        [payload, PAYLOADS[MediaKind.AUDIO]],
    )
    assert not prepared.use_audio_in_video
    assert len(tensors["input_features"]) == 1


def test_each_clip_tells_its_own_rate() -> None:
    slow = video(1, decoded((0, 30, 60, 90), 60, 80))
    quick = video(2, decoded((0, 15, 30, 45), 60, 80))
    payload = {"frames_THWC": frozen(noise(4, 60, 80, 3))}
    _, tensors = prepare(preparation("qwen2_5_omni"), asking(0, 1, "?"), [slow, quick], [payload, payload])
    assert tensors["video_second_per_grid"].tolist() == [2.0, 1.0]


def test_items_of_any_turn_stand_in_order_of_appearance() -> None:
    chat = Chat(
        (
            ChatMessage("user", (ChatPart(None, 0), ChatPart("first"))),
            ChatMessage("assistant", (ChatPart("a square"),)),
            ChatMessage("user", (ChatPart("second"), ChatPart(None, 1))),
        )
    )
    small, large = noise(56, 56, 3), noise(112, 112, 3)
    _, tensors = prepare(
        preparation("qwen2_vl"), chat, [image(0), image(1)], [picture_file(small), picture_file(large)]
    )
    assert tensors["image_grid_thw"].tolist() == [[1, 4, 4], [1, 8, 8]]
