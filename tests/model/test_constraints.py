"""What binds an answer's tokens beside a grammar: thoughts are ended, words left out, a prompt's own tokens given."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from deployments.config import AppConfig
from deployments.core.checkpoint import resolve_model
from deployments.model.output.assembler import OutputAssembler
from deployments.model.output.vocabulary import Vocabulary
from deployments.model.sampling.constraints import AfterThoughts, Free, Given, WithoutWords
from deployments.model.sequence import Token
from deployments.model.thoughts import Thoughts
from deployments.types import SamplingParams, Thinking
from tests.model.conftest import Bench, generate, greedy
from tests.support.tiny_families import Prompt

PROMPT = Prompt(np.array([11, 12, 13, 14], np.int32), {})
OPEN = Thinking("<think>", "</think>", (5,), (6, 7), is_open=True)
CLOSED = Thinking("<think>", "</think>", (5,), (6, 7))


class Only:
    """Allows one token."""

    def __init__(self, token_id: int) -> None:
        self.token_id = token_id
        self.accepted: list[int] = []

    def allow(self, mask_V: torch.Tensor) -> None:
        mask_V.fill_(False)
        mask_V[self.token_id] = True

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)


def answered(model, constraint, max_tokens=8):
    engine = Bench(model)
    _, listener = engine.submit(PROMPT, greedy(max_tokens), new_constraint=lambda: constraint)
    engine.run()
    return listener.ids()


def test_thoughts_are_ended_when_they_are_long_enough_and_the_grammar_holds_after_them(qwen3_vl) -> None:
    ids = answered(qwen3_vl, AfterThoughts(OPEN, 3, Only(9)))
    assert ids[:3] == generate(qwen3_vl, PROMPT, 3)
    assert ids[3:] == [6, 7, 9, 9, 9]


def test_thoughts_without_a_limit_are_free(qwen3_vl) -> None:
    assert answered(qwen3_vl, AfterThoughts(OPEN, None, Free())) == generate(qwen3_vl, PROMPT, 8)


def test_an_answer_may_begin_with_thoughts_though_a_grammar_binds_it() -> None:
    constraint, mask = AfterThoughts(CLOSED, None, Only(9)), torch.zeros(16, dtype=torch.bool)
    constraint.allow(mask)
    assert mask.nonzero().flatten().tolist() == [5, 9]
    constraint.accept(9)
    constraint.allow(mask)
    assert mask.nonzero().flatten().tolist() == [9]


def test_words_are_never_completed(qwen3_vl) -> None:
    free = generate(qwen3_vl, PROMPT, 8)
    ids = answered(qwen3_vl, WithoutWords([free[:2], [free[3]]], Free()))
    assert ids[0] == free[0]
    assert ids[1] != free[1]
    assert free[3] not in ids


def test_given_tokens_come_first(qwen3_vl) -> None:
    assert answered(qwen3_vl, Given([3, 4, 5], Only(9)))[:5] == [3, 4, 5, 9, 9]


@pytest.mark.parametrize(
    ("thinking", "ids", "count"), [(OPEN, [1, 2, 6, 7, 3], 4), (CLOSED, [5, 1, 6, 7, 5, 3], 4), (CLOSED, [1, 5, 6], 0)]
)
def test_thoughts_are_counted_with_their_marks(thinking, ids, count) -> None:
    thoughts = Thoughts(thinking)
    assert sum(thoughts.accept(i) for i in ids) == count


def test_tokens_of_thoughts_are_told_with_the_text() -> None:
    answer = OutputAssembler(
        lambda ids: "x" * len(ids), SamplingParams(return_token_ids=True), lambda i: ("x", b"x"), OPEN
    )
    (delta,) = answer.deltas([(0, Token(i), "stop" if i == 9 else None) for i in (1, 6, 7, 3, 9)])
    assert (delta.num_reasoning_tokens, delta.num_tokens, delta.token_ids) == (3, 5, (1, 6, 7, 3, 9))


def test_the_bytes_of_byte_level_tokens_make_the_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(AppConfig()))
    vocabulary, text = Vocabulary(tokenizer), "naïve 漢字 🙂 red"
    pieces = [vocabulary.piece(i) for i in vocabulary.encode(text)]
    assert b"".join(raw for _, raw in pieces).decode() == text
    assert any(piece == "\ufffd" for piece, _ in pieces)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert vocabulary.piece(end) == ("<|im_end|>", b"<|im_end|>")
    ids = [*vocabulary.encode("a"), end]
    assert vocabulary.decoder()(ids) == "a"
    assert vocabulary.decoder(visible=("<|im_end|>",))(ids) == "a<|im_end|>"


def test_the_bytes_of_sentencepiece_tokens_make_the_text() -> None:
    words = {"\u2581red": 0, "<0xC3>": 1, "<0xA9>": 2, "a": 3, "<unk>": 4}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    vocabulary = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert [vocabulary.piece(i)[1] for i in range(4)] == [b" red", b"\xc3", b"\xa9", b"a"]
