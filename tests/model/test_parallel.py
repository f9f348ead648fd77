"""A model divided among two ranks answers as it does whole; what one rank suffers, both end of."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from deployments.errors import InternalError, ReplicaLost, StageUnavailable
from deployments.model.engine.failures import is_fatal
from deployments.model.parallel.leader import Leader
from deployments.model.parallel.ranks import RankLost
from deployments.model.parallel.shards import JoinedLinear, SummedLinear, shard
from tests.model.conftest import SteppedEngine, engine_config, generate, greedy
from tests.support.second_rank import CPU, HOST, SecondRank
from tests.support.tiny_families import FAMILIES

DEEPSTACK, RECURRENT = "qwen3_vl", "qwen3_5"
MERGED_GATES, EXPERTS = "glm4v", "qwen3_vl_moe"
FEW = {DEEPSTACK, RECURRENT, MERGED_GATES, EXPERTS}
"""Of each kind of layer one, but for keys shared between layers (gemma4), which take longer than the rest together."""


@pytest.fixture(scope="module")
def second_rank(device):
    if device.type != "cpu":
        pytest.skip("two ranks on one card are refused by NCCL")
    rank = SecondRank()
    yield rank
    rank.kill()


@contextmanager
def divided(second_rank, family, model=None, *, timeout_s=60.0, ending="well", **config):
    """A stepped engine whose model is half here, half there; `model`: the whole of it, which is cut."""
    channel = second_rank.open(family, engine_config(**config))
    leader = Leader([channel], HOST, timeout_s=timeout_s)
    try:
        with leader.together():
            ranks = leader.meet(CPU)
            model = model or FAMILIES.get(family, FAMILIES[DEEPSTACK]).build()
            shard(model, ranks)
            leader.begin()
            stepped = SteppedEngine(model, leader=leader, **config)
        yield stepped, leader, model
    finally:
        leader.close()
        if ending is not None:
            assert second_rank.ending() == ending


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_halves_answer_as_the_whole(second_rank, family, pytestconfig):
    if family not in FEW and not pytestconfig.getoption("--all-families"):
        pytest.skip("with --all-families")
    tiny = FAMILIES[family]
    rng = np.random.default_rng(1)
    kinds = [*tiny.media] if tiny.mixable else [*tiny.media][:1]
    prompts = [tiny.prompt(rng, some) for some in ([], kinds, *([["sounding"]] if tiny.sounding else []))]
    model = tiny.build()
    wanted = [generate(model, prompt, 5) for prompt in prompts]
    with divided(second_rank, family, model, prefill_chunk_tokens=15) as (stepped, _, _model):
        assert any(isinstance(module, SummedLinear) for module in model.modules())
        assert isinstance(model.get_output_embeddings(), JoinedLinear)
        listeners = [stepped.submit(prompt, greedy(5))[1] for prompt in prompts]
        stepped.run()
    assert [listener.ids() for listener in listeners] == wanted


@pytest.mark.parametrize(("family", "kv_bytes"), [(DEEPSTACK, 28_000), (RECURRENT, 73_800)])
def test_halves_share_part_and_make_way_as_the_whole(second_rank, family, kv_bytes):
    """Prompts seen before, several answers of one prompt, and too few pages for all of them."""
    tiny = FAMILIES[family]
    rng = np.random.default_rng(2)
    prompts = [tiny.prompt(rng, kinds) for kinds in (["image"], [], ["image"], [])]
    small = {"kv_cache_gib": kv_bytes / 2**30, "page_tokens": 4, "max_running": 5}
    with divided(second_rank, family, **small) as (stepped, _, _model):
        pages = stepped.state.pages_free
        asked = [*prompts, prompts[0]]
        listeners = [stepped.submit(prompt, greedy(14, n=2))[1] for prompt in asked[:2]]
        doomed, _ = stepped.submit(prompts[2], greedy(14))
        while not stepped.state.preemptions:
            stepped.step()
        stepped.engine.abort(doomed)  # it came last and made way
        listeners += [stepped.submit(prompt, greedy(14, n=2))[1] for prompt in asked[2:]]
        stepped.run()
    whole = tiny.build()
    assert pages > 1.9 * SteppedEngine(whole, **small).state.pages_free  # each holds half of every page
    for prompt, listener in zip(asked, listeners, strict=True):
        assert listener.ids(0) == listener.ids(1) == generate(whole, prompt, 14)


def test_rank_holds_its_part_of_weights_and_keys(second_rank):
    whole = FAMILIES[DEEPSTACK].build()
    with divided(second_rank, DEEPSTACK) as (stepped, _, model):
        attention, mlp = (getattr(model.model.language_model.layers[0], name) for name in ("self_attn", "mlp"))
        plain = whole.model.language_model.layers[0]
        assert attention.o_proj.weight.numel() * 2 == plain.self_attn.o_proj.weight.numel()
        assert mlp.down.weight.numel() * 2 == plain.mlp.down_proj.weight.numel()
        assert model.lm_head.weight.numel() * 2 == whole.lm_head.weight.numel()
        assert stepped.engine._cache.layers.layers[0].keys.shape[0] == 1
        assert stepped.engine.description.startswith("on 2 x cpu, ")


def test_what_ends_one_rank_at_the_start_ends_all_with_its_reason(second_rank):
    said = "InternalError: there is no such model here"
    with (
        pytest.raises(RankLost, match=f"rank 1 is lost: {said}"),
        divided(second_rank, "none", ending=said),
    ):
        pass


def test_failed_pass_is_nothing_that_can_be_repeated(second_rank):
    tiny = FAMILIES[DEEPSTACK]
    prompt = tiny.prompt(np.random.default_rng(4), [])
    with divided(second_rank, DEEPSTACK, timeout_s=2.0, ending=None) as (stepped, _leader, model):
        hook = model.register_forward_pre_hook(_out_of_memory)
        stepped.submit(prompt, greedy())
        with pytest.raises(RankLost) as lost:
            stepped.run()
        hook.remove()
        assert is_fatal(lost.value)
    assert second_rank.ending() != "well"  # its half of the sums never came


def _out_of_memory(*_):
    raise torch.OutOfMemoryError


def test_hanging_rank_is_not_waited_for_without_end(second_rank):
    prompt = FAMILIES[DEEPSTACK].prompt(np.random.default_rng(4), [])
    with divided(second_rank, DEEPSTACK, timeout_s=1.0, ending=None) as (stepped, _, _model):
        stepped.submit(prompt, greedy())
        second_rank.freeze()
        try:
            with pytest.raises(RankLost):
                stepped.run()
        finally:
            second_rank.thaw()
    second_rank.ending()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the engine's, as it should
def test_dead_rank_ends_the_replica(second_rank):
    prompt = FAMILIES[DEEPSTACK].prompt(np.random.default_rng(4), [])
    with divided(second_rank, DEEPSTACK, ending=None) as (stepped, leader, _model):
        stepped.engine.start()
        _, listener = stepped.submit(prompt, greedy(400))
        leader.check_health()
        second_rank.kill()
        stepped.engine._thread.join()
        with pytest.raises(RankLost, match="rank 1 is lost: its process has ended"):
            leader.check_health()
        with pytest.raises(ReplicaLost, match="the engine has failed"):
            stepped.engine.check_health()
        assert isinstance(listener.error, StageUnavailable)
        assert listener.error.retry_after_s
        with pytest.raises(StageUnavailable, match="is being replaced"):
            stepped.submit(prompt, greedy())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_key_value_heads": 1}, "2 ranks do not divide the model's num_key_value_heads of 1"),
        ({"intermediate_size": 47}, "2 ranks do not divide the model's intermediate_size of 47"),
    ],
)
def test_sizes_that_ranks_do_not_divide_are_refused(changes, said):
    class Two:
        rank, size = 0, 2

    config = FAMILIES["llava"].config()
    for name, value in changes.items():
        setattr(config.text_config, name, value)
    model = type(FAMILIES["llava"].build())(config)
    with pytest.raises(InternalError, match=said):
        shard(model, Two())
