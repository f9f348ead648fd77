"""A model that the engine would answer wrongly for is refused at start, by name and with the reason."""

from dataclasses import replace

import pytest

from deployments.config import EngineConfig
from deployments.errors import InternalError
from deployments.model.families.family import Family
from deployments.model.forward.decode_step import DecodeStep
from deployments.model.forward.encoder import Encoder
from deployments.model.forward.joint_pass import JointPass
from deployments.model.forward.runner import ModelRunner
from deployments.model.forward.self_check import check_joint, check_text
from deployments.model.kv_cache.cache import SlotCache
from deployments.model.loading import allocate_cache, build_engine
from deployments.model.multimodal.uploads import Uploads
from deployments.observability.metrics import RecordingSink
from tests.support.tiny_families import FAMILIES


def test_model_whose_masks_are_not_understood_is_refused(qwen3_vl):
    class Blind(SlotCache):
        def decode_masks(self, span, dtype):
            return {"full_attention": None}

    family = Family(qwen3_vl)
    slots = allocate_cache(family, EngineConfig(kv_cache_gib=0.02))
    check_text(_runner(family, slots))
    with pytest.raises(InternalError, match="qwen3_vl"):
        check_text(_runner(family, Blind(slots.layers, slots.num_slots, slots.max_length)))


@pytest.mark.parametrize("name", ["llava", "qwen2_5_omni", "qwen3_vl_moe"])
def test_prompts_and_answers_share_a_pass_where_every_layer_keeps_every_position(name):
    engine = build_engine(FAMILIES[name].build(), EngineConfig(kv_cache_gib=0.02), RecordingSink())
    assert engine._runner.joint


@pytest.mark.parametrize("name", ["gemma3", "qwen3_5"])
def test_windows_states_and_pictures_seen_both_ways_have_passes_of_their_own(name):
    engine = build_engine(FAMILIES[name].build(), EngineConfig(kv_cache_gib=0.02), RecordingSink())
    assert not engine._runner.joint


def test_family_whose_layers_do_not_hear_of_the_pieces_has_passes_of_its_own(qwen3_vl):
    class Deaf(JointPass):
        def _span(self, chunks, step):
            return replace(super()._span(chunks, step), masks=(None,) * len(chunks))

    family = Family(qwen3_vl)
    runner = _runner(family, allocate_cache(family, EngineConfig(kv_cache_gib=0.02)))
    runner.joint_pass = Deaf(family, runner.cache, Uploads(runner.device))
    check_joint(runner)
    assert not runner.joint


def _runner(family, cache):
    uploads = Uploads(family.model.device)
    encoder = Encoder(family, uploads, None, RecordingSink())
    return ModelRunner(family, cache, encoder, uploads, DecodeStep(family, cache, uploads))


def test_refused_families_say_why(qwen3_vl):
    model = FAMILIES["llava"].build()
    model.config.model_type = "paligemma"
    with pytest.raises(InternalError, match=r"paligemma.*attends both ways"):
        Family(model)


def test_steps_that_can_not_be_replayed_are_refused():
    config = EngineConfig(kv_cache_gib=0.02, decode_graphs=True)
    with pytest.raises(InternalError, match=r"decode_graphs.*qwen3_5"):
        build_engine(FAMILIES["qwen3_5"].build(), config, RecordingSink())


def test_cache_without_room_for_one_sequence_is_refused(qwen3_vl):
    with pytest.raises(InternalError, match="do not hold a single sequence"):
        build_engine(qwen3_vl, EngineConfig(kv_cache_gib=1e-9), RecordingSink())


def test_context_follows_the_budget(qwen3_vl):
    engine = build_engine(qwen3_vl, EngineConfig(kv_cache_gib=0.001, max_running=4), RecordingSink())
    cache = engine._runner.cache
    assert cache.nbytes <= 0.001 * 2**30
    assert cache.num_slots * cache.max_length > 0
