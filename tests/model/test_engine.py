"""What the engine promises beyond right answers: limits, memory, aborts, and errors that stay with their request."""

import threading

import numpy as np
import pytest
import torch

from deployments.core.deadline import Deadline
from deployments.errors import (
    BadRequest,
    ContextTooLong,
    InternalError,
    Overloaded,
    ReplicaLost,
    StageTimeout,
    TooLarge,
    WorkCancelled,
)
from deployments.model.families.family import Family
from deployments.model.sequence import EngineRequest
from deployments.types import PixelNorm, SamplingParams
from tests.model.conftest import FailingPass, RecordingListener, SteppedEngine, generate, greedy
from tests.support.tiny_configs import IMAGE
from tests.support.tiny_families import FAMILIES, Prompt

QWEN3 = FAMILIES["qwen3_vl"]


def _text(length, seed=0):
    return Prompt(np.random.default_rng(seed).integers(10, 140, size=length).astype(np.int32), {})


def test_aborted_request_frees_its_slot_by_the_next_step(qwen3_vl, rng):
    stepped = SteppedEngine(qwen3_vl)
    sequence, listener = stepped.submit(QWEN3.prompt(rng, ["image"]), greedy(50))
    stepped.step(3)
    assert stepped.state.running == 1
    stepped.engine.abort(sequence)
    stepped.step()
    assert stepped.state.running == 0
    assert isinstance(listener.error, WorkCancelled)


def test_expired_request_is_stopped_naming_the_stage(qwen3_vl):
    stepped = SteppedEngine(qwen3_vl)
    _, listener = stepped.submit(_text(5), greedy(50), deadline=Deadline(0.0, "model"))
    stepped.step()
    assert isinstance(listener.error, StageTimeout)
    assert listener.error.stage == "model"


def test_decoding_requests_hold_no_multimodal_bytes(qwen3_vl, rng):
    stepped = SteppedEngine(qwen3_vl, prefill_chunk_tokens=64)
    for _ in range(3):
        stepped.submit(QWEN3.prompt(rng, ["video", "image"]), greedy(30))
    held = []
    for _ in range(4):
        stepped.step()
        held.append(stepped.state.media_device_bytes)
    state = stepped.state
    assert max(held) > 0
    assert state.running == 3
    assert (state.media_host_bytes, state.media_device_bytes, state.media_reserved_bytes) == (0, 0, 0)


def test_encoder_outputs_live_until_their_last_chunk(qwen3_vl, rng):
    prompt = QWEN3.prompt(rng, ["image", "video"])
    stepped = SteppedEngine(qwen3_vl, prefill_chunk_tokens=4)
    stepped.submit(prompt, greedy(4))
    seen = []
    while stepped.engine.busy:
        stepped.step()
        seen.append(stepped.state.media_device_bytes)
    assert max(seen) > 0
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == 0


def test_requests_wait_for_the_encoder_budget(qwen3_vl, rng):
    prompts = [QWEN3.prompt(rng, ["video"]) for _ in range(4)]
    family = Family(qwen3_vl)
    need = [family.device_bytes(torch.tensor(p.token_ids), p.tensors) for p in prompts]
    stepped = SteppedEngine(qwen3_vl, encoder_budget_mib=max(need) / 2**20)
    listeners = [stepped.submit(prompt, greedy(4))[1] for prompt in prompts]
    while stepped.engine.busy:
        stepped.step()
        assert stepped.state.media_reserved_bytes <= max(need)
    assert [listener.ids() for listener in listeners] == [generate(qwen3_vl, prompt, 4) for prompt in prompts]


def test_media_beyond_the_whole_budget_are_refused_with_the_limit(qwen3_vl, rng):
    stepped = SteppedEngine(qwen3_vl, encoder_budget_mib=1e-4)
    with pytest.raises(TooLarge, match="0 MiB are allowed"):
        stepped.submit(QWEN3.prompt(rng, ["video"]), greedy())


