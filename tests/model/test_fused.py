"""A fused model gives what the model of before gave, and what is not known stays as it is."""

import pytest
import torch

from deployments.model.forward.fused import fuse
from deployments.model.forward.merged import KeptPart, MergedLinear
from deployments.model.forward.towers import speed_up_towers
from tests.support.tiny_families import FAMILIES

IDS = torch.randint(10, 140, (1, 12), generator=torch.Generator().manual_seed(3))


def wild(name, dtype=torch.float64):
    """A family whose norms have weights of their own: ones would hide where a product is rounded."""
    model = FAMILIES[name].build(dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    for key, parameter in model.named_parameters():
        if parameter.ndim == 1 and "norm" in key and "weight" in key:
            parameter.data.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    return model


@torch.inference_mode()
def logits(model):
    return model(input_ids=IDS).logits.clone()


@pytest.mark.parametrize("name", FAMILIES)
def test_merged_projections_are_exact(name):
    model = wild(name)
    before = logits(model)
    assert fuse(model, kernels=False)["projections"] > 0
    torch.testing.assert_close(logits(model), before, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "mistral3"])
def test_kernels_in_a_model(name):
    pytest.importorskip("triton")
    model = wild(name, torch.float32)
    before = logits(model)
    done = fuse(model, kernels=True)
    assert done["rotary embeddings"] == done["layers"] == 3
    assert done["norms"] > 3
    assert float((logits(model) - before).abs().max() / before.std()) < 1e-4


def test_norms_of_float64_models_stay_as_they_are():
    model = wild("qwen3_vl")
    assert fuse(model, kernels=True)["norms"] == 0


class Quantised(torch.nn.Linear):
    pass


class Packed(torch.Tensor):
    pass


def other_class(linear):
    linear.__class__ = Quantised


def other_forward(linear):
    linear.forward = lambda x, plain=linear.forward: plain(x)


def other_weight(linear):
    linear.weight = torch.nn.Parameter(linear.weight.data.as_subclass(Packed), requires_grad=False)


@pytest.mark.parametrize("quantise", [other_class, other_forward, other_weight])
def test_foreign_linear_layers_are_left_alone(quantise):
    """Some libraries have classes of their own, some give a layer another forward, some another kind of tensor."""
    model = wild("qwen3_vl")
    attention, mlp = model.model.language_model.layers[1].self_attn, model.model.language_model.layers[1].mlp
    foreign = [attention.k_proj, mlp.up_proj]
    for linear in foreign:
        quantise(linear)
    before = logits(model)
    done = fuse(model, kernels=False)
    assert foreign == [attention.k_proj, model.model.language_model.layers[1].mlp.up_proj]
    assert done["projections"] == 2
    torch.testing.assert_close(logits(model), before, atol=1e-12, rtol=1e-12)


def test_part_of_a_merged_product_is_handed_out_once():
    merged = MergedLinear([torch.nn.Linear(4, 3), torch.nn.Linear(4, 2)])
    second = KeptPart(merged)
    x = torch.randn(1, 4)
    merged(x)
    assert second(x).shape == (1, 2)
    with pytest.raises(IndexError):
        second(x)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2_5_omni", "qwen3_omni_moe", "glm4v"])
def test_towers_see_pieces_at_once_as_one_by_one(name, rng):
    family = FAMILIES[name]
    model = family.build()
    kinds = list(family.media) if family.mixable else ["video"]
    tensors = {name: torch.tensor(array) for name, array in family.prompt(rng, kinds + kinds).tensors.items()}

    def encoded():
        with torch.inference_mode():
            return [feature(model, kind, tensors) for kind in kinds]

    before = encoded()
    assert speed_up_towers(model) > 0
    for found, wanted in zip(encoded(), before, strict=True):
        torch.testing.assert_close(found, wanted)


def feature(model, kind, tensors):
    """One modality's rows, from the model's own function."""
    from deployments.model.families.family import Family
    from deployments.types import MediaKind

    family = Family(model)
    names = family.features[MediaKind(kind)].argument_names
    given = {name: t.double() if t.is_floating_point() else t for name, t in tensors.items() if name in names}
    return torch.cat([rows.rows_ND for rows in family.encode(MediaKind(kind), given)])
