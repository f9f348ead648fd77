"""Items of several requests are encoded together, frames of a clip apart, and neither changes an answer."""

import numpy as np
import pytest
import torch

from deployments.model.families.family import Family
from deployments.model.multimodal.items import split_items
from deployments.model.multimodal.request_media import joined_rows
from deployments.types import MediaKind
from tests.model.conftest import Counting, SteppedEngine, generate, greedy
from tests.support.tiny_families import FAMILIES


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3", "llava_onevision"])
def test_pictures_of_several_requests_are_encoded_in_one_call(name, device):
    family = FAMILIES[name]
    model = family.build(device=device)
    rng = np.random.default_rng(2)
    prompts = [family.prompt(rng, ["image"]) for _ in range(3)]
    stepped = SteppedEngine(model)
    listeners = [stepped.submit(prompt, greedy())[1] for prompt in prompts]
    with Counting(model) as counting:
        stepped.run()
    assert counting.calls == 1
    assert [listener.ids() for listener in listeners] == [generate(model, prompt) for prompt in prompts]


def test_items_differ_by_content_shape_and_kind():
    pixels = torch.arange(24.0).reshape(4, 6)
    (a,) = split_items(MediaKind.IMAGE, {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 2, 2]])})
    (b,) = split_items(MediaKind.IMAGE, {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 1, 4]])})
    (c,) = split_items(MediaKind.IMAGE, {"pixel_values": pixels + 1, "image_grid_thw": torch.tensor([[1, 2, 2]])})
    (d,) = split_items(MediaKind.VIDEO, {"pixel_values": pixels, "video_grid_thw": torch.tensor([[1, 2, 2]])})
    assert len({item.digest() for item in (a, b, c, d)}) == 4


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen2_5_omni", "glm4v", "gemma4"])
def test_frames_encoded_apart_are_those_of_the_whole_clip(name, device):
    tiny = FAMILIES[name]
    family = Family(tiny.build(device=device))
    tensors = tiny.prompt(np.random.default_rng(4), ["video"]).tensors
    arguments = {
        n: torch.from_numpy(tensors[n]) for n in family.features[MediaKind.VIDEO].argument_names if n in tensors
    }
    arguments = {n: t.double() if t.is_floating_point() else t for n, t in arguments.items()}
    items = split_items(MediaKind.VIDEO, arguments, by_frame=True)
    apart = [rows for item in items for rows in family.encode(MediaKind.VIDEO, item.tensors)]
    whole = family.encode(MediaKind.VIDEO, arguments)
    assert len(apart) > len(whole)
    torch.testing.assert_close(joined_rows(apart).rows_ND, joined_rows(whole).rows_ND)
