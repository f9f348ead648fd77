"""Structured answers parse, whatever the model would rather say."""

import json

import pytest
from transformers import AutoTokenizer

from deployments.config import AppConfig
from deployments.core.checkpoint import resolve_model
from deployments.errors import BadRequest
from deployments.model.loading import load_model, pick_device
from deployments.model.sampling.grammar import Grammars
from deployments.types import SamplingParams
from tests.model.conftest import SteppedEngine
from tests.support.tiny_families import Prompt

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def demo():
    config = AppConfig()
    model = load_model(config, pick_device("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(config))
    stepped = SteppedEngine(model, max_context_tokens=256)
    grammars = Grammars(tokenizer, stepped.engine.family.vocab_size, [tokenizer.eos_token_id])
    return stepped, tokenizer, grammars


def _prompt(tokenizer):
    return Prompt(tokenizer("What colour?", return_tensors="np")["input_ids"][0].astype("int32"), {})


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_answers_follow_the_schema(demo, temperature):
    stepped, tokenizer, grammars = demo
    params = SamplingParams(max_tokens=60, temperature=temperature, seed=1, n=2)
    stop_ids = frozenset({tokenizer.eos_token_id})
    constraint = grammars.compile(json.dumps(SCHEMA))
    _, listener = stepped.submit(_prompt(tokenizer), params, stop_ids=stop_ids, new_constraint=constraint)
    stepped.run()
    for choice in range(2):
        answer = json.loads(tokenizer.decode(listener.ids(choice), skip_special_tokens=True))
        assert set(answer) == {"colour", "count"}
        assert answer["colour"] in ("red", "blue")
        assert 0 <= answer["count"] <= 99
        assert listener.finish[choice] == "stop"


def test_schema_that_can_not_be_followed_is_refused(demo):
    _, _, grammars = demo
    with pytest.raises(BadRequest, match="schema"):
        grammars.compile('{"type": "nonsense"}')
