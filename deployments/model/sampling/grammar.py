"""Answers that follow a schema or a grammar: llguidance says, token by token, what may come next."""

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer

from deployments.config import EngineConfig
from deployments.core.deadline import Deadline
from deployments.errors import BadRequest, InternalError, shown
from deployments.model.sampling.grammar_trials import GrammarTrials
from deployments.model.sampling.trial_process import parser_limits
from deployments.model.sequence import TokenConstraint
from deployments.types import Grammar

# Free white space would let a model indent for ever.
_STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_ANY_OBJECT = '{"type": "object"}'
_WORDS = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "grammar"}
_KEPT = 64
"""Grammars that have been compiled, or refused, lately: most clients ask for the same one again and again."""


class Grammars:
    """Turns grammars into constraints over one tokenizer's vocabulary. Used on one event loop."""

    def __init__(self, tokenizer: Any, vocab_size: int, eos_ids: Iterable[int], config: EngineConfig) -> None:
        self._hf_tokenizer = tokenizer
        self._n_vocab = vocab_size
        self._eos_ids = sorted(eos_ids) or None
        self._config = config
        # Made when first needed: a large vocabulary takes a second, and not every tokenizer can be read.
        self._tokenizer: LLTokenizer | None = None
        self._trials: GrammarTrials | None = None
        self._starting = asyncio.Lock()
        self._kept: OrderedDict[bytes, LLMatcher | BadRequest] = OrderedDict()

    @property
    def compiling(self) -> int:
        """Grammars that are being tried."""
        return 0 if self._trials is None else self._trials.running

    async def compile(self, grammar: Grammar, deadline: Deadline) -> Callable[[], TokenConstraint]:
        """A factory of constraints, one a choice. Raises `BadRequest` for grammars that can't be followed.

        What is compiled here has been compiled before where it could do no harm: its cost is known to be bounded.
        """
        key = hashlib.sha256(f"{grammar.kind}:{grammar.text}".encode()).digest()
        kept = self._kept.get(key)
        if kept is None:
            try:
                kept = await self._compiled(grammar, deadline)
            except BadRequest as refusal:
                kept = refusal
            self._kept[key] = kept
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        if isinstance(kept, BadRequest):
            raise BadRequest(f"the {_WORDS[grammar.kind]} {kept.message}", param=grammar.param)
        matcher = kept
        return lambda: GrammarConstraint(matcher.deep_copy())

    def check_health(self) -> None:
        if self._trials is not None:
            self._trials.check_health()

    def close(self) -> None:
        if self._trials is not None:
            self._trials.close()

    async def _compiled(self, grammar: Grammar, deadline: Deadline) -> LLMatcher:
        source = await asyncio.to_thread(_source, grammar)  # of two megabytes that is more than a loop should wait for
        tokenizer, trials = await self._ready()
        await trials.check(source, deadline)
        matcher = await asyncio.to_thread(LLMatcher, tokenizer, source, log_level=0, limits=parser_limits())
        if matcher.is_error():
            raise BadRequest(f"can not be followed: {shown(matcher.get_error())}")
        return matcher

    async def _ready(self) -> tuple[LLTokenizer, GrammarTrials]:
        async with self._starting:
            if self._trials is None or self._tokenizer is None:
                described = await asyncio.to_thread(_described, self._hf_tokenizer)
                own, config = (self._n_vocab, self._eos_ids), self._config
                self._tokenizer = await asyncio.to_thread(LLTokenizer, described, *own)
                self._trials = GrammarTrials(described, *own, config.grammar_timeout_s, config.grammar_mib)
            return self._tokenizer, self._trials


def _described(tokenizer: Any) -> str:
    """A fast tokenizer of transformers as its JSON, without what it does to a text before it splits that.

    What must be written is fixed byte by byte. A normaliser would tokenise another text in its place: strings that are
    not in its normal form could then not be written at all.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BadRequest("can not be followed: this model's tokenizer does not tell its tokens")
    document = json.loads(backend.to_str())
    return json.dumps(document | {"normalizer": None, "truncation": None, "padding": None})


class GrammarConstraint:
    """One answer's place in the grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allow(self, mask_V: torch.Tensor) -> None:
        """True for tokens that the grammar takes here, the end-of-answer tokens among them where it is complete."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise BadRequest("the grammar is too complex to be followed here", param="response_format")
        mask_V.copy_(torch.from_numpy(np.unpackbits(bits, count=mask_V.shape[0], bitorder="little")).bool())

    def accept(self, token_id: int) -> None:
        if not self._matcher.is_stopped() and not self._matcher.consume_token(token_id):
            raise InternalError("a token was chosen that the grammar does not take")


def _source(grammar: Grammar) -> str:
    """The grammar as llguidance takes it. Raises `BadRequest` for what it can't even read."""
    text = grammar.text
    try:
        if grammar.kind == "regex":
            return str(LLMatcher.grammar_from_regex(text))
        if grammar.kind == "lark":
            return str(LLMatcher.grammar_from_lark(text))
        schema = _ANY_OBJECT if text.strip() == "{}" else text
        return str(LLMatcher.grammar_from_json_schema(schema, overrides=_STYLE))
    except ValueError as exc:
        raise BadRequest(f"can not be read: {shown(str(exc))}") from exc
