"""A checkpoint's towers and its language model, loaded apart: neither reads the other's weights, together they answer
as the whole does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from transformers import LlamaConfig, LlamaForCausalLM

from deployments.core.deadline import Deadline
from deployments.errors import InternalError
from deployments.model.encoder.loop import EncoderLoop
from deployments.model.encoder.work import EncodeWork
from deployments.model.families.family import Family
from deployments.model.families.parts import Absent, Part, having
from deployments.model.forward.request_items import items_of
from deployments.model.forward.tower_runner import TowerRunner
from deployments.model.multimodal.encoded import arrays_of
from deployments.model.multimodal.request_media import MediaMemory
from deployments.model.multimodal.uploads import Uploads
from deployments.observability.metrics import RecordingSink
from tests.model.conftest import SteppedEngine, generate, greedy
from tests.support.tiny_families import FAMILIES, Prompt, TinyFamily


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def whole_and_parts(request, tmp_path_factory):
    """A family, its whole model, its towers, its language model; the parts as they are read from a checkpoint."""
    tiny: TinyFamily = FAMILIES[request.param]
    whole = tiny.build()
    folder = tmp_path_factory.mktemp(request.param)
    whole.save_pretrained(folder)
    towers, language = (_read(tiny, folder, part) for part in (Part.TOWERS, Part.LANGUAGE))
    return tiny, whole, towers, language


def _read(tiny: TinyFamily, folder: Any, part: Part) -> Any:
    model_class = having(part, getattr(hf, tiny.model_class))
    model = model_class.from_pretrained(folder, dtype=torch.float64).eval()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    model.generation_config.eos_token_id = None
    if part is Part.TOWERS:
        for name in tiny.float32_parts:
            getattr(model.base_model, name).float()
    return model


def encoded(towers: Any, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts with encoder outputs in place of media, as the encode stage makes them."""
    family, memory = Family(towers), MediaMemory(1 << 40)
    runner = TowerRunner(family, Uploads(towers.device), None)
    loop = EncoderLoop(runner, memory, RecordingSink(), max_waiting=99, target_backlog_s=1.0, step_values=1)
    works: list[EncodeWork] = []
    for prompt in prompts:
        tensors = {name: torch.from_numpy(array) for name, array in prompt.tensors.items()}
        kinds = family.kinds_in(tensors)
        items = [i for kind in kinds for i in items_of(family, kind, tensors, norm=None, media=(), salt="")]
        works.append(loop.submit(items, Deadline(60.0, "encode")))
    while loop.busy:
        loop.step()
    assert all(work.done.result() is None for work in works)
    pixels = ("pixel_", "input_features")
    rest = [{n: a for n, a in p.tensors.items() if not n.startswith(pixels) or "mask" in n} for p in prompts]
    return [
        Prompt(prompt.token_ids, tensors | arrays_of(work.outputs), prompt.use_audio_in_video)
        for prompt, tensors, work in zip(prompts, rest, works, strict=True)
    ]


def test_each_part_holds_what_the_other_does_not(whole_and_parts):
    _, whole, *parts = whole_and_parts  # as they were read: an engine swaps modules
    names = [dict(part.named_parameters()).keys() for part in parts]
    shared = {name for name, _ in whole.base_model.named_parameters(prefix="model", recurse=False)}
    assert names[0] & names[1] == shared
    assert names[0] | names[1] == dict(whole.named_parameters()).keys()
    weights = dict(whole.named_parameters())
    for part in parts:
        assert any(isinstance(module, Absent) for module in part.modules())
        assert all(torch.equal(weight, weights[name]) for name, weight in part.named_parameters())


def test_language_model_answers_with_the_towers_outputs_as_the_whole_model_does(whole_and_parts):
    tiny, whole, towers, language = whole_and_parts
    rng = np.random.default_rng(1)
    kinds = list(tiny.media)
    combinations = [*([kind, kind] for kind in kinds), *([kinds] if tiny.mixable and len(kinds) > 1 else [])]
    combinations += [["sounding"]] if tiny.sounding else []
    prompts = [tiny.prompt(rng, combination) for combination in combinations]
    stepped = SteppedEngine(language, prefill_chunk_tokens=7, max_running=4)
    listeners = [stepped.submit(prompt, greedy())[1] for prompt in encoded(towers, prompts)]
    stepped.run()
    assert [listener.error for listener in listeners] == [None] * len(prompts)
    assert [listener.ids() for listener in listeners] == [generate(whole, prompt) for prompt in prompts]


def test_text_model_has_no_towers_to_load_apart(tmp_path):
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(InternalError, match="no towers"):
        having(Part.TOWERS, LlamaForCausalLM).from_pretrained(tmp_path)
