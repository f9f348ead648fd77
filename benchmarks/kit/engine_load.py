"""What the engine's benchmarks put into an engine, and how they watch it."""

import itertools
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.core.deadline import Deadline
from deployments.errors import SluiceError, WorkCancelled
from deployments.model.engine.engine import Engine
from deployments.model.sequence import EngineRequest, Sequence, Timing, Token
from deployments.types import FinishReason, PixelNorm, SamplingParams


class Clock:
    """A listener that notes each token, and when it came."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.instants: list[float] = []
        self.token_ids: list[int] = []
        self.sequence: Sequence | None = None

    @property
    def ttft_s(self) -> float:
        return self.instants[0] - self.began

    def on_token(self, choice: int, token: Token, finish: FinishReason | None) -> None:
        self.instants.append(time.perf_counter())
        self.token_ids.append(token.token_id)

    def on_end(self, timing: Timing) -> None: ...

    def on_error(self, error: SluiceError) -> None:
        if not isinstance(error, WorkCancelled):
            raise error

    def gaps_ms(self, start: float, end: float) -> list[float]:
        """Times between two tokens, the later of which came inside a window."""
        return [1e3 * (b - a) for a, b in itertools.pairwise(self.instants) if start <= b <= end]


Prompt = tuple[NDArray[np.int32], dict[str, NDArray[Any]]]
"""Token ids, and the processor's tensors by name."""


def text_prompt(rng: np.random.Generator, tokens: int) -> Prompt:
    return rng.integers(20, 250, size=tokens).astype(np.int32), {}


def clip_prompt(config: Any, rng: np.random.Generator, grid: tuple[int, int, int]) -> Prompt:
    """A prompt of twelve text tokens and one clip of `grid` (time, height, width) patches, for the built-in model."""
    t, h, w = grid
    places = [config.video_token_id] * (t * h * w // 4)
    text = rng.integers(20, 250, size=12).tolist()
    ids = [*text[:4], config.vision_start_token_id, *places, config.vision_end_token_id, *text[4:]]
    tensors = {
        "pixel_values_videos": rng.normal(size=(t * h * w, 3 * 2 * 14 * 14)).astype(np.float32),
        "video_grid_thw": np.array([grid], dtype=np.int64),
        "video_second_per_grid": np.array([1.0], dtype=np.float32),
    }
    return np.array(ids, dtype=np.int32), tensors


def submit(engine: Engine, prompt: Prompt, answer_tokens: int, pixel_norm: PixelNorm | None = None) -> Clock:
    """Ask for an answer of so many tokens, greedily."""
    clock = Clock()
    ids, tensors = prompt
    params = SamplingParams(max_tokens=answer_tokens, temperature=0.0)
    request = EngineRequest(ids, params, Deadline(3600.0, "model"), pixel_norm=pixel_norm)
    clock.sequence = engine.submit(request, dict(tensors), clock)
    return clock
