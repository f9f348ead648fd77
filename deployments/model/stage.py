"""The model stage without Ray: the engine, fed with requests, its tokens read as text."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from numpy.typing import NDArray
from transformers import AutoTokenizer

from deployments.autoscaling import StageLoad
from deployments.config import AppConfig
from deployments.core.checkpoint import resolve_model
from deployments.core.deadline import Deadline
from deployments.errors import BadRequest, InternalError
from deployments.model.loading import load_engine
from deployments.model.multimodal.pixels import add_clips
from deployments.model.output.assembler import Mailbox, OutputAssembler, gather_s, plain_decode, times
from deployments.model.sampling.grammar import Grammars
from deployments.model.sequence import EngineRequest
from deployments.observability.metrics import MetricSink
from deployments.types import GenerateChunk, Prepared, SamplingParams, StageName, TokenDelta

STAGE = StageName.MODEL
DRAIN_S = 15.0
"""Longest wait for running answers at shutdown; Ray kills the replica at its own limit."""


class ModelStage:
    """One engine on one device."""

    def __init__(self, config: AppConfig, metrics: MetricSink) -> None:
        self._interval_s = config.engine.stream_interval_s
        loaded = load_engine(config, metrics)
        self.engine = loaded.engine
        self._eos_ids = loaded.eos_ids
        self._vocab_size = loaded.vocab_size
        self._metrics = metrics
        tokenizer = AutoTokenizer.from_pretrained(resolve_model(config), **config.hub_options())
        self._decode = plain_decode(tokenizer.decode)
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
    ) -> AsyncGenerator[GenerateChunk, None]:
        """The answer in chunks: with `stream` the first token at once and later ones gathered, else one chunk in all.

        `tensors`: the processor's; `clips`: patches straight from the decoder, in the prompt's order.
        Closing the generator stops the work. Raises `ContextTooLong`, `TooLarge`, `Overloaded`, `StageTimeout`,
        `BadRequest`, `InternalError`.
        """
        _check_ids(prepared, params, self._vocab_size)
        deadline = Deadline(remaining_s, STAGE)
        schema = params.json_schema
        constraint = None if schema is None else await self._grammars.compile(schema, deadline)
        request = EngineRequest(
            token_ids=prepared.token_ids,
            params=params,
            deadline=deadline,
            stop_ids=frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self._eos_ids),
            pixel_norm=prepared.pixel_norm,
            use_audio_in_video=prepared.use_audio_in_video,
            new_constraint=constraint,
        )
        mailbox = Mailbox(asyncio.get_running_loop())
        if clips:
            await asyncio.to_thread(add_clips, tensors, clips)
        sequence = self.engine.submit(request, tensors, mailbox)
        answer = OutputAssembler(self._decode, params)
        deltas: tuple[TokenDelta, ...] = ()
        try:
            while not answer.finished:
                # Stop strings are found here, not in the engine: every token must be looked at when it comes.
                await mailbox.wait(for_end=not (stream or params.stop))
                deltas += answer.deltas(mailbox.take())
                if stream and deltas and not answer.finished:
                    yield GenerateChunk(deltas)
                    deltas = ()
                    await mailbox.gather(gather_s(self._interval_s, self.engine.awaiting))
            timing = mailbox.timing or sequence.timing(time.monotonic())
            yield GenerateChunk(deltas, times(timing))
        finally:
            self.engine.abort(sequence)

    @property
    def description(self) -> str:
        """The device and what its cache holds."""
        return self.engine.description

    @property
    def load(self) -> StageLoad | None:
        """How much of a replica the requests take."""
        return self.engine.load

    def check_health(self) -> None:
        """Raise `InternalError` when the engine's thread is dead or stuck, or a grammar's compilation does not end."""
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
