"""Each format's calls are read however the text is cut, and its grammar takes what its parser reads."""

import json
from itertools import pairwise
from typing import Any

import llguidance.hf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher
from transformers import AutoTokenizer

from deployments.config import AppConfig
from deployments.core.checkpoint import resolve_model
from deployments.errors import BadRequest
from deployments.ingress.request import ToolUse
from deployments.ingress.tools.formats import new_parser
from deployments.ingress.tools.grammar import tool_grammar
from deployments.ingress.tools.parser import CallStart, Content, ToolEvent
from deployments.types import Grammar, Tool, ToolFormat

SCHEMA = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "s": {"type": "string"}, "e": {"type": "string", "enum": ["a", "b"]}},
    "required": ["x", "s"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = (Tool("point", None, json.dumps(SCHEMA), strict=True), Tool("beep", None, json.dumps(NOTHING)))
ARGUMENTS = {"x": 12, "s": 'a<b "c"', "e": "a"}
SAID = json.dumps(ARGUMENTS)
WRITTEN = {
    ToolFormat.HERMES: f'<tool_call>\n{{"name": "point", "arguments": {SAID}}}\n</tool_call>\n'
    '<tool_call>\n{"name": "beep", "arguments": {}}\n</tool_call>',
    ToolFormat.QWEN3_CODER: "<tool_call>\n<function=point>\n<parameter=x>\n12\n</parameter>\n<parameter=s>\n"
    'a<b "c"\n</parameter>\n<parameter=e>\na\n</parameter>\n</function>\n</tool_call>\n'
    "<tool_call>\n<function=beep>\n</function>\n</tool_call>",
    ToolFormat.GLM: "<tool_call>point\n<arg_key>x</arg_key>\n<arg_value>12</arg_value>\n<arg_key>s</arg_key>\n"
    '<arg_value>a<b "c"</arg_value>\n<arg_key>e</arg_key>\n<arg_value>a</arg_value>\n</tool_call>\n'
    "<tool_call>beep\n</tool_call>",
    ToolFormat.LLAMA3_JSON: f'{{"name": "point", "parameters": {SAID}}}; {{"name": "beep", "parameters": {{}}}}',
    ToolFormat.MISTRAL: f'[TOOL_CALLS][{{"name": "point", "arguments": {SAID}}}, '
    '{"name": "beep", "arguments": {}}]',
    ToolFormat.MISTRAL_ARGS: f"[TOOL_CALLS]point[ARGS]{SAID}[TOOL_CALLS]beep[ARGS]{{}}",
    ToolFormat.PYTHONIC: r'[point(x=12, s="a<b \"c\"", e="a"), beep()]',
}
SPEAKING = [form for form in ToolFormat if form not in (ToolFormat.LLAMA3_JSON, ToolFormat.PYTHONIC)]
"""Formats in which a text may stand before a call."""


def read(form: ToolFormat, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The text, and the name and arguments of each call."""
    parser = new_parser(form, TOOLS)
    events: list[ToolEvent] = [event for piece in pieces for event in parser.push(piece)]
    content, calls = "", []
    for event in [*events, *parser.finish()]:
        if isinstance(event, Content):
            content += event.text
        elif isinstance(event, CallStart):
            calls.append((event.name, ""))
        else:
            calls[-1] = (calls[-1][0], calls[-1][1] + event.text)
    return content, calls


def cut(text: str, places: list[int]) -> list[str]:
    borders = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(borders)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(resolve_model(AppConfig()))


@pytest.mark.parametrize("form", list(ToolFormat))
@given(st.lists(st.integers(0, 400), max_size=12))
def test_calls_are_read_however_the_text_is_cut(form: ToolFormat, places: list[int]) -> None:
    content, calls = read(form, cut(WRITTEN[form], places))
    assert content == ""
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [("point", ARGUMENTS), ("beep", {})]


@pytest.mark.parametrize("form", SPEAKING)
@given(st.lists(st.integers(0, 400), max_size=6))
def test_text_before_a_call_is_text(form: ToolFormat, places: list[int]) -> None:
    content, calls = read(form, cut("Let me look <here>.\n" + WRITTEN[form], places))
    assert content == "Let me look <here>."
    assert [name for name, _ in calls] == ["point", "beep"]


@pytest.mark.parametrize("form", list(ToolFormat))
@pytest.mark.parametrize("text", ["It is red.", "", "<b>x</b> [1, 2] {", '{"colour": "red"}', "[see (1)]", "a <tool"])
def test_text_without_a_call_stays_as_it_is(form: ToolFormat, text: str) -> None:
    assert read(form, list(text)) == (text, [])


@pytest.mark.parametrize("form", list(ToolFormat))
def test_arguments_go_out_before_the_call_is_whole(form: ToolFormat) -> None:
    text = WRITTEN[form]
    _, calls = read(form, list(text[: text.index("a<b") + 3]))
    assert calls[0][0] == "point"
    assert calls[0][1].startswith('{"x": 12')


def test_a_call_that_breaks_off_before_its_name_becomes_text() -> None:
    assert read(ToolFormat.HERMES, ['a <tool_call>\n{"na']) == ('a<tool_call>\n{"na', [])


def test_arguments_written_as_a_string_are_taken_out_of_it() -> None:
    text = '<tool_call>{"name": "point", "arguments": "{\\"x\\": 1}"}</tool_call>'
    assert read(ToolFormat.HERMES, list(text)) == ("", [("point", '{"x": 1}')])


@pytest.mark.parametrize("form", list(ToolFormat))
@pytest.mark.parametrize("required", [True, False])
def test_the_grammar_takes_what_the_parser_reads(form: ToolFormat, required: bool, tokenizer: Any) -> None:
    grammar = tool_grammar(ToolUse(TOOLS, required), form, (), None)
    assert grammar is not None
    text = "Well.\n" + WRITTEN[form] if form in SPEAKING and not required else WRITTEN[form]
    assert accepted(grammar, text, tokenizer)
    assert not accepted(grammar, WRITTEN[form].replace("12", '"twelve"'), tokenizer)
    assert accepted(grammar, "Well.", tokenizer) is not required


def test_one_call_is_one_call_where_no_more_are_wanted(tokenizer: Any) -> None:
    one = tool_grammar(ToolUse(TOOLS, required=True, parallel=False), ToolFormat.HERMES, (), None)
    assert one is not None
    assert not accepted(one, WRITTEN[ToolFormat.HERMES], tokenizer)
    assert accepted(one, WRITTEN[ToolFormat.HERMES].partition("</tool_call>")[0] + "</tool_call>", tokenizer)


def test_an_answer_with_a_schema_may_call_instead(tokenizer: Any) -> None:
    answer = Grammar("json_schema", '{"type": "object", "properties": {"n": {"enum": [1]}}, "required": ["n"]}')
    grammar = tool_grammar(ToolUse(TOOLS), ToolFormat.HERMES, (), answer)
    assert grammar is not None
    assert accepted(grammar, '{"n": 1}', tokenizer)
    assert accepted(grammar, WRITTEN[ToolFormat.HERMES], tokenizer)
    words = Grammar("regex", "a+", "guided_regex")
    assert tool_grammar(ToolUse(TOOLS), ToolFormat.HERMES, (), words) == words
    with pytest.raises(BadRequest, match="regex"):
        tool_grammar(ToolUse(TOOLS, required=True), ToolFormat.HERMES, (), words)


def accepted(grammar: Grammar, text: str, tokenizer: Any) -> bool:
    matcher = LLMatcher(llguidance.hf.from_tokenizer(tokenizer), LLMatcher.grammar_from_lark(grammar.text))
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()
