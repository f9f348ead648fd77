from typing import Any

import pytest

from deployments.config import AppConfig, PreprocessorConfig
from deployments.errors import BadRequest
from tests.support.preparing import asking, decoded, frozen, image, noise, picture_file, preparation, prepare, video
from tests.support.tiny_processors import BUDGET

LARGE = picture_file(noise(300, 300, 3))


def grid(**options: Any) -> list[int]:
    chat = asking(0, "What?", processor_kwargs=tuple(options.items()))
    _, tensors = prepare(preparation("qwen2_vl"), chat, [image(0)], [LARGE])
    return [int(side) for side in tensors["image_grid_thw"][0]]


def test_budget_of_a_request_makes_pictures_smaller() -> None:
    assert grid() == [1, 6, 6]
    assert grid(max_pixels=5 * 28 * 28) == [1, 4, 4]


def test_budget_of_a_request_makes_videos_smaller() -> None:
    payload = {"frames_THWC": frozen(noise(4, 112, 112, 3))}
    chat = asking(0, "What?", processor_kwargs=(("max_pixels", 4 * 28 * 28),))
    _, tensors = prepare(preparation("qwen2_vl"), chat, [video(0, decoded(range(4), 300, 300))], [payload])
    assert tensors["video_grid_thw"].tolist() == [[2, 4, 4]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_pixels": BUDGET["longest_edge"] + 1}, f"the limit is {BUDGET['longest_edge']}"),
        ({"min_pixels": BUDGET["longest_edge"] + 1}, f"the limit is {BUDGET['longest_edge']}"),
        ({"min_pixels": 9000, "max_pixels": 8000}, "above max_pixels"),
        ({"max_pixels": 0}, "at least 1"),
        ({"max_pixels": True}, "whole number"),
        ({"max_pixels": "9000"}, "whole number"),
        ({"max_pixels": 9000.5}, "whole number"),
        ({"max_pixels": None}, "whole number"),
        ({"do_sample_frames": True}, "allowed keys: max_pixels, min_pixels"),
        ({"size": {"longest_edge": 9000}}, "can't be set"),
        ({"fps": 5}, "can't be set"),
        ({"code_revision": "main"}, "can't be set"),
        ({"x" * 5000: 1}, "can't be set"),
    ],
)
def test_what_would_cost_more_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message) as caught:
        grid(**options)
    assert str(caught.value.param).startswith("mm_processor_kwargs")
    assert len(caught.value.message) < 300


def test_operator_decides_which_keys_there_are() -> None:
    stage = preparation("qwen2_vl", AppConfig(preprocessor=PreprocessorConfig(allowed_processor_kwargs=())))
    with pytest.raises(BadRequest, match="allowed keys: none"):
        prepare(stage, asking("Hi", processor_kwargs=(("max_pixels", 5000),)))


def test_operator_can_not_let_sampling_in() -> None:
    config = PreprocessorConfig(allowed_processor_kwargs=("do_sample_frames", "max_pixels"))
    with pytest.raises(BadRequest, match="can't be set"):
        prepare(
            preparation("qwen2_vl", AppConfig(preprocessor=config)),
            asking("Hi", processor_kwargs=(("do_sample_frames", True),)),
        )


def test_models_without_a_budget_say_so() -> None:
    with pytest.raises(BadRequest, match="no budget of pixels"):
        prepare(preparation("gemma3"), asking("Hi", processor_kwargs=(("max_pixels", 5000),)))
