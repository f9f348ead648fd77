"""Answers that follow a schema or a grammar: llguidance says, token by token, what may come next."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher

from deployments.errors import BadRequest, InternalError, shown
from deployments.model.sequence import TokenConstraint
from deployments.types import Grammar

# Free white space would let a model indent for ever.
_STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_ANY_OBJECT = '{"type": "object"}'
_WORDS = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "grammar"}


class Grammars:
    """Turns grammars into constraints over one tokenizer's vocabulary."""

    def __init__(self, tokenizer: Any, vocab_size: int, eos_ids: Iterable[int]) -> None:
        # Made when first needed: a large vocabulary takes a second, and not every tokenizer can be read.
        self._read = partial(
            llguidance.hf.from_tokenizer, tokenizer, n_vocab=vocab_size, eos_token=sorted(eos_ids) or None
        )
        self._tokenizer: Any = None

    def compile(self, grammar: Grammar) -> Callable[[], TokenConstraint]:
        """A factory of constraints, one a choice. Raises `BadRequest` for grammars that can't be followed."""
        if self._tokenizer is None:
            self._tokenizer = self._read()
        matcher = LLMatcher(self._tokenizer, _source(grammar))
        if matcher.is_error():
            what, reason = _WORDS[grammar.kind], shown(matcher.get_error())
            raise BadRequest(f"the {what} can not be followed: {reason}", param=grammar.param)
        return lambda: GrammarConstraint(matcher.deep_copy())


class GrammarConstraint:
    """One answer's place in the grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allow(self, mask_V: torch.Tensor) -> None:
        """True for tokens that the grammar takes here, the end-of-answer tokens among them where it is complete."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
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
        raise BadRequest(f"the {_WORDS[grammar.kind]} can not be read: {shown(str(exc))}", param=grammar.param) from exc
