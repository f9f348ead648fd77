"""Pictures whose rows are cut here: whatever the picture, they are those of the family's own processor, bit for bit."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from deployments.config import AppConfig, PreprocessorConfig
from deployments.core.deadline import Deadline
from deployments.media.pictures import decode_picture
from deployments.preprocessor.handoff import RAW_OPTIONS
from deployments.preprocessor.preparation import Preparation
from tests.support.preparing import asking, decoded, image, noise, picture_file, preparation, prepare, video
from tests.support.tiny_processors import FAMILIES, tiny_checkpoint

CUTTING = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2_5_omni", "qwen3_omni", "glm4v", "glm46v"]
STAGES = {family: preparation(family) for family in CUTTING}
PROCESSORS = {family: FAMILIES[family]().image_processor for family in CUTTING}

KINDS = [
    ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "L"), ("PNG", "LA"), ("PNG", "P"), ("PNG", "1"), ("PNG", "I;16"),
    ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("WEBP", "RGBA"), ("TIFF", "RGB"), ("GIF", "P"),
]  # fmt: skip
"""(format, mode)"""


def file(kind: tuple[str, str], height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    name, mode = kind
    pixels = noise(height, width, 4 if mode in ("RGBA", "CMYK") else 3, seed=seed)
    picture = Image.fromarray(pixels, mode if mode in ("RGBA", "CMYK") else "RGB")
    if mode == "I;16":
        picture = Image.fromarray((pixels[..., 0].astype(np.uint16) << 8) + pixels[..., 1])
    buffer = io.BytesIO()
    (picture if mode in ("I;16", picture.mode) else picture.convert(mode)).save(buffer, name)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def own(processor: Any, files: list[NDArray[np.uint8]], size: dict[str, int] | None = None) -> dict[str, Any]:
    """What `processor` makes of whole pictures, given to it as its documentation says."""
    pixels = [decode_picture(data, "a", 10**7, Deadline(60, "t")) for data in files]
    options = {} if size is None else {"size": size}
    told = processor(pixels, input_data_format="channels_last", return_tensors="pt", **options, **RAW_OPTIONS)
    return {name: value.numpy() for name, value in told.items()}


def check(family: str, files: list[NDArray[np.uint8]], size: dict[str, int] | None = None, **options: Any) -> None:
    numbers = range(len(files))
    prepared, tensors = prepare(
        STAGES[family], asking(*numbers, "What?", **options), [image(i) for i in numbers], files
    )
    expected = own(PROCESSORS[family], files, size)
    assert tensors.keys() >= expected.keys()
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype
        assert np.array_equal(tensors[name], value), name
    patches = expected["image_grid_thw"].prod(1).sum()
    assert prepared.counts["image"] >= patches // PROCESSORS[family].merge_size ** 2


@settings(max_examples=12, deadline=None)
@given(kind=st.sampled_from(KINDS), height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 99))
@example(kind=("PNG", "RGB"), height=28, width=28, seed=0)
@example(kind=("PNG", "RGB"), height=64, width=96, seed=0)
@example(kind=("JPEG", "RGB"), height=1, width=150, seed=0)
@pytest.mark.parametrize("family", CUTTING)
def test_the_model_gets_what_the_processor_would_have_made(family, kind, height, width, seed):
    if max(height, width) > 200 * min(height, width):
        height = width = max(height, width)
    check(family, [file(kind, height, width, seed)])


@pytest.mark.parametrize("family", CUTTING)
def test_pictures_of_one_request_stand_one_after_the_other(family):
    sides = [(90, 130), (30, 200), (90, 130), (301, 60)]
    check(family, [file(("PNG", "RGB"), *each, seed) for seed, each in enumerate(sides)])


@pytest.mark.parametrize("family", CUTTING)
def test_a_request_s_own_budget_decides_their_size(family):
    ceiling = dict(PROCESSORS[family].size)["longest_edge"]
    size = {"shortest_edge": ceiling // 4, "longest_edge": ceiling // 2}
    asked = (("min_pixels", size["shortest_edge"]), ("max_pixels", size["longest_edge"]))
    check(family, [file(("PNG", "RGB"), 200, 150), file(("PNG", "RGB"), 40, 50)], size, processor_kwargs=asked)


def test_pictures_and_clips_keep_their_places():
    stage = STAGES["qwen3_vl"]
    files = [picture_file(noise(90, 130, 3, seed=seed)) for seed in (1, 2)]
    clip = decoded(range(4), 64, 64)
    frames = {"frames_THWC": noise(4, 64, 64, 3)}
    _, tensors = prepare(stage, asking(0, 1, 2), [image(0), video(1, clip), image(2)], [files[0], frames, files[1]])
    for name, value in own(PROCESSORS["qwen3_vl"], files).items():
        assert np.array_equal(tensors[name], value)
    assert len(tensors["pixel_values_videos"])


def test_where_floats_are_wanted_the_processor_makes_them():
    stage = preparation("qwen3_vl", AppConfig(preprocessor=PreprocessorConfig(uint8_handoff=False)))
    picture = file(("PNG", "RGB"), 90, 130)
    _, tensors = prepare(stage, asking(0), [image(0)], [picture])
    pixels = decode_picture(picture, "a", 10**7, Deadline(60, "t"))
    told = PROCESSORS["qwen3_vl"]([pixels], input_data_format="channels_last", return_tensors="pt")
    assert np.array_equal(tensors["pixel_values"], told["pixel_values"].numpy())


class Flipping:
    """A processor's picture part that does one thing more."""

    def _preprocess(self, images, **options):
        return super()._preprocess([picture.flip(-1) for picture in images], **options)


def test_what_a_processor_does_is_looked_at_not_its_name():
    processor = FAMILIES["qwen3_vl"]()
    part = processor.image_processor
    part.__class__ = type("Qwen2VLImageProcessor", (Flipping, type(part)), {})
    picture = file(("PNG", "RGB"), 90, 130)
    _, tensors = prepare(Preparation(tiny_checkpoint(processor), AppConfig()), asking(0), [image(0)], [picture])
    assert np.array_equal(tensors["pixel_values"], own(part, [picture])["pixel_values"])
    assert not np.array_equal(tensors["pixel_values"], own(PROCESSORS["qwen3_vl"], [picture])["pixel_values"])


def test_a_processor_that_shrinks_with_another_filter_is_followed():
    processor = FAMILIES["qwen3_vl"]()
    processor.image_processor.resample = Image.Resampling.BILINEAR
    picture = file(("PNG", "RGB"), 290, 230)
    _, tensors = prepare(Preparation(tiny_checkpoint(processor), AppConfig()), asking(0), [image(0)], [picture])
    assert np.array_equal(tensors["pixel_values"], own(processor.image_processor, [picture])["pixel_values"])