def test_prompt_beyond_the_context_is_refused_with_the_limit(qwen3_vl):
    stepped = SteppedEngine(qwen3_vl, max_context_tokens=32)
    with pytest.raises(ContextTooLong, match="at most 32"):
        stepped.submit(_text(30), greedy(3))
    _, listener = stepped.submit(_text(30), SamplingParams(temperature=0.0))
    stepped.run()
    assert len(listener.ids()) == 2
    assert listener.finish[0] == "length"


def test_more_waiting_requests_than_allowed_are_refused(qwen3_vl):
    stepped = SteppedEngine(qwen3_vl, max_waiting=2)
    for _ in range(2):
        stepped.submit(_text(4), greedy())
    with pytest.raises(Overloaded) as refused:
        stepped.submit(_text(4), greedy())
    assert refused.value.retry_after_s > 0


def test_requests_without_a_first_token_are_counted_wherever_they_are(qwen3_vl):
    stepped = SteppedEngine(qwen3_vl, max_running=2, prefill_chunk_tokens=16)
    stepped.submit(_text(8), greedy(50))
    assert stepped.engine.awaiting == 1  # sent, and not seen by the engine's thread yet
    stepped.step()
    assert stepped.engine.awaiting == 0
    stepped.submit(_text(100), greedy(50))
    stepped.submit(_text(8), greedy(50))
    stepped.step()
    assert stepped.engine.awaiting == 2  # one is being prefilled, one has no slot
    stepped.run()
    assert stepped.engine.awaiting == 0


def test_more_requests_than_slots_all_finish(qwen3_vl):
    stepped = SteppedEngine(qwen3_vl, max_running=2)
    prompts = [_text(3 + n, seed=n) for n in range(7)]
    listeners = [stepped.submit(prompt, greedy(3 + n))[1] for n, prompt in enumerate(prompts)]
    stepped.run()
    assert [listener.ids() for listener in listeners] == [generate(qwen3_vl, p, 3 + n) for n, p in enumerate(prompts)]


def test_wrong_grid_fails_its_request_alone(qwen3_vl, rng):
    good, bad = QWEN3.prompt(rng, ["image"]), QWEN3.prompt(rng, ["image"])
    bad.tensors["image_grid_thw"] = bad.tensors["image_grid_thw"] * 2
    stepped = SteppedEngine(qwen3_vl)
    listeners = [stepped.submit(prompt, greedy())[1] for prompt in (good, bad, good)]
    stepped.run()
    assert isinstance(listeners[1].error, BadRequest | InternalError)
    assert listeners[0].ids() == listeners[2].ids() == generate(qwen3_vl, good)


def test_token_beyond_the_vocabulary_fails_its_request_alone(qwen3_vl):
    good, bad = _text(9), _text(9)
    bad.token_ids[4] = 1_000_000
    stepped = SteppedEngine(qwen3_vl)
    running = stepped.submit(good, greedy())[1]
    stepped.step(2)
    listeners = [stepped.submit(prompt, greedy())[1] for prompt in (bad, good)]
    stepped.run()
    assert isinstance(listeners[0].error, InternalError)
    assert running.ids() == listeners[1].ids() == generate(qwen3_vl, good)


def test_answer_that_spells_a_placeholder_takes_no_one_elses_picture(qwen3_vl, rng):
    picture = QWEN3.prompt(rng, ["image"])
    stepped = SteppedEngine(qwen3_vl, creeping=True)
    spelling = stepped.submit(_text(9), greedy(60, logit_bias=((IMAGE, 1e4),)))[1]
    stepped.step(3)
    listener = stepped.submit(picture, greedy())[1]
    stepped.run()
    assert set(spelling.ids()) == {IMAGE}
    assert listener.ids() == generate(qwen3_vl, picture)


