"""Encoder outputs as input: what the prompt has room for, and what is refused before any number is read."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from deployments.errors import BadRequest
from deployments.types import DeclaredSize, MediaInput, MediaKind
from tests.support.preparing import (
    asking,
    audio,
    decoded,
    image,
    noise,
    picture_file,
    preparation,
    prepare,
    sound_file,
    tone,
    video,
)

WIDTH = 8
"""Of the tiny checkpoints' embeddings."""


def file_of(cut: int = 0, /, **tensors):
    """A safetensors file."""
    names = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(np.int64): "I64"}
    header, body = {}, b""
    for name, array in tensors.items():
        raw = array.tobytes()
        said = {"dtype": names[array.dtype], "shape": list(array.shape)}
        header[name] = said | {"data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    whole = struct.pack("<Q", len(text)) + text + body
    return np.frombuffer(whole[: len(whole) - cut], np.uint8)


def embeds(kind, number=0, **declared):
    return MediaInput(MediaKind(kind), f"item {number}", "safetensors", declared=DeclaredSize(**declared), embeds=True)


def rows(count):
    return np.arange(count * WIDTH, dtype=np.float32).reshape(count, WIDTH)


@pytest.mark.parametrize("family", ["qwen2_5_omni", "glm4v", "idefics3", "internvl", "gemma3"])
def test_a_picture_s_embeddings_take_the_places_of_the_picture(family):
    stage = preparation(family)
    height, width = 56, 112
    whole, tensors = prepare(stage, asking("a", 0, "b"), [image(0)], [picture_file(noise(height, width, 3))])
    given = rows(int(np.bincount(whole.token_ids).max()))
    prepared, mine = prepare(
        stage, asking("a", 0, "b"), [embeds("image", width=width, height=height)], [file_of(image_embeds=given)]
    )
    assert np.array_equal(prepared.token_ids, whole.token_ids)
    assert np.array_equal(mine["image_embeds"], given)
    assert mine["image_embeds_rows"].tolist() == [len(given)]
    assert "pixel_values" not in mine
    assert all(np.array_equal(mine[name], tensors[name]) for name in tensors if "grid" in name)


def test_a_grid_tells_the_size_of_a_picture_and_of_a_video():
    stage = preparation("qwen2_5_omni")
    facts = decoded([0, 15, 30, 45], 56, 112)
    inputs, payloads = [video(0, facts)], [{"frames_THWC": noise(4, 56, 112, 3)}]
    whole, tensors = prepare(stage, asking(0, "b"), inputs, payloads)
    grid = np.asarray(tensors["video_grid_thw"], np.int64)
    given = file_of(video_embeds=rows(whole.counts["video"]).astype(np.float16), video_grid_thw=grid)
    prepared, mine = prepare(stage, asking(0, "b"), [embeds("video", fps=2.0)], [given])
    assert np.array_equal(prepared.token_ids, whole.token_ids)
    assert np.array_equal(mine["video_grid_thw"], grid)
    assert mine["video_second_per_grid"] == tensors["video_second_per_grid"]


def test_a_sound_s_embeddings_take_the_places_of_as_long_a_sound():
    stage = preparation("qwen2_5_omni")
    whole, tensors = prepare(stage, asking(0), [audio(0)], [sound_file(tone(1.5))])
    given = file_of(audio_embeds=rows(whole.counts["audio"]))
    prepared, mine = prepare(stage, asking(0), [embeds("audio", duration_s=1.5)], [given])
    assert np.array_equal(prepared.token_ids, whole.token_ids)
    assert np.array_equal(mine["feature_attention_mask"], tensors["feature_attention_mask"])
    assert "input_features" not in mine


def test_items_that_tell_their_size_are_counted_without_them():
    stage = preparation("qwen2_5_omni")
    files = [picture_file(noise(56, 112, 3)), sound_file(tone(1.0))]
    whole, _ = prepare(stage, asking(0, 1), [image(0), audio(1)], files)
    sizes = [DeclaredSize(width=112, height=56), DeclaredSize(duration_s=1.0)]
    counted = [replace(item, declared=size) for item, size in zip([image(0), audio(1)], sizes, strict=True)]
    prepared, _ = prepare(stage, asking(0, 1), counted)
    assert prepared.counts == whole.counts


GRID = np.array([[1, 4, 8]])
"""32 patches, 8 places."""


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (file_of(image_embeds=rows(7), image_grid_thw=GRID), "7 rows of embeddings"),
        (file_of(image_embeds=rows(8)[:, 1:].copy(), image_grid_thw=GRID), r"takes \[rows, 8\]"),
        (file_of(image_embeds=GRID, image_grid_thw=GRID), "is of type I64"),
        (file_of(image_embeds=np.full((8, WIDTH), np.nan, np.float32), image_grid_thw=GRID), "no number"),
        (file_of(image_embeds=rows(8), image_grid_thw=GRID, more=rows(8)), "'more' is none"),
        (file_of(image_grid_thw=GRID), r"`image_embeds` of shape \[rows, 8\] is missing"),
        (file_of(1, image_grid_thw=GRID, image_embeds=rows(8)), "outside of the file"),
        (file_of(image_embeds=rows(8), image_grid_thw=np.array([[1, 10**6, 8]])), "pixels"),
        (file_of(image_embeds=rows(8), image_grid_thw=np.array([[1, 1, 8]])), "none that this model's processor makes"),
        (file_of(image_embeds=rows(8)), "needs `height`, or the tensor `image_grid_thw`"),
        (np.frombuffer(b"\xff" * 8 + b"{", np.uint8), "cut or too long"),
        (np.frombuffer(struct.pack("<Q", 2) + b"{]", np.uint8), "malformed"),
    ],
)
def test_embeddings_that_do_not_fit_the_model_are_refused_by_their_header(file, said):
    with pytest.raises(BadRequest, match=said) as caught:
        prepare(preparation("qwen2_5_omni"), asking(0), [embeds("image")], [file])
    assert caught.value.param == "item 0"


def test_embeddings_and_pictures_do_not_mix_in_a_request():
    given = file_of(image_embeds=rows(8), image_grid_thw=GRID)
    with pytest.raises(BadRequest, match="all embeddings, or none is"):
        prepare(
            preparation("qwen2_5_omni"),
            asking(0, 1),
            [image(0), embeds("image", 1)],
            [picture_file(noise(56, 112, 3)), given],
        )


def test_deepstack_layers_are_asked_for_by_name():
    stage = preparation("qwen3_vl", deepstack=3)
    with pytest.raises(BadRequest, match=r"`image_deepstack_embeds` of shape \[3, rows, 8\] is missing"):
        prepare(stage, asking(0), [embeds("image")], [file_of(image_embeds=rows(8), image_grid_thw=GRID)])
