"""What a template can do is found by rendering it: which format its calls have, what it takes, whether it thinks."""

from typing import Any

import pytest

from deployments.errors import BadRequest
from deployments.preprocessor.prompt import PromptRenderer
from deployments.types import Chat, ChatMessage, ChatPart, Tool, ToolCall, ToolFormat
from tests.support.tiny_processors import byte_tokenizer

TOOLS = "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
CALLS = {
    ToolFormat.HERMES: '<tool_call>\n{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\n</tool_call>',
    ToolFormat.QWEN3_CODER: "<tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments.items() %}"
    "<parameter={{ k }}>\n"
    "{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>",
    ToolFormat.GLM: "<tool_call>{{ f.name }}\n{% for k, v in f.arguments.items() %}<arg_key>{{ k }}</arg_key>\n"
    "<arg_value>{{ v }}</arg_value>\n{% endfor %}</tool_call>",
    ToolFormat.LLAMA3_JSON: '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}',
    ToolFormat.MISTRAL: '[TOOL_CALLS][{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}, '
    '"id": "{{ call.id }}"}]',
    ToolFormat.MISTRAL_ARGS: "[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments | tojson }}",
    ToolFormat.PYTHONIC: "[{{ f.name }}({% for k, v in f.arguments.items() %}{{ k }}={{ v | tojson }}{% endfor %})]",
}
LOOK = Tool("look", "Looks.", '{"type": "object", "properties": {"x": {"type": "integer"}}}')


def template(calls: str, end: str = "") -> str:
    return (
        TOOLS + "{% for message in messages %}{{ message.role }}: {{ message.content }}"
        "{% for call in message.tool_calls or [] %}{% set f = call.function %}"
        + calls
        + "{% endfor %}\n{% endfor %}"
        + end
    )


def renderer(text: str, tool_format: ToolFormat | None = None) -> PromptRenderer:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = text
    return PromptRenderer(tokenizer, tokenizer, tool_format)


def asking(**options: Any) -> Chat:
    return Chat((ChatMessage("user", (ChatPart("hi"),)),), **options)


@pytest.mark.parametrize("form", list(ToolFormat))
def test_the_format_of_calls_is_what_the_template_writes(form: ToolFormat) -> None:
    assert renderer(template(CALLS[form])).abilities.tool_format is form


def test_the_operator_may_say_another_format() -> None:
    prompts = renderer(template("call {{ f.name }}"))
    assert prompts.abilities.tool_format is None
    assert renderer(template("call {{ f.name }}"), ToolFormat.GLM).abilities.tool_format is ToolFormat.GLM


def test_tools_calls_and_results_are_written_by_the_template() -> None:
    chat = Chat(
        (
            ChatMessage("user", (ChatPart("look"),)),
            ChatMessage("assistant", (), (ToolCall("c1", "look", '{"x": 3}'),)),
            ChatMessage("tool", (ChatPart("red"),), (), "c1"),
        ),
        tools=(LOOK,),
    )
    text = renderer(template(CALLS[ToolFormat.HERMES])).render(chat, ()).text
    assert '"name": "look"' in text.splitlines()[0]
    assert '<tool_call>\n{"name": "look", "arguments": {"x": 3}}\n</tool_call>' in text
    assert "tool: red" in text


def test_a_template_without_tools_refuses_them() -> None:
    with pytest.raises(BadRequest, match="takes no tools"):
        renderer("{% for message in messages %}{{ message.content }}{% endfor %}").render(asking(tools=(LOOK,)), ())


def test_mistrals_ids_have_nine_characters() -> None:
    calls = (ToolCall("call_0123456789", "look", "{}"),)
    chat = Chat((ChatMessage("user", (ChatPart("look"),)), ChatMessage("assistant", (), calls)))
    text = renderer(template(CALLS[ToolFormat.MISTRAL])).render(chat, ()).text
    assert len(text.partition('"id": "')[2].partition('"')[0]) == 9


THINKS = template(
    CALLS[ToolFormat.HERMES],
    "{% if add_generation_prompt %}assistant: "
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>"
    "{% elif deep %}<think>\n{% endif %}{% endif %}",
)


def test_whether_a_prompt_ends_in_thoughts_is_seen_in_the_prompt() -> None:
    prompts = renderer(THINKS)
    assert prompts.abilities.variables == {"enable_thinking", "deep"}
    thinking = prompts.render(asking(), ()).thinking
    assert thinking is not None
    assert not thinking.is_open
    deep = prompts.render(asking(template_kwargs=(("deep", True),)), ()).thinking
    assert deep is not None
    assert deep.is_open
    assert prompts.render(asking(reasoning_effort="none"), ()).text.endswith("<think></think>")


def test_what_the_template_does_not_take_is_refused_by_name() -> None:
    for name in ("depth", "messages", "add_generation_prompt", "tools"):
        with pytest.raises(BadRequest) as caught:
            renderer(THINKS).render(asking(template_kwargs=((name, True),)), ())
        assert caught.value.param == f"chat_template_kwargs.{name}"


def test_the_last_message_is_carried_on() -> None:
    chat = Chat(
        (ChatMessage("user", (ChatPart("go"),)), ChatMessage("assistant", (ChatPart("the blue"),))), continue_last=True
    )
    assert renderer(THINKS).render(chat, ()).text.endswith("assistant: the blue")
