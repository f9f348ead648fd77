"""Answers on their way from the model to the ingress.

Shape legend: T frames (or tokens, where a name says so), H height, W width, C channels; all pixels are RGB.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like."""

    kind: Literal["json_schema", "regex", "lark"]
    text: str
    """JSON text of a schema, `{}` for any JSON object; a regular expression; a grammar as llguidance reads them."""
    param: str = "response_format"
    """The request's field that asked for it, for errors."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens; validated at the ingress. Neutral values change nothing."""

    max_tokens: int | None = None
    """None: whatever the context has room for."""
    min_tokens: int = 0
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    """None: none; k: the chosen token's and the k most likely ones'."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: Grammar | None = None
    """What the answer must follow, thoughts before it left free."""
    bad_words: tuple[str, ...] = ()
    """Never to be written."""
    max_reasoning_tokens: int | None = None
    """Tokens of thoughts, after which they are ended; None: no limit of their own."""
    skip_special_tokens: bool = True
    visible_tokens: tuple[str, ...] = ()
    """Special tokens that are part of the text all the same."""
    return_token_ids: bool = False
    score_prompt: bool = False
    """The prompt's own tokens come first in the answer, with their log-probabilities, as if they were chosen."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token_id: int
    token: str
    """Half a character reads as U+FFFD; a special token as its name."""
    raw: bytes
    """The token's own bytes: those of an answer's tokens, put together, are its text in UTF-8."""
    logprob: float | None
    """Natural logarithm; None for a prompt's first token, which follows from nothing."""
    top: "tuple[TokenLogprob, ...]" = ()
    """The most likely ones, best first."""


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """New tokens of one choice since its last delta."""

    index: int
    """Which of the `n` choices."""
    text: str
    """Whole characters only; may be empty while a character or a possible stop string is incomplete."""
    num_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    """Set on the last delta of a choice."""
    num_reasoning_tokens: int = 0
    """How many of them are thoughts."""
    token_ids: tuple[int, ...] = ()
    """Where the request wants them."""
    stop_reason: str | int | None = None
    """The stop string or token of the request that ended the choice."""


@dataclass(frozen=True, slots=True)
class GenerateTimes:
    """Where a request's time went inside the model replica, in seconds."""

    queue_s: float
    encode_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class GenerateChunk:
    """What `Model.generate` yields, several times; the last one carries `times`."""

    deltas: tuple[TokenDelta, ...]
    times: GenerateTimes | None = None
    cached_tokens: int = 0
    """Of the prompt, in the last one: their keys and values were there already."""
    encoded: frozenset[str] = frozenset()
    """Labels of the items that a tower had to look at, in the last one."""
    media_s: float | None = None
    """From the call until all media had come that were promised; None where none were, or not all have come."""
