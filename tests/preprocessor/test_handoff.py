import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.model.multimodal.pixels import normalised as normalised_on_the_device
from deployments.preprocessor.handoff import RAW_OPTIONS, Handoff, find_handoff, normalised
from deployments.preprocessor.media import Clip, Media
from deployments.types import PixelNorm
from tests.support.preparing import decoded, noise, preparation
from tests.support.tiny_processors import FAMILIES

PICTURE_FAMILIES = ["qwen2_vl", "qwen3_vl", "qwen2_5_omni", "glm4v", "glm46v", "gemma3", "internvl", "llava_onevision"]
PROCESSORS = {family: FAMILIES[family]() for family in PICTURE_FAMILIES}
HANDOFFS = {family: find_handoff(PROCESSORS[family], preparation(family)._family) for family in PICTURE_FAMILIES}


@settings(max_examples=120, deadline=None)
@given(
    family=st.sampled_from(PICTURE_FAMILIES),
    sides=st.lists(st.tuples(st.integers(20, 150), st.integers(20, 150)), min_size=1, max_size=3),
    seed=st.integers(0, 2**16),
)
def test_device_gives_what_the_processor_would_have_given(family: str, sides: list[tuple[int, int]], seed: int) -> None:
    norm, images = HANDOFFS[family].images, PROCESSORS[family].image_processor
    assert norm is not None
    pictures = [[noise(height, width, 3, seed=seed) for height, width in sides]]
    options = {"input_data_format": "channels_last", "return_tensors": "pt"}
    usual, raw = images(pictures, **options)["pixel_values"], images(pictures, **options, **RAW_OPTIONS)["pixel_values"]
    assert raw.dtype == torch.uint8
    torch.testing.assert_close(torch.from_numpy(normalised(raw.numpy(), norm)), usual, rtol=0, atol=4e-6)
    on_device = normalised_on_the_device(raw, norm, torch.float32)
    torch.testing.assert_close(on_device, usual, rtol=0, atol=4e-6)


CLIP_NORM = PixelNorm(1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "NCHW")
OTHER_NORM = PixelNorm(1 / 255, (0.4, 0.5, 0.5), (0.5, 0.5, 0.5), "NCHW")
PICTURES = [noise(4, 4, 3)]
CLIPS = [Clip(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), decoded((0, 1), 4, 4), at_target=True)]


@pytest.mark.parametrize(
    ("handoff", "media", "expected"),
    [
        (Handoff(CLIP_NORM, None), Media(PICTURES), CLIP_NORM),
        (Handoff(CLIP_NORM, None), Media([], CLIPS), None),
        (Handoff(CLIP_NORM, CLIP_NORM), Media(PICTURES, CLIPS), CLIP_NORM),
        (Handoff(CLIP_NORM, OTHER_NORM), Media(PICTURES, CLIPS), None),
        (Handoff(CLIP_NORM, None), Media(PICTURES, CLIPS), None),
        (Handoff(CLIP_NORM, CLIP_NORM), Media(sounds=[np.zeros(4, np.float32)], clip_of_sound=[None]), None),
    ],
)
def test_one_normalisation_for_all_pixels_of_a_request_or_none(
    handoff: Handoff, media: Media, expected: PixelNorm | None
) -> None:
    assert handoff.norm_of(media) == expected


@pytest.mark.parametrize("setting", [{"do_normalize": False}, {"do_rescale": False}])
def test_processor_that_does_not_normalise_is_left_alone(setting: dict[str, bool]) -> None:
    processor = FAMILIES["qwen2_vl"]()
    for name, value in setting.items():
        setattr(processor.image_processor, name, value)
        setattr(processor.video_processor, name, value)
    assert find_handoff(processor, preparation("qwen2_vl")._family) == Handoff(None, None)
