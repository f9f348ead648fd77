"""The model stage without Ray: the engine, fed with requests, its tokens read as text."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer

from deployments.autoscaling import StageLoad
from deployments.config import AppConfig
from deployments.core.checkpoint import resolve_model
from deployments.core.deadline import Deadline
from deployments.errors import BadRequest, InternalError, SluiceError
from deployments.model.arriving import Arriving
from deployments.model.loading import load_engine
from deployments.model.multimodal.encoded import add_outputs
from deployments.model.multimodal.pixels import add_clips, name_clips
from deployments.model.output.assembler import Mailbox, OutputAssembler, gather_s, times
from deployments.model.output.vocabulary import Vocabulary
from deployments.model.parallel.leader import Leader
from deployments.model.sampling.constraints import AfterThoughts, Free, Given, NewConstraint, WithoutWords
from deployments.model.sampling.grammar import Grammars
from deployments.model.sequence import EngineRequest, Sequence, Token, TokenConstraint
from deployments.observability.metrics import MetricSink
from deployments.types import GenerateChunk, Prepared, SamplingParams, StageName, Thinking, TokenDelta

STAGE = StageName.MODEL
DRAIN_S = 15.0
"""Longest wait for running answers at shutdown; Ray kills the replica at its own limit."""


class ModelStage:
    """One engine, on one device or on several ranks' together."""

    def __init__(self, config: AppConfig, metrics: MetricSink, leader: Leader | None = None) -> None:
        """`leader`: of the further ranks among which the model is divided; closed by who made it."""
        self._interval_s = config.engine.stream_interval_s
        self._leader = leader
        loaded = load_engine(config, metrics, leader)
        self.engine = loaded.engine
        self._eos_ids = loaded.eos_ids
        self._vocab_size = loaded.vocab_size
        self._metrics = metrics
        tokenizer = AutoTokenizer.from_pretrained(resolve_model(config), **config.hub_options())
        self._vocabulary = Vocabulary(tokenizer)
        self._grammars = Grammars(tokenizer, loaded.vocab_size, loaded.eos_ids, config.engine)
        self.engine.start()

    async def generate(
        self,
        remaining_s: float,
        prepared: Prepared,
        params: SamplingParams,
        stream: bool,
        tensors: dict[str, NDArray[Any]],
        clips: tuple[dict[str, NDArray[Any]], ...],
        later: AsyncIterator[dict[str, NDArray[Any]]] | None = None,
    ) -> AsyncGenerator[GenerateChunk, None]:
        """The answer in chunks: with `stream` or log-probabilities the first token at once and later ones gathered,
        else one chunk in all.

        `tensors`: the processor's; `clips`: patches straight from the decoder, or encoder outputs of them, in the
        prompt's order; `later`: in their place the groups of one, as they come.
        Closing the generator stops the work. Raises `ContextTooLong`, `TooLarge`, `Overloaded`, `StageTimeout`,
        `BadRequest`, `InternalError`, what `later` raises, and `PixelsWanted` where clips that are only named are not
        known.
        """
        deadline = Deadline(remaining_s, STAGE)
        request = await self._request(prepared, params, deadline)
        params, prompt = request.params, prepared.token_ids
        mailbox = Mailbox(asyncio.get_running_loop())
        arriving: Arriving | None = None
        if later is not None:
            arriving = await Arriving.begin(tensors, later, deadline)
            if not self.engine.has_spare:
                await arriving.all(deadline)
        elif clips:
            await asyncio.to_thread(add_clips if "patches" in clips[0] else add_outputs, tensors, clips)
        elif prepared.named_clips:
            name_clips(tensors, prepared.named_clips)
        sequence = self._submit(request, tensors, mailbox, arriving)
        decode = self._vocabulary.decoder(
            skip_special_tokens=params.skip_special_tokens, visible=(*params.visible_tokens, *_marks(prepared))
        )
        answer = OutputAssembler(decode, params, self._vocabulary.piece, prepared.thinking)
        deltas: tuple[TokenDelta, ...] = ()
        if params.score_prompt:
            deltas = answer.deltas([(i, Token(int(prompt[0])), None) for i in range(params.n)])
        piecewise = stream or params.logprobs is not None  # which are too many to be worded all at once
        try:
            while not answer.finished:
                # Stop strings are found here, not in the engine: every token must be looked at when it comes.
                await mailbox.wait(for_end=not (piecewise or params.stop))
                deltas += answer.deltas(mailbox.take())
                if piecewise and deltas and not answer.finished:
                    yield GenerateChunk(deltas, media_s=_took_s(arriving))
                    deltas = ()
                    await mailbox.gather(gather_s(self._interval_s, self.engine.awaiting))
            timing = mailbox.timing or sequence.timing(time.monotonic())
            yield GenerateChunk(deltas, times(timing), timing.cached_tokens, timing.encoded, _took_s(arriving))
        finally:
            self.engine.abort(sequence)
            if arriving is not None:
                arriving.close()

    async def _request(self, prepared: Prepared, params: SamplingParams, deadline: Deadline) -> EngineRequest:
        """What the engine is asked. Raises `BadRequest`, `InternalError`."""
        _check_ids(prepared, params, self._vocab_size)
        stop_ids = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self._eos_ids)
        prompt = prepared.token_ids
        if params.score_prompt:
            params, stop_ids = _scored(params, prompt, stop_ids)
        return EngineRequest(
            token_ids=prompt[:1] if params.score_prompt else prompt,
            params=params,
            deadline=deadline,
            stop_ids=stop_ids,
            pixel_norm=prepared.pixel_norm,
            use_audio_in_video=prepared.use_audio_in_video,
            new_constraint=await self._constraint(prepared, params, deadline),
            cache_salt=prepared.cache_salt,
            media=prepared.media,
            reuse=prepared.reuse,
            clips_absent=bool(prepared.named_clips),
        )

    def _submit(
        self, request: EngineRequest, tensors: dict[str, NDArray[Any]], mailbox: Mailbox, arriving: Arriving | None
    ) -> Sequence:
        if arriving is None:
            return self.engine.submit(request, tensors, mailbox)
        sequence = self.engine.submit(request, tensors, mailbox, arriving.arrivals)

        def failed(error: SluiceError) -> None:
            if not sequence.stamps.first_token:  # else it turned out that they are not needed
                mailbox.on_error(error)

        if arriving.took_s is None:
            arriving.start(self.engine.wake, failed)
        return sequence

    async def _constraint(self, prepared: Prepared, params: SamplingParams, deadline: Deadline) -> NewConstraint | None:
        """What binds the answer's tokens, if anything. Raises `BadRequest` for a grammar that can't be followed."""
        new: NewConstraint | None = None
        if params.grammar is not None:
            new = await self._grammars.compile(params.grammar, deadline)
        thinking, most = prepared.thinking, params.max_reasoning_tokens
        if thinking is not None and (new or most is not None):
            new = partial(_after_thoughts, thinking, most, new or Free)
        if params.bad_words:
            new = partial(_without_words, self._spellings(params.bad_words), new or Free)
        if params.score_prompt:
            new = partial(_given, [int(i) for i in prepared.token_ids[1:]], new or Free)
        return new

    def _spellings(self, words: tuple[str, ...]) -> list[list[int]]:
        """Tokens of words at the start of a text and within one."""
        spelt = [self._vocabulary.encode(text) for word in words for text in (word, f" {word.lstrip()}")]
        return [ids for ids in spelt if ids]

    @property
    def description(self) -> str:
        """The device and what its cache holds."""
        return self.engine.description

    @property
    def load(self) -> StageLoad | None:
        """How much of a replica the requests take."""
        return self.engine.load

    def check_health(self) -> None:
        """Raise `InternalError` when the engine's thread is dead or stuck, a rank is lost, or a grammar's compilation
        does not end."""
        if self._leader is not None:
            self._leader.check_health()
        self._metrics.gauge("sluice_grammars_compiling", self._grammars.compiling)
        self.engine.check_health()
        self._grammars.check_health()

    def close(self) -> None:
        """Let running answers end for a while, then stop."""
        self.engine.close(DRAIN_S)
        self._grammars.close()


