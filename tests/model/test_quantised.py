"""Checkpoints with packed weights answer as transformers does, and what lacks its package says so."""

import json

import pytest
import torch

from deployments.config import AppConfig
from deployments.errors import InternalError
from deployments.model.weights import load_model
from tests.model.conftest import SteppedEngine, generate, greedy
from tests.support import quantised
from tests.support.tiny_families import FAMILIES

CPU = torch.device("cpu")
FORMATS = {
    "compressed_tensors": quantised.compressed_tensors,
    "torchao": quantised.torchao_int8,
    "bitsandbytes": quantised.bitsandbytes_nf4,
    "accelerate": quantised.fp8_blocks,
}
"""By the package that it takes."""


@pytest.mark.parametrize("package", FORMATS)
def test_packed_weights_answer_as_transformers_does(package, tmp_path, rng):
    pytest.importorskip(package)
    if package != "compressed_tensors":
        pytest.importorskip("accelerate")  # to be written, here
    family = FAMILIES["qwen3_vl"]
    FORMATS[package](family.build(dtype=torch.float32), tmp_path)
    model = load_model(AppConfig(model=str(tmp_path)), CPU)
    prompts = [family.prompt(rng, kinds) for kinds in ([], ["image"])]
    model.generation_config.eos_token_id = None
    wanted = [generate(model, prompt) for prompt in prompts]
    stepped = SteppedEngine(model)
    listeners = [stepped.submit(prompt, greedy())[1] for prompt in prompts]
    stepped.run()
    assert [listener.ids() for listener in listeners] == wanted


def test_format_whose_package_is_missing_ends_the_start_with_its_name(tmp_path):
    FAMILIES["llava"].build(dtype=torch.float32).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InternalError, match="awq"):
        load_model(AppConfig(model=str(tmp_path)), CPU)
