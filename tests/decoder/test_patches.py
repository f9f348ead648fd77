"""Frames that leave the decoder as the model's own tensor: the same pixels, and only where that can be."""

import dataclasses
import gc
import io
import weakref

import numpy as np
import pytest
from PIL import Image

from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.decoder.limits import Limits
from deployments.decoder.picture_list import PictureListReader
from deployments.decoder.stack import FrameStack
from deployments.media.patches import frames_of
from deployments.types import PatchRule, ResizeRule
from tests.decoder.reading import read, task
from tests.support.media_files import make_video, numbered_frame, read_numbers

BACKENDS = pytest.mark.parametrize("backend", ["pyav", "opencv"])
RULE = PatchRule(patch=16, merge=2, temporal=2)
RESIZE = ResizeRule("frame", factor=32, min_pixels=32 * 32, max_pixels=192 * 320)


def cut(data: bytes, frames: int, resize: ResizeRule | None = RESIZE, config: DecoderConfig | None = None):
    return read(data, dataclasses.replace(task(frames, resize=resize), patches=RULE), config)


@BACKENDS
@pytest.mark.parametrize("frames", [1, 7, 8])
def test_patches_hold_the_frames_that_would_have_been_delivered(backend, frames):
    data, config = make_video(30, width=640, height=360), DecoderConfig(backend=backend)
    patches, whole = cut(data, frames, config=config), read(data, task(frames, resize=RESIZE), config)
    assert patches.payload.keys() == {"patches"}
    back = frames_of(patches.payload["patches"], patches.meta.patch_grid, RULE, frames)
    assert np.array_equal(back, whole.payload["frames_THWC"])
    assert read_numbers(back) == list(patches.meta.indices) == list(whole.meta.indices)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_patches_are_upright(rotation):
    data = make_video(12, width=640, height=320, rotation=rotation)
    patches, whole = cut(data, 3), read(data, task(3, resize=RESIZE))
    back = frames_of(patches.payload["patches"], patches.meta.patch_grid, RULE, 3)
    assert np.array_equal(back, whole.payload["frames_THWC"])


@pytest.mark.parametrize("patch", [16, 14])
def test_frames_of_the_right_size_already_become_patches_too(patch):
    """Widths that are no multiple of 16 have last columns of their own in swscale."""
    data = make_video(12, width=20 * patch, height=12 * patch)
    resize, rule = dataclasses.replace(RESIZE, factor=2 * patch), dataclasses.replace(RULE, patch=patch)
    back = read(data, dataclasses.replace(task(4, resize=resize), patches=rule))
    frames = frames_of(back.payload["patches"], back.meta.patch_grid, rule, 4)
    assert read_numbers(frames) == list(back.meta.indices)
    assert np.array_equal(frames, read(data, task(4, resize=resize)).payload["frames_THWC"])


@pytest.mark.parametrize(
    ("size", "resize"),
    [((128, 96), dataclasses.replace(RESIZE, min_pixels=192 * 320)), ((640, 360), None)],
    ids=["frames would have to be enlarged", "size not known"],
)
def test_frames_stay_frames_where_their_size_is_not_the_model_s(size, resize):
    result = cut(make_video(12, width=size[0], height=size[1]), 4, resize)
    assert result.meta.patch_grid is None
    assert result.payload["frames_THWC"].shape == (4, size[1], size[0], 3)


def test_patches_that_lack_a_frame_become_frames_again():
    stack = FrameStack(5, RESIZE, Limits(DecoderConfig(), "clip"), "clip", RULE)
    assert stack.begin(192, 320) == (192, 320)
    for slot in (4, 0, 3):
        stack.put(slot, numbered_frame(slot, 192, 320))
    stacked = stack.finish()
    assert stacked.patch_grid is None
    assert stacked.kept.tolist() == [0, 3, 4]
    assert read_numbers(stacked.payload["frames_THWC"]) == [0, 3, 4]


def test_a_list_of_pictures_becomes_patches():
    pictures = []
    for number in range(3):
        buffer = io.BytesIO()
        Image.fromarray(numbered_frame(number, 192, 320)).save(buffer, "PNG")
        pictures.append(np.frombuffer(buffer.getvalue(), np.uint8))
    wanted = dataclasses.replace(task(3, resize=RESIZE), patches=RULE)
    result = PictureListReader(DecoderConfig()).read(wanted, tuple(pictures), Deadline(30, "decode"))
    assert read_numbers(frames_of(result.payload["patches"], result.meta.patch_grid, RULE, 3)) == [0, 1, 2]


def test_frames_are_freed_with_their_last_user_not_by_the_next_collection():
    gc.disable()
    try:
        result = read(make_video(12, width=320, height=192), task(4))
        freed = weakref.ref(result.payload["frames_THWC"].base)
        assert freed() is not None
        del result
        assert freed() is None
    finally:
        gc.enable()
