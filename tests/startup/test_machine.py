"""What the machine lacks is said before anything is loaded."""

from typing import Any

import pytest

from deployments.config import AppConfig, EngineConfig
from deployments.startup.machine import check_cache, check_machine, check_memory, kv_token_bytes
from deployments.startup.model_files import ModelFiles
from deployments.startup.settings import WrongSetting

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64}
FILES = ModelFiles({"model_type": "x", "dtype": "bfloat16", "text_config": SIZES}, 1000, 2000)


def test_weights_larger_than_the_memory_are_refused_in_the_precision_that_they_are_loaded_in() -> None:
    check_memory(AppConfig(), FILES, 4000, on_card=False)
    with pytest.raises(WrongSetting, match="as float32, and this machine has free"):
        check_memory(AppConfig(), FILES, 3999, on_card=False)
    check_memory(AppConfig(), FILES, 2000, on_card=True)
    with pytest.raises(WrongSetting, match="as bfloat16, and the GPU has"):
        check_memory(AppConfig(), FILES, 1999, on_card=True)
    check_memory(AppConfig(dtype="float16"), FILES, 2000, on_card=False)


def test_a_cache_for_a_few_tokens_is_refused() -> None:
    assert kv_token_bytes(FILES.config, 4) == 2 * 2 * 2 * 16 * 4
    enough = 64 * 512 / 2**30
    check_cache(AppConfig(engine=EngineConfig(kv_cache_gib=enough)), FILES, on_card=False)
    with pytest.raises(WrongSetting, match="hold 63 tokens of this model, 512 bytes each"):
        check_cache(AppConfig(engine=EngineConfig(kv_cache_gib=enough * 0.99)), FILES, on_card=False)


def test_a_model_that_does_not_tell_its_sizes_is_left_to_the_engine() -> None:
    unknown = ModelFiles({"model_type": "x"}, None, None)
    check_memory(AppConfig(), unknown, 0, on_card=False)
    check_cache(AppConfig(engine=EngineConfig(kv_cache_gib=1e-9)), unknown, on_card=False)


@pytest.mark.parametrize(
    ("model_config", "said"),
    [
        (FILES.config, r"args\.engine\.tensor_parallel: 4 ranks do not divide the model's num_key_value_heads of 2"),
        ({"thinker_config": FILES.config}, "num_key_value_heads of 2"),
        (FILES.config | {"quantization_config": {"quant_method": "fp8"}}, "the checkpoint is quantised"),
    ],
)
def test_a_model_that_its_ranks_do_not_divide_is_refused(model_config: dict[str, Any], said: str) -> None:
    config = AppConfig(engine=EngineConfig(tensor_parallel=4))
    with pytest.raises(WrongSetting, match=said):
        check_machine(config, ModelFiles(model_config, None, None), 0)


def test_each_rank_needs_room_for_its_part_alone() -> None:
    halves = EngineConfig(tensor_parallel=2, kv_cache_gib=32 * 512 / 2**30)
    config = AppConfig(device="cuda", engine=halves)
    check_memory(config, FILES, 1000, on_card=True)
    with pytest.raises(WrongSetting, match="the GPU has"):
        check_memory(config, FILES, 999, on_card=True)
    check_cache(AppConfig(engine=halves), FILES, on_card=False)