def _check_ids(prepared: Prepared, params: SamplingParams, vocab_size: int) -> None:
    """Raise `BadRequest` for an id that is none of the model's; `InternalError` where the tokenizer made it."""
    asked = {
        "logit_bias": [token_id for token_id, _ in params.logit_bias],
        "stop_token_ids": params.stop_token_ids,
    }
    for field, ids in asked.items():
        wrong = next((token_id for token_id in ids if not 0 <= token_id < vocab_size), None)
        if wrong is not None:
            said = f"`{field}` names the token {wrong}; this model's vocabulary has {vocab_size}, from 0 on"
            raise BadRequest(said, param=field)
    if len(prepared.token_ids) and not 0 <= prepared.token_ids.min() <= prepared.token_ids.max() < vocab_size:
        raise InternalError("the tokenizer gives a token that the model does not have")


def _took_s(arriving: Arriving | None) -> float | None:
    return None if arriving is None else arriving.took_s


def _marks(prepared: Prepared) -> tuple[str, ...]:
    return (prepared.thinking.begin, prepared.thinking.end) if prepared.thinking else ()


def _scored(
    params: SamplingParams, prompt_T: NDArray[np.int32], stop_ids: frozenset[int]
) -> tuple[SamplingParams, frozenset[int]]:
    """For a prompt whose tokens after the first one are generated as given ones: how long that is, what may end it."""
    given = len(prompt_T) - 1
    if given < 1:
        raise BadRequest("a prompt whose log-probabilities are asked for has two tokens or more", param="prompt")
    if params.max_tokens == 0:
        stop_ids = frozenset()
    elif stop_ids.intersection(prompt_T[1:].tolist()):
        raise BadRequest("a prompt that is echoed with log-probabilities holds a token that ends answers", param="echo")
    longest = None if params.max_tokens is None else given + params.max_tokens
    return replace(params, max_tokens=longest, min_tokens=given + params.min_tokens), stop_ids


def _after_thoughts(thinking: Thinking, max_tokens: int | None, inner: NewConstraint) -> TokenConstraint:
    return AfterThoughts(thinking, max_tokens, inner())


def _without_words(words: list[list[int]], inner: NewConstraint) -> TokenConstraint:
    return WithoutWords(words, inner())


def _given(token_ids: list[int], inner: NewConstraint) -> TokenConstraint:
    return Given(token_ids, inner())
