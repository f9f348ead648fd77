import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.glm4v.image_processing_glm4v import smart_resize as glm_smart_resize
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as qwen2_smart_resize
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as qwen3_smart_resize

from deployments.errors import BadMedia
from deployments.media.geometry import target_size
from deployments.types import ResizeRule

sides = st.integers(8, 5000)
factors = st.sampled_from([14, 16, 28, 32])


@given(height=sides, width=sides, factor=factors, low=st.integers(1, 400), high=st.integers(400, 20_000))
def test_frame_rule_is_the_processors_own_arithmetic(height: int, width: int, factor: int, low: int, high: int) -> None:
    rule = ResizeRule("frame", factor, 2, low * factor**2, high * factor**2)
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(BadMedia):
            target_size(rule, 4, height, width)
    else:
        expected = qwen2_smart_resize(height, width, factor, rule.min_pixels, rule.max_pixels)
        assert target_size(rule, 4, height, width) == expected


@given(
    frames=st.integers(2, 800), height=sides, width=sides, factor=factors, low=st.integers(1, 400),
    high=st.integers(400, 20_000),
)  # fmt: skip
def test_clip_rule_is_the_processors_own_arithmetic(
    frames: int, height: int, width: int, factor: int, low: int, high: int
) -> None:
    rule = ResizeRule("clip", factor, 2, low * factor**2, high * factor**2)
    try:
        expected = qwen3_smart_resize(frames, height, width, 2, factor, rule.min_pixels, rule.max_pixels)
    except ValueError:
        with pytest.raises(BadMedia):
            target_size(rule, frames, height, width)
        return
    assert target_size(rule, frames, height, width) == expected
    assert glm_smart_resize(frames, height, width, 2, factor, rule.min_pixels, rule.max_pixels) == expected


def test_clip_of_one_frame_gets_the_size_of_two() -> None:
    rule = ResizeRule("clip", 32, 2, 32 * 32 * 4, 32 * 32 * 768)
    assert target_size(rule, 1, 1080, 1920) == target_size(rule, 2, 1080, 1920)


def test_exact_rule_ignores_the_source() -> None:
    assert target_size(ResizeRule("exact", height=384, width=448), 5, 1, 4000) == (384, 448)


def test_too_narrow_names_the_item() -> None:
    rule = ResizeRule("frame", 28, 1, 28 * 28, 28 * 28 * 768)
    with pytest.raises(BadMedia, match="4000 x 10 pixels are too narrow") as caught:
        target_size(rule, 1, 10, 4000, "messages[0].content[1]")
    assert caught.value.param == "messages[0].content[1]"
