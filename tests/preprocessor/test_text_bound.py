import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from deployments.config import AppConfig
from deployments.core.checkpoint import resolve_model
from deployments.preprocessor.text_bound import TextBound

TOKENIZER = AutoTokenizer.from_pretrained(resolve_model(AppConfig()))
BOUND = TextBound(TOKENIZER)


@given(st.text(max_size=200) | st.text("각ᾷaàe\u0301\u0308 \n=<|>", max_size=300))
def test_no_text_has_fewer_tokens_than_its_length_says(text):
    for form in (text, unicodedata.normalize("NFD", text)):
        assert BOUND.least_tokens(form) <= len(TOKENIZER(form, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("text", ["word " * 20_000, "a" * 100_000, "\n" * 100_000, "=" * 100_000, "é" * 200_000])
def test_a_long_text_has_many(text):
    assert BOUND.least_tokens(text) > 1000


def test_nothing_is_said_of_a_tokenizer_that_says_nothing():
    assert TextBound(object()).least_tokens("a" * 10**6) == 0
