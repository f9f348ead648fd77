"""Runs of media tokens are read once, and what comes out is what the tokenizer itself would have told."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.preprocessor.counts import tokens_of
from deployments.preprocessor.family import read_family
from deployments.preprocessor.hf_processor import HfProcessor
from deployments.preprocessor.limits import Sizes
from deployments.preprocessor.media import Media
from deployments.preprocessor.prompt import Prompt
from deployments.preprocessor.token_runs import RunTokenizer, read_runs_once
from deployments.types import MediaKind
from tests.support.tiny_processors import FAMILIES, tiny_checkpoint

PROCESSORS = {name: make() for name, make in FAMILIES.items()}
WITH_MEDIA = sorted(name for name, processor in PROCESSORS.items() if hasattr(processor, "tokenizer"))


class Counting:
    """A tokenizer that tells how many characters it was given."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.characters = 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, text, **options):
        self.characters += sum(map(len, text))
        return self.tokenizer(text, **options)


def media_tokens(family):
    processor = PROCESSORS[family]
    return sorted(frozenset().union(*(tokens_of(processor, processor.tokenizer, kind) for kind in MediaKind)))


@settings(max_examples=10, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("family", WITH_MEDIA)
def test_ids_and_masks_are_the_tokenizers_own(family, data):
    tokenizer, tokens = PROCESSORS[family].tokenizer, media_tokens(family)
    piece = st.one_of(
        st.builds(lambda token, times: token * times, st.sampled_from(tokens), st.integers(1, 9)),
        st.sampled_from([" ", "\n", "a", " b", "<|im_start|>", tokens[0][:-1], tokens[-1][1:], "\u200b"]),
        st.text(max_size=4),
    )
    text = "".join(data.draw(st.lists(piece, max_size=8)))
    ours, own = RunTokenizer(tokenizer, tokens)([text]), tokenizer([text])
    assert dict(ours) == dict(own)


@pytest.mark.parametrize("family", WITH_MEDIA)
def test_a_run_is_read_once(family):
    token = media_tokens(family)[0]
    counting = Counting(PROCESSORS[family].tokenizer)
    tokenizer = RunTokenizer(counting, [token])
    counting.characters = 0
    told = tokenizer([f"a{token * 5000}b"], return_tensors="pt")
    assert counting.characters < 200
    own = PROCESSORS[family].tokenizer([f"a{token * 5000}b"], return_tensors="pt")
    assert told.keys() == own.keys()
    assert all(np.array_equal(told[name], own[name]) and told[name].dtype == own[name].dtype for name in own)


def test_a_copy_is_one_of_its_own():
    tokenizer = RunTokenizer(PROCESSORS["qwen3_vl"].tokenizer, media_tokens("qwen3_vl"))
    copied = copy.deepcopy(tokenizer)
    text = "a<|image_pad|><|image_pad|>b"
    assert dict(copied([text])) == dict(tokenizer([text]))
    assert copied.eos_token == tokenizer.eos_token


def pictured(processor):
    prompt = Prompt(processor.image_token, add_special_tokens=True)
    read = HfProcessor(processor, read_family(processor, tiny_checkpoint(processor).model_config, lambda _: True))
    return lambda: read.expand(prompt, Media([np.zeros((64, 96, 3), np.uint8)]), Sizes(None, None), raw_pixels=False)


@pytest.mark.parametrize(("family", "once"), [("qwen3_vl", True), ("gemma3", True), ("idefics3", False)])
def test_a_processor_that_wants_more_than_tokens_keeps_its_tokenizer(family, once):
    processor = FAMILIES[family]()
    own = processor.tokenizer
    read_runs_once([processor], media_tokens(family), pictured(processor))
    assert isinstance(processor.tokenizer, RunTokenizer) is once
    assert once or processor.tokenizer is own


def test_what_is_no_token_of_its_own_is_read_whole():
    tokenizer = PROCESSORS["qwen3_vl"].tokenizer
    text = "ab" * 7 + "c"
    assert dict(RunTokenizer(tokenizer, ["ab", "never seen"])([text])) == dict(tokenizer([text]))
