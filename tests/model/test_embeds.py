"""Encoder outputs that a client brings: the same answers as of the media they were made of, and no tower runs."""

import numpy as np
import pytest
import torch

from deployments.core.deadline import Deadline
from deployments.model.families.family import Family
from deployments.model.forward.intake import unpack
from deployments.model.multimodal.request_media import Media, MediaMemory, joined_rows
from deployments.model.sequence import EngineRequest, Sequence
from tests.model.conftest import Counting, RecordingListener, SteppedEngine, generate, greedy
from tests.support.tiny_families import FAMILIES, Prompt


@pytest.fixture(
    scope="module", params=("gemma3", "glm4v", "llava_onevision", "qwen2_5_omni", "qwen3_omni_moe", "qwen3_vl")
)
def family_and_model(request):
    family = FAMILIES[request.param]
    return family, family.build()


def _as_embeds(model, prompt: Prompt, kind: str) -> Prompt:
    """The prompt with the model's own encoder outputs in place of what they are made of."""
    family = Family(model)
    sequence = Sequence(EngineRequest(prompt.token_ids, greedy(), Deadline(60.0, "model")), RecordingListener(), 1)
    media = Media(dict(prompt.tensors), MediaMemory(1 << 40))
    unpack(family, sequence, media)
    encoded = [
        joined_rows(
            family.encode(
                item.kind, {n: t.to(model.dtype) if t.is_floating_point() else t for n, t in item.tensors.items()}
            )
        )
        for item in media.items
    ]
    whole = joined_rows(encoded)
    tensors = {
        name: array for name, array in prompt.tensors.items() if not name.startswith(("pixel_values", "input_features"))
    }
    tensors[f"{kind}_embeds"] = whole.rows_ND.numpy()
    tensors[f"{kind}_embeds_rows"] = np.array([len(whole.rows_ND)])
    if whole.deepstack_ND:
        tensors[f"{kind}_deepstack_embeds"] = torch.stack(whole.deepstack_ND).numpy()
    return Prompt(prompt.token_ids, tensors)


def test_encoder_outputs_as_input_give_the_answer_of_their_media(family_and_model):
    family, model = family_and_model
    for kind in family.media:
        prompt = family.prompt(np.random.default_rng(4), [kind])
        stepped = SteppedEngine(model, prefill_chunk_tokens=7)
        given = _as_embeds(model, prompt, kind)
        with Counting(model, f"get_{kind}_features") as encoding:
            _, listener = stepped.submit(given, greedy())
            stepped.run()
        assert listener.error is None
        assert listener.ids() == generate(model, prompt)
        assert encoding.calls == 0
