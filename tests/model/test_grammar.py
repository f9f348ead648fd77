"""Structured answers parse, whatever the model would rather say."""

import asyncio
import json
import resource

import psutil
import pytest
from transformers import AutoTokenizer

from deployments.config import AppConfig, EngineConfig
from deployments.core.checkpoint import resolve_model
from deployments.core.deadline import Deadline
from deployments.errors import BadRequest, StageTimeout
from deployments.model.sampling.grammar import Grammars
from deployments.model.weights import load_model, pick_device
from deployments.types import Grammar, SamplingParams
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
    return stepped, tokenizer


@pytest.fixture
async def grammars(demo):
    stepped, tokenizer = demo
    config = EngineConfig(grammar_timeout_s=1.0, grammar_mib=256)
    grammars = Grammars(tokenizer, stepped.engine.family.vocab_size, [tokenizer.eos_token_id], config)
    yield grammars
    grammars.close()
    await asyncio.sleep(0.05)  # in which the loop hears of the process's end


def schema_of(text):
    return Grammar("json_schema", text)


def minute():
    return Deadline(60.0, "model")


async def answered(demo, grammars, schema, **params):
    """The text of an answer that must follow `schema`."""
    stepped, tokenizer = demo
    constraint = await grammars.compile(schema_of(json.dumps(schema)), minute())
    stop_ids = frozenset({tokenizer.eos_token_id})
    params = SamplingParams(**{"max_tokens": 60, **params})
    _, listener = stepped.submit(_prompt(tokenizer), params, stop_ids=stop_ids, new_constraint=constraint)
    stepped.run()
    assert listener.error is None
    assert listener.finish[0] == "stop"
    return tokenizer.decode(listener.ids(0), skip_special_tokens=True)


def _prompt(tokenizer):
    return Prompt(tokenizer("What colour?", return_tensors="np")["input_ids"][0].astype("int32"), {})


@pytest.mark.parametrize("temperature", [0.0, 1.5])
async def test_answers_follow_the_schema(demo, grammars, temperature):
    stepped, tokenizer = demo
    params = SamplingParams(max_tokens=60, temperature=temperature, seed=1, n=2)
    stop_ids = frozenset({tokenizer.eos_token_id})
    constraint = await grammars.compile(schema_of(json.dumps(SCHEMA)), minute())
    _, listener = stepped.submit(_prompt(tokenizer), params, stop_ids=stop_ids, new_constraint=constraint)
    stepped.run()
    for choice in range(2):
        answer = json.loads(tokenizer.decode(listener.ids(choice), skip_special_tokens=True))
        assert set(answer) == {"colour", "count"}
        assert answer["colour"] in ("red", "blue")
        assert 0 <= answer["count"] <= 99
        assert listener.finish[choice] == "stop"


def nested(depth):
    return '{"type": "array", "items": ' * depth + '{"type": "integer"}' + "}" * depth


LARGE_PRIME = '{"type": "integer", "multipleOf": 15485863}'
EXPLODING = {
    "multiple of a large prime": LARGE_PRIME,
    "nested 200 deep": nested(200),
    "nested 480 deep": nested(480),
    "a constant of 1.9 MB": json.dumps({"const": "ab" * 950_000}),
    "4,000 optional properties": json.dumps(
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(4000)}}
    ),
    "many patterns at once": json.dumps({"allOf": [{"type": "string", "pattern": f"^.*{c}.{{20}}$"} for c in "abcde"]}),
    "nonsense": '{"type": "nonsense"}',
}


@pytest.mark.parametrize("name", EXPLODING)
async def test_schemas_that_can_not_be_followed_are_refused(grammars, name):
    with pytest.raises(BadRequest, match="the JSON schema") as refused:
        await grammars.compile(schema_of(EXPLODING[name]), minute())
    assert refused.value.param == "response_format"


async def test_what_explodes_takes_its_time_and_memory_elsewhere(grammars):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadRequest, match=r"takes more (time|memory) to compile"):
        await grammars.compile(schema_of(LARGE_PRIME), minute())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


async def test_grammars_of_others_are_compiled_beside_one_that_explodes(grammars):
    await grammars.compile(schema_of(json.dumps(SCHEMA)), minute())  # the process has started
    exploding = [{"type": "integer", "multipleOf": 15485863 + 2 * i} for i in range(8)]
    attack = [asyncio.create_task(grammars.compile(schema_of(json.dumps(schema)), minute())) for schema in exploding]
    await asyncio.sleep(0.3)
    await grammars.compile(schema_of(json.dumps({"type": "boolean"})), minute())
    assert not all(task.done() for task in attack)
    for task in attack:
        task.cancel()
    await asyncio.gather(*attack, return_exceptions=True)


async def test_compiling_ends_with_the_request(grammars):
    with pytest.raises(StageTimeout):
        await grammars.compile(schema_of(LARGE_PRIME), Deadline(0.05, "model"))
    leaving = asyncio.create_task(grammars.compile(schema_of(LARGE_PRIME), minute()))
    await asyncio.sleep(0.2)
    leaving.cancel()
    async with asyncio.timeout(20):
        while grammars.compiling:
            await asyncio.sleep(0.01)
    grammars.check_health()


async def test_a_process_that_died_is_started_again(grammars):
    await grammars.compile(schema_of('{"type": "boolean"}'), minute())
    for child in psutil.Process().children():
        if any("trial_process" in word for word in child.cmdline()):
            child.kill()
            child.wait()
    await asyncio.sleep(0.05)
    await grammars.compile(schema_of('{"type": "null"}'), minute())


async def test_the_grammars_end_wins_over_min_tokens(demo, grammars):
    assert await answered(demo, grammars, {"const": 7}, min_tokens=30) == "7"


@pytest.mark.parametrize("text", ["e\u0301te\u0301", "\u212b", "\ufb01", "a\u0323\u0307"])
async def test_strings_that_are_in_no_normal_form_can_be_written(demo, grammars, text):
    assert json.loads(await answered(demo, grammars, {"const": text})) == text
