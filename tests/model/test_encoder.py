"""Items of several requests are encoded together, seen ones not at all, and neither changes an answer."""

import numpy as np
import pytest
import torch

from deployments.config import MIB
from deployments.model.encoder import EncodedStore
from deployments.model.family import Family
from deployments.model.items import split_items
from deployments.model.multimodal import EncodedRows, joined_rows
from deployments.types import MediaKind
from tests.model.conftest import Bench, generate, greedy
from tests.tiny_families import FAMILIES, Prompt


class _Counting:
    """Counts calls of a model's feature function."""

    def __init__(self, model, name="get_image_features"):
        self.calls = 0
        self._function = getattr(model.base_model, name)
        self._model, self._name = model, name

    def __enter__(self):
        def counted(*args, **kwargs):
            self.calls += 1
            return self._function(*args, **kwargs)

        setattr(self._model.base_model, self._name, counted)
        return self

    def __exit__(self, *args):
        delattr(self._model.base_model, self._name)


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3", "llava_onevision"])
def test_pictures_of_several_requests_are_encoded_in_one_call(name):
    family = FAMILIES[name]
    model = family.build()
    rng = np.random.default_rng(2)
    prompts = [family.prompt(rng, ["image"]) for _ in range(3)]
    bench = Bench(model)
    ears = [bench.submit(prompt, greedy())[1] for prompt in prompts]
    with _Counting(model) as counting:
        bench.run()
    assert counting.calls == 1
    assert [ear.ids() for ear in ears] == [generate(model, prompt) for prompt in prompts]


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_5_omni", "gemma3"])
def test_seen_media_are_not_encoded_again(name):
    family = FAMILIES[name]
    model = family.build()
    rng = np.random.default_rng(2)
    one, other = family.prompt(rng, ["image"]), family.prompt(rng, ["image"])
    both = Prompt(
        np.concatenate([one.token_ids, other.token_ids]),
        {n: np.concatenate([one.tensors[n], other.tensors[n]]) for n in one.tensors},
    )
    bench = Bench(model, reuse_cache_mib=1.0)
    for prompt in (one, other):
        bench.submit(prompt, greedy())
        bench.run()
    with _Counting(model) as counting:
        _, ear = bench.submit(both, greedy())
        bench.run()
    assert counting.calls == 0
    assert bench.sink.values["sluice_encoder_reuse_hits", ()] == 2
    assert ear.ids() == generate(model, both)


def test_store_keeps_within_its_bytes_and_drops_the_oldest():
    rows = [EncodedRows(torch.full((MIB // 4 // 4, 4), float(i))) for i in range(3)]
    store = EncodedStore(2 * MIB)
    store.put(b"0", rows[0])
    store.put(b"1", rows[1])
    assert store.get(b"0") is not None
    store.put(b"2", rows[2])
    assert store.get(b"1") is None
    assert torch.equal(store.get(b"0").rows_ND, rows[0].rows_ND)


def test_items_differ_by_content_shape_and_kind():
    pixels = torch.arange(24.0).reshape(4, 6)
    (a,) = split_items(MediaKind.IMAGE, {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 2, 2]])})
    (b,) = split_items(MediaKind.IMAGE, {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 1, 4]])})
    (c,) = split_items(MediaKind.IMAGE, {"pixel_values": pixels + 1, "image_grid_thw": torch.tensor([[1, 2, 2]])})
    (d,) = split_items(MediaKind.VIDEO, {"pixel_values": pixels, "video_grid_thw": torch.tensor([[1, 2, 2]])})
    assert len({item.digest() for item in (a, b, c, d)}) == 4


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen2_5_omni", "glm4v", "gemma4"])
def test_frames_encoded_apart_are_those_of_the_whole_clip(name):
    tiny = FAMILIES[name]
    family = Family(tiny.build())
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
