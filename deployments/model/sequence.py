"""What the engine is asked, what it answers, and what it remembers of each answer in the making.

Token ids and tensors only: no text, no HTTP, no Ray. Shape legend: T prompt tokens, V vocabulary.
"""

import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.core.deadline import Deadline
from deployments.errors import SluiceError
from deployments.model.kv_cache.pages import PageTable
from deployments.types import FinishReason, MediaMark, PixelNorm, SamplingParams

_numbers = itertools.count()


class TokenConstraint(Protocol):
    """Which tokens may come next, e.g. those of a grammar. One object a choice; not shared between choices."""

    def allow(self, mask_V: torch.Tensor) -> None:
        """Set `mask_V` (bool, on the CPU) to True where a token may come next."""
        ...

    def accept(self, token_id: int) -> None:
        """This token was chosen."""
        ...


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One prompt to be answered `params.n` times."""

    token_ids: NDArray[np.int32]
    """(T,), placeholders of media expanded."""
    params: SamplingParams
    deadline: Deadline
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end an answer: the model's own ones (unless `ignore_eos`) and the request's."""
    pixel_norm: PixelNorm | None = None
    use_audio_in_video: bool = False
    new_constraint: Callable[[], TokenConstraint] | None = None
    cache_salt: str = ""
    """Only prompts of equal salt share what is kept of their beginnings and of their media."""
    media: tuple[MediaMark, ...] = ()
    """Names of the media, as far as the preprocessor has any."""
    reuse: bool = True
    """Whether what is kept may be used, and this request's kept."""
    clips_absent: bool = False
    """Whether clips are only named; the request fails with `PixelsWanted` where one of them is not known."""


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. Logarithms are natural ones of the model's own distribution, before sampling settings."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """(token id, logprob), most likely first."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of a request inside the engine, by what it did, and how much of its prompt was there already."""

    queue_s: float
    encode_s: float
    prefill_s: float
    decode_s: float
    cached_tokens: int = 0
    encoded: frozenset[str] = frozenset()
    """Labels of the media that had to be encoded."""


class Listener(Protocol):
    """Who waits for an answer. Called from the engine's thread: must return at once and not raise."""

    def on_token(self, choice: int, token: Token, finish: FinishReason | None) -> None: ...

    def on_end(self, timing: Timing) -> None:
        """Every choice has finished."""
        ...

    def on_error(self, error: SluiceError) -> None:
        """The request failed or was stopped; nothing follows."""
        ...


class Phase(Enum):
    WAITING = auto()
    """For a place among those who run, for room in the KV cache and for room to encode."""
    ENCODE = auto()
    """Of its media; a prompt without any passes through."""
    PREFILL = auto()
    DECODE = auto()
    DONE = auto()


@dataclass(slots=True)
class Timestamps:
    """Monotonic instants of a request's life; those of encoding are equal where there is nothing to encode."""

    submitted: float = field(default_factory=time.monotonic)
    encoding: float = 0.0
    """Its turn has come: what it waited for before was memory and others' prompts."""
    encoded: float = 0.0
    first_token: float = 0.0


class Choice:
    """One of a request's `n` answers: its place in the KV cache, the tokens so far, and the state of its sampling."""

    __slots__ = ("constraint", "counts_V", "finish", "index", "num_pending", "seed", "table", "token_ids")

    def __init__(self, index: int, seed: int, constraint: TokenConstraint | None) -> None:
        self.index = index
        self.seed = seed
        self.constraint = constraint
        self.table: PageTable | None = None
        """Where its keys and values are; None before admission and after the end."""
        self.token_ids: list[int] = []
        self.num_pending = 0
        """Further tokens, chosen on the device, that the host does not know yet."""
        self.finish: FinishReason | None = None
        self.counts_V: torch.Tensor | None = None
        """How often each token was generated; kept only when a penalty needs it."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) + self.num_pending


class Sequence:
    """A request inside the engine. Owned by the engine's thread; only `abort` may be called from others."""

    def __init__(self, request: EngineRequest, listener: Listener, max_new_tokens: int) -> None:
        self.number = next(_numbers)
        self.request = request
        self.listener = listener
        self.max_new_tokens = max_new_tokens
        self.phase = Phase.WAITING
        self.num_prompt = len(request.token_ids)
        self.num_prefilled = 0
        self.num_cached = 0
        """Prompt tokens that had not to be computed: their keys and values were there."""
        self.encoded: set[str] = set()
        """Labels of the media that had to be encoded."""
        self.prompt_T = torch.from_numpy(np.asarray(request.token_ids, dtype=np.int64))
        self.positions: torch.Tensor | None = None
        """(axes, T) rotary positions of the prompt; None where they are 0, 1, 2, ..."""
        self.position_offsets: tuple[float, ...] = (0, 0, 0)
        """What to add to a generated token's place in the sequence to get its rotary position, by axis.

        Some families have fractions of positions where sound and pictures are interleaved in time.
        """
        self.stamps = Timestamps()
        base = request.params.seed if request.params.seed is not None else random.getrandbits(63)
        make = request.new_constraint
        self.choices = [Choice(i, base + i, make() if make else None) for i in range(request.params.n)]
        self.aborted = False

    @property
    def live_choices(self) -> list[Choice]:
        return [choice for choice in self.choices if choice.finish is None]

    def length(self, choice: Choice) -> int:
        """Tokens whose keys and values the cache holds, once the prefill is done: all but the last one chosen."""
        return self.num_prompt + choice.num_tokens - 1

    def goes_on(self, choice: Choice) -> bool:
        """Whether a choice has more tokens to come than those under way, as far as the host can know."""
        return choice.finish is None and choice.num_tokens < self.max_new_tokens

    def timing(self, now: float) -> Timing:
        stamps = self.stamps
        return Timing(
            queue_s=stamps.encoding - stamps.submitted,
            encode_s=stamps.encoded - stamps.encoding,
            prefill_s=stamps.first_token - stamps.encoded,
            decode_s=now - stamps.first_token,
            cached_tokens=self.num_cached,
            encoded=frozenset(self.encoded),
        )

    def abort(self) -> None:
        """Nobody waits for the answer any more: the engine frees what it holds before its next step."""
        self.aborted = True