def test_modality_that_the_model_does_not_take_is_refused(qwen3_vl):
    stepped = SteppedEngine(qwen3_vl)
    with pytest.raises(BadRequest, match="audio"):
        stepped.submit(Prompt(_text(4).token_ids, {"input_features": np.zeros((1, 16, 8), np.float32)}), greedy())


def test_output_that_is_not_a_number_fails_its_request_alone(qwen3_vl, rng):
    poisoned, good = QWEN3.prompt(rng, ["image"]), QWEN3.prompt(rng, ["image"])
    poisoned.tensors["pixel_values"][:] = np.nan
    stepped = SteppedEngine(qwen3_vl)
    bad_ear, good_ear = (stepped.submit(prompt, greedy())[1] for prompt in (poisoned, good))
    stepped.run()
    assert isinstance(bad_ear.error, InternalError)
    assert good_ear.ids() == generate(qwen3_vl, good)


def test_n_answers_share_one_prefill_and_differ_by_seed(qwen3_vl, rng):
    prompt = QWEN3.prompt(rng, ["image"])
    stepped = SteppedEngine(qwen3_vl)
    _, listener = stepped.submit(prompt, SamplingParams(max_tokens=8, n=4, seed=3, temperature=1.5))
    stepped.step()
    assert sum(len(listener.ids(choice)) for choice in range(4)) == 4  # from the prefill, one token each
    stepped.run()
    assert len({tuple(listener.ids(choice)) for choice in range(4)}) > 1
    assert all(len(listener.ids(choice)) == 8 for choice in range(4))


def test_stop_ids_end_an_answer_unless_too_short(qwen3_vl):
    prompt = _text(6)
    ids = generate(qwen3_vl, prompt, 12)
    stepped = SteppedEngine(qwen3_vl)
    _, plain = stepped.submit(prompt, greedy(12), stop_ids=frozenset({ids[2]}))
    _, longer = stepped.submit(prompt, greedy(12, min_tokens=6), stop_ids=frozenset({ids[2]}))
    stepped.run()
    assert plain.ids() == ids[: ids.index(ids[2]) + 1]
    assert plain.finish[0] == "stop"
    assert len(longer.ids()) >= 6
    assert ids[2] not in longer.ids()[:6]


def test_uint8_pixels_are_normalised_like_floats(qwen3_vl, rng):
    norm = PixelNorm(1 / 255, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "flat_channel_major")
    raw = QWEN3.prompt(rng, ["image"])
    pixels = rng.integers(0, 256, size=raw.tensors["pixel_values"].shape).astype(np.uint8)
    channels = pixels.reshape(len(pixels), 3, -1) / 255.0
    floats = (channels - np.array(norm.mean)[None, :, None]) / np.array(norm.std)[None, :, None]
    prompts = [
        Prompt(raw.token_ids, {**raw.tensors, "pixel_values": p})
        for p in (pixels, floats.reshape(pixels.shape).astype(np.float32))
    ]
    stepped = SteppedEngine(qwen3_vl)
    listeners = [stepped.submit(prompt, greedy(), pixel_norm=norm)[1] for prompt in prompts]
    stepped.run()
    assert listeners[0].ids() == listeners[1].ids()


def test_threaded_engine_answers_and_drains_at_close(qwen3_vl):
    stepped = SteppedEngine(qwen3_vl)
    heard = threading.Event()

    class Waiting(RecordingListener):
        def on_end(self, timing):
            super().on_end(timing)
            heard.set()

    stepped.engine.start()
    stepped.engine.check_health()
    listener = Waiting()
    prompt = _text(5)
    stepped.engine.submit(EngineRequest(prompt.token_ids, greedy(20), Deadline(60.0, "model")), {}, listener)
    stepped.engine.close(grace_s=30.0)
    assert heard.is_set()
    assert listener.ids() == generate(qwen3_vl, prompt, 20)


