"""What the engine's tests share: a listener that remembers, and transformers' own answer to compare with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pytest
import torch

from deployments.config import EngineConfig
from deployments.core.deadline import Deadline
from deployments.errors import SluiceError
from deployments.model.engine.engine import Engine
from deployments.model.engine.metrics import Snapshot
from deployments.model.engine.step_budget import Allowance, Portion, StepBudget, StepCost
from deployments.model.loading import build_engine
from deployments.model.multimodal.arrivals import Arrivals
from deployments.model.parallel.leader import Leader
from deployments.model.sequence import EngineRequest, Sequence, Timing, Token
from deployments.observability.metrics import RecordingSink
from deployments.types import FinishReason, SamplingParams
from tests.support.tiny_configs import AUDIO, IMAGE, VIDEO
from tests.support.tiny_families import FAMILIES, Prompt


@dataclass
class RecordingListener:
    """A listener that keeps what it hears."""

    tokens: dict[int, list[Token]] = field(default_factory=dict)
    finish: dict[int, FinishReason | None] = field(default_factory=dict)
    timing: Timing | None = None
    error: SluiceError | None = None

    def on_token(self, choice: int, token: Token, finish: FinishReason | None) -> None:
        self.tokens.setdefault(choice, []).append(token)
        self.finish[choice] = finish

    def on_end(self, timing: Timing) -> None:
        self.timing = timing

    def on_error(self, error: SluiceError) -> None:
        self.error = error

    def ids(self, choice: int = 0) -> list[int]:
        return [token.token_id for token in self.tokens.get(choice, [])]


class CreepingBudget(StepBudget):
    """Beside running answers: one item at a time is encoded, three tokens are prefilled."""

    def chunk(self, context: int, pressure: float | None) -> Allowance:
        return super().chunk(context, pressure) if pressure is None else _allowed(3)

    def part(self, pressure: float | None) -> Allowance:
        return super().part(pressure) if pressure is None else _allowed(1)


def _allowed(size: int) -> Allowance:
    return Allowance(Portion(size, size, size, StepCost()), 1)


def engine_config(**config: Any) -> EngineConfig:
    """Settings of a small engine."""
    defaults: dict[str, Any] = {
        "kv_cache_gib": 0.02,
        "max_running": 6,
        "page_tokens": 8,
        "prefill_chunk_tokens": 512,
    }
    return EngineConfig(**{**defaults, **config})


class SteppedEngine:
    """An engine without its thread: the test says when it steps."""

    def __init__(self, model: Any, *, creeping: bool = False, leader: Leader | None = None, **config: Any) -> None:
        settings = engine_config(**config)
        budget = CreepingBudget(settings.prefill_chunk_tokens or 512, settings.target_itl_s) if creeping else None
        self.sink = RecordingSink()
        self.engine: Engine = build_engine(model, settings, self.sink, budget, leader)

    @property
    def state(self) -> Snapshot:
        return self.engine.snapshot()

    def submit(
        self, prompt: Prompt, params: SamplingParams, *, arrivals: Arrivals | None = None, **kwargs: Any
    ) -> tuple[Sequence, RecordingListener]:
        listener = RecordingListener()
        settings = {"deadline": Deadline(120.0, "model"), "use_audio_in_video": prompt.use_audio_in_video, **kwargs}
        request = EngineRequest(prompt.token_ids, params, **settings)
        return self.engine.submit(request, dict(prompt.tensors), listener, arrivals), listener

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.engine.step()

    def run(self) -> None:
        while self.engine.busy:
            self.engine.step()


class Counting:
    """Counts calls of a model's feature function."""

    def __init__(self, model: Any, name: str = "get_image_features") -> None:
        self.calls = 0
        self._function = getattr(model.base_model, name)
        self._model, self._name = model, name

    def __enter__(self) -> Self:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return self._function(*args, **kwargs)

        setattr(self._model.base_model, self._name, counted)
        return self

    def __exit__(self, *args: object) -> None:
        delattr(self._model.base_model, self._name)


class FailingPass:
    """While open, forwards whose arguments `when` says yes to fail, after their layers have run."""

    def __init__(
        self,
        model: Any,
        when: Callable[[dict[str, Any]], bool],
        error: Callable[[str], Exception] = RuntimeError,
    ) -> None:
        self._model, self._when, self._error = model, when, error

    def __enter__(self) -> Self:
        def fail(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            if self._when(kwargs):
                raise self._error("a pass that fails")

        self._hook = self._model.register_forward_hook(fail, with_kwargs=True)
        return self

    def __exit__(self, *args: object) -> None:
        self._hook.remove()


def greedy(max_tokens: int = 8, **kwargs: Any) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, **kwargs)


def generate(model: Any, prompt: Prompt, max_tokens: int = 8, **kwargs: Any) -> list[int]:
    """The new tokens of `model.generate`, greedy unless told otherwise."""
    ids, inputs = _inputs(model, prompt)
    settings = {"do_sample": False, "max_new_tokens": max_tokens, **kwargs}
    with torch.inference_mode():
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs, **settings)
    return [int(i) for i in out[0, ids.shape[1] :]]


def plain_logits(model: Any, prompt: Prompt, answer: list[int]) -> torch.Tensor:
    """Logits [T, V] of one forward over prompt and answer, at the places from which the answer's tokens follow."""
    whole = Prompt(np.append(prompt.token_ids, answer).astype(np.int32), prompt.tensors, prompt.use_audio_in_video)
    ids, inputs = _inputs(model, whole)
    with torch.inference_mode():
        logits_TV = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits[0].float()
    return logits_TV[len(prompt.token_ids) - 1 : -1].cpu().clone()


def _inputs(model: Any, prompt: Prompt) -> tuple[torch.Tensor, dict[str, Any]]:
    """Token ids [1, T] and the family's other arguments of forward and `generate`."""
    family = model.config.model_type
    ids = torch.tensor(np.asarray(prompt.token_ids, dtype=np.int64))[None]
    inputs: dict[str, Any] = {name: torch.tensor(array) for name, array in prompt.tensors.items()}
    inputs = {name: t.to(model.dtype) if t.is_floating_point() else t for name, t in inputs.items()}
    if inputs:
        types = torch.zeros_like(ids)
        video = IMAGE if family.startswith("glm") and "pixel_values_videos" in inputs else VIDEO
        for number, token_id in ((1, IMAGE), (2, video), (3, AUDIO)):
            types[ids == token_id] = number
        if family == "gemma3":
            inputs["token_type_ids"] = types
        elif family.startswith(("qwen", "glm", "gemma4")) and "omni" not in family:
            inputs["mm_token_type_ids"] = types
    if prompt.use_audio_in_video:
        inputs["use_audio_in_video"] = True
    return ids.to(model.device), {name: x.to(model.device) if torch.is_tensor(x) else x for name, x in inputs.items()}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """Where models run: `pytest tests/model --device cuda` takes what is promised to a card."""
    wanted: str = pytestconfig.getoption("--device")
    if wanted not in ("cpu", "cuda"):
        raise pytest.UsageError(f"--device is cpu or cuda, not {wanted}")
    if wanted == "cuda" and not torch.cuda.is_available():
        pytest.skip("--device cuda: torch sees no card here")
    return torch.device(wanted)


@pytest.fixture(scope="session")
def qwen3_vl(device: torch.device) -> Any:
    return FAMILIES["qwen3_vl"].build(device=device)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
