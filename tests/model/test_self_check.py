"""A model that the engine would answer wrongly for is refused at start, by name and with the reason."""

import pytest
from transformers import Gemma2Config, Gemma2ForCausalLM

from deployments.config import EngineConfig
from deployments.errors import InternalError
from deployments.model.families import known
from deployments.model.families.family import Family
from deployments.model.forward.attention import PiecewiseAttention
from deployments.model.forward.runner import ModelRunner
from deployments.model.forward.self_check import check_text
from deployments.model.forward.tower_runner import TowerRunner
from deployments.model.loading import allocate_cache, build_engine
from deployments.model.multimodal.uploads import Uploads
from deployments.observability.metrics import RecordingSink
from tests.model.conftest import engine_config
from tests.support.tiny_families import FAMILIES


def test_model_whose_attention_is_not_understood_is_refused(qwen3_vl):
    class Blind(PiecewiseAttention):
        """Sees a window where there is none."""

        def attend(self, query_HND, keys, values, batch, look):
            return super().attend(query_HND, keys, values, batch, look._replace(window=2))

    family = Family(qwen3_vl)
    cache = allocate_cache(family, EngineConfig(kv_cache_gib=0.02, page_tokens=4))
    check_text(_runner(family, cache, None))
    with pytest.raises(InternalError, match="qwen3_vl"):
        check_text(_runner(family, cache, Blind()))


def _runner(family, cache, backend):
    uploads = Uploads(family.model.device)
    encoder = TowerRunner(family, uploads, None)
    return ModelRunner(family, cache, encoder, uploads, backend)


def test_refused_families_say_why(qwen3_vl, device):
    model = FAMILIES["llava"].build(device=device)
    model.config.model_type = "paligemma"
    with pytest.raises(InternalError, match=r"paligemma.*attends both ways"):
        Family(model)


def test_attention_that_no_backend_computes_ends_the_start_in_a_sentence():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8, "vocab_size": 160}
    model = Gemma2ForCausalLM(Gemma2Config(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
    with pytest.raises(InternalError, match="a soft cap of its own are not served"):
        build_engine(model, engine_config(), RecordingSink())


def test_cache_without_room_for_one_sequence_is_refused(qwen3_vl):
    with pytest.raises(InternalError, match="do not hold a single sequence"):
        build_engine(qwen3_vl, EngineConfig(kv_cache_gib=1e-9), RecordingSink())


def test_context_follows_the_budget(qwen3_vl):
    cache = allocate_cache(Family(qwen3_vl), EngineConfig(kv_cache_gib=0.001, max_running=4))
    assert cache.nbytes <= 0.001 * 2**30
    assert 0 < cache.max_length <= cache.pool.num_pages * cache.page_size


def test_families_are_called_verified_that_are_verified_here() -> None:
    told = {name for name, entry in known.FAMILIES.items() if entry.verified}
    assert told == {family.build().config.model_type for family in FAMILIES.values()}
