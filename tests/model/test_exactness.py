"""Greedy answers equal `model.generate`'s, for every family served, whatever else the engine does meanwhile."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.conftest import SteppedEngine, generate, greedy, plain_logits
from tests.support.tiny_configs import AUDIO, IMAGE, VIDEO
from tests.support.tiny_families import FAMILIES


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family_and_model(request, device):
    family = FAMILIES[request.param]
    return family, family.build(device=device)


@pytest.fixture(scope="module")
def asked(family_and_model):
    """Prompts with every combination of media, and what transformers answers."""
    family, model = family_and_model
    rng = np.random.default_rng(1)
    prompts = [family.prompt(rng, kinds) for kinds in _combinations(family)]
    return [(prompt, generate(model, prompt)) for prompt in prompts]


def _combinations(family):
    kinds = list(family.media)
    mixed = [kinds] if family.mixable and len(kinds) > 1 else []
    mixed += [["sounding"], ["image", "sounding"]] if family.sounding else []
    return [[], *([kind] for kind in kinds), *([kind, kind] for kind in kinds), *mixed]


def test_each_modality_in_one_batch_equals_generate(family_and_model, asked):
    _, model = family_and_model
    stepped = SteppedEngine(model, prefill_chunk_tokens=7, max_running=4)
    listeners = [stepped.submit(prompt, greedy())[1] for prompt, _ in asked]
    stepped.run()
    for (_, wanted), listener in zip(asked, listeners, strict=True):
        assert listener.error is None
        assert listener.ids() == wanted


def test_media_encoded_part_by_part_between_decode_steps_equal_generate(family_and_model, asked):
    family, model = family_and_model
    rng = np.random.default_rng(5)
    stepped = SteppedEngine(model, creeping=True, max_running=3)
    _, running = stepped.submit(family.prompt(rng, []), greedy(200))
    stepped.step(2)
    listeners = [stepped.submit(prompt, greedy())[1] for prompt, _ in asked]
    while any(listener.timing is None for listener in listeners):
        heard = len(running.ids())
        stepped.step()
        assert len(running.ids()) == heard + 1
    assert [listener.ids() for listener in listeners] == [wanted for _, wanted in asked]


def test_low_precision_chooses_within_rounding_of_the_plain_forward(family_and_model):
    """In bfloat16 the shape of a batch decides how sums are rounded, here as in transformers: near ties may fall
    either way. What is promised is that no chosen token is worse than the best one by more than such rounding."""
    family, float64 = family_and_model
    model = family.build(dtype=torch.bfloat16, device=float64.device)
    rng = np.random.default_rng(6)
    prompts = [family.prompt(rng, kinds) for kinds in _combinations(family)[: 1 + len(family.media)]]
    stepped = SteppedEngine(model, prefill_chunk_tokens=7)
    placeholders = [IMAGE, VIDEO, AUDIO]  # in an answer they would stand for media to the plain forward
    banned = tuple((token_id, -1e4) for token_id in placeholders)
    listeners = [stepped.submit(prompt, greedy(logit_bias=banned))[1] for prompt in prompts]
    stepped.run()
    for prompt, listener in zip(prompts, listeners, strict=True):
        logits_TV = plain_logits(model, prompt, listener.ids())
        logits_TV[:, placeholders] = logits_TV.min()
        best_T = logits_TV.max(-1).values
        chosen_T = logits_TV.gather(-1, torch.tensor(listener.ids())[:, None])[:, 0]
        assert ((best_T - chosen_T) <= 0.25 * logits_TV.std(-1)).all()


def test_media_shape_the_answer(family_and_model):
    """Else the comparison above would hold for an engine that drops them."""
    family, model = family_and_model
    for kind in family.media:
        prompt = family.prompt(np.random.default_rng(3), [kind])
        main = next(name for name in prompt.tensors if name.startswith(("pixel_values", "input_features")))
        other = {**prompt.tensors, main: prompt.tensors[main][..., ::-1].copy()}
        stepped = SteppedEngine(model)
        listeners = [stepped.submit(type(prompt)(prompt.token_ids, t), greedy(12))[1] for t in (prompt.tensors, other)]
        stepped.run()
        assert listeners[0].ids() != listeners[1].ids(), kind


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_order_with_neighbours_aborting_equals_generate(data, device):
    name = data.draw(st.sampled_from(["qwen3_vl", "qwen3_5", "gemma3", "qwen2_5_omni"]))
    family, model = FAMILIES[name], _model(name, device)
    rng = np.random.default_rng(data.draw(st.integers(0, 50)))
    stepped = SteppedEngine(
        model,
        prefill_chunk_tokens=data.draw(st.integers(1, 40)),
        max_running=data.draw(st.integers(1, 5)),
        page_tokens=data.draw(st.sampled_from([1, 4, 16])),
        prefix_cache=data.draw(st.booleans()),
        reuse_cache_mib=data.draw(st.sampled_from([0.0, 0.002, 1.0])),
        creeping=data.draw(st.booleans()),
    )
    known = []
    wanted = []
    for _ in range(data.draw(st.integers(1, 6))):
        if known and data.draw(st.booleans()):
            prompt = data.draw(st.sampled_from(known))
        else:
            prompt = family.prompt(rng, data.draw(st.lists(st.sampled_from(sorted(family.media)), max_size=2)))
            known.append(prompt)
        length = data.draw(st.integers(1, 8))
        sequence, listener = stepped.submit(prompt, greedy(length))
        stepped.step(data.draw(st.integers(0, 4)))
        if data.draw(st.booleans()):
            stepped.engine.abort(sequence)
        else:
            wanted.append((prompt, length, listener))
    stepped.run()
    for prompt, length, listener in wanted:
        assert listener.ids() == generate(model, prompt, length)


_MODELS = {}


def _model(name, device):
    if name not in _MODELS:
        _MODELS[name] = FAMILIES[name].build(device=device)
    return _MODELS[name]