@pytest.mark.parametrize("when", ["on_token", "on_end"])
def test_listener_that_raises_ends_its_request_alone(qwen3_vl, when):
    class Raising(RecordingListener):
        def on_token(self, choice, token, finish):
            super().on_token(choice, token, finish)
            if when == "on_token" and len(self.ids()) == 2:
                raise RuntimeError("a listener that breaks its promise in the middle of a batch")

        def on_end(self, timing):
            super().on_end(timing)
            if when == "on_end":
                raise RuntimeError("a listener that breaks its promise at the end")

    stepped = SteppedEngine(qwen3_vl)
    good = stepped.submit(_text(6), greedy())[1]
    bad = Raising()
    stepped.engine.submit(EngineRequest(_text(4).token_ids, greedy(), Deadline(60.0, "model")), {}, bad)
    stepped.run()
    assert good.ids() == generate(qwen3_vl, _text(6))
    assert len(bad.ids()) == (2 if when == "on_token" else 8)
    assert stepped.state.pages_used == 0


def test_grammar_that_fails_ends_its_request_alone(qwen3_vl):
    class Broken:
        def allow(self, mask_V):
            raise RuntimeError("a grammar at its end")

        def accept(self, token_id):
            raise AssertionError("nothing was chosen")

    stepped = SteppedEngine(qwen3_vl)
    bad = stepped.submit(_text(4), greedy(), new_constraint=Broken)[1]
    good = stepped.submit(_text(6), greedy())[1]
    stepped.run()
    assert isinstance(bad.error, InternalError)
    assert good.ids() == generate(qwen3_vl, _text(6))


def test_pass_that_fails_for_one_prompt_is_repeated_without_it(qwen3_vl, rng, device):
    """Also where recurrent layers have moved on before it failed."""
    for name in ("qwen3_vl", "qwen3_5"):
        model = qwen3_vl if name == "qwen3_vl" else FAMILIES[name].build(device=device)
        stepped = SteppedEngine(model)
        good = [stepped.submit(_text(5 + n, n), greedy())[1] for n in range(2)]
        stepped.step(3)
        bad = stepped.submit(_text(30, 9), greedy())[1]
        with FailingPass(model, lambda inputs: inputs["input_ids"].shape[1] >= 30):
            stepped.step()
        stepped.run()
        assert isinstance(bad.error, InternalError)
        assert [listener.ids() for listener in good] == [generate(model, _text(5 + n, n)) for n in range(2)]


def test_out_of_memory_ends_the_youngest_answer_alone(qwen3_vl):
    stepped = SteppedEngine(qwen3_vl)
    listeners = [stepped.submit(_text(5 + n, n), greedy())[1] for n in range(3)]
    stepped.step(2)
    with FailingPass(qwen3_vl, lambda inputs: inputs["input_ids"].shape[1] >= 3, torch.OutOfMemoryError):
        stepped.step()
    stepped.run()
    assert isinstance(listeners[2].error, InternalError)
    assert "memory" in str(listeners[2].error)
    assert [listener.ids() for listener in listeners[:2]] == [generate(qwen3_vl, _text(5 + n, n)) for n in range(2)]


def test_lost_device_is_unhealthy_at_once_and_tells_its_requests(qwen3_vl):
    stepped = SteppedEngine(qwen3_vl)
    failed = threading.Event()

    class Waiting(RecordingListener):
        def on_error(self, error):
            super().on_error(error)
            failed.set()

    threading.excepthook, hook = (lambda args: None), threading.excepthook
    try:
        with FailingPass(qwen3_vl, lambda inputs: True, lambda _: RuntimeError("device-side assert triggered")):
            request = EngineRequest(_text(4).token_ids, greedy(), Deadline(60.0, "model"))
            stepped.engine.submit(request, {}, Waiting())
            stepped.engine.start()
            assert failed.wait(30)
        with pytest.raises(ReplicaLost):
            stepped.engine.check_health()
    finally:
        threading.excepthook = hook
