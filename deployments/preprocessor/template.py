"""What a checkpoint's chat template takes and writes, found by rendering trial conversations instead of by names."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, meta
from jinja2.exceptions import TemplateError

from deployments.types import Thinking, ToolFormat

Render = Callable[..., str]
"""`render(conversation, tools=..., **template_kwargs)`; raises what templates raise."""

REFUSALS = (TemplateError, TypeError, ValueError, KeyError, AttributeError)
"""What rendering a conversation that a template is not made for may raise."""

_TOOL, _ARGUMENT, _VALUE, _RESULT = "trial_tool", "trial_argument", "trial value", "trial result"
_TRIAL_ID = "trial0000"
"""Mistral's templates want nine letters and digits."""
_OWN = frozenset({"messages", "tools", "documents", "add_generation_prompt", "tools_in_user_message"})
"""Variables that are not for requests to set."""
_FUNCTIONS = frozenset({"raise_exception", "strftime_now", "bos_token", "eos_token", "pad_token", "unk_token"})
_MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
_TOOL_MARKS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>")


@dataclass(frozen=True, slots=True)
class TemplateAbilities:
    """What a template can do beside writing messages."""

    tool_format: ToolFormat | None
    tool_parts: bool
    """Whether a tool's message may be made of parts, pictures among them."""
    variables: frozenset[str]
    """What `chat_template_kwargs` may set."""
    thinking: Thinking | None


def read_abilities(
    template: str, render: Render, tokenizer: Any, *, as_parts: bool, tool_format: ToolFormat | None
) -> TemplateAbilities:
    """`as_parts`: the template takes contents as lists of parts; `tool_format`: what the operator says it is."""
    written = _trial_call(render, as_parts)
    return TemplateAbilities(
        tool_format=None if written is None else tool_format or _format_of(written),
        tool_parts=as_parts and written is not None and _takes_tool_parts(render),
        variables=_variables(template),
        thinking=_thinking(template, tokenizer),
    )


def special_marks(tokenizer: Any) -> tuple[tuple[str, int], ...]:
    """Marks of tool calls that are special tokens, which a grammar must name by their ids."""
    special = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    return tuple((mark, special[mark]) for mark in _TOOL_MARKS if mark in special)


def _trial_tool() -> dict[str, Any]:
    argument = {"type": "string", "description": "trial"}
    schema = {"type": "object", "properties": {_ARGUMENT: argument}, "required": [_ARGUMENT]}
    return {"type": "function", "function": {"name": _TOOL, "description": "trial", "parameters": schema}}


def _history(text: Any, result: Any) -> list[dict[str, Any]]:
    call = {"name": _TOOL, "arguments": {_ARGUMENT: _VALUE}}
    return [
        {"role": "user", "content": text},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": _TRIAL_ID, "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": _TRIAL_ID, "name": _TOOL, "content": result},
    ]


def _trial_call(render: Render, as_parts: bool) -> str | None:
    """How the template writes a call of a tool; None where it does not write which tools there are."""
    text: Any = [{"type": "text", "text": "trial"}] if as_parts else "trial"
    try:
        if _TOOL not in render([{"role": "user", "content": text}], tools=[_trial_tool()]):
            return None
        before = render(_history(text, _RESULT)[:1], tools=[_trial_tool()], add_generation_prompt=False)
        return render(_history(text, _RESULT), tools=[_trial_tool()]).removeprefix(before)
    except REFUSALS:
        return ""


def _format_of(written: str) -> ToolFormat | None:
    call = "".join(written.split())
    value = json.dumps(_VALUE).replace(" ", "")
    for form, sign in (
        (ToolFormat.QWEN3_CODER, f"<function={_TOOL}>"),
        (ToolFormat.GLM, f"<arg_key>{_ARGUMENT}</arg_key>"),
        (ToolFormat.MISTRAL_ARGS, f"[TOOL_CALLS]{_TOOL}[ARGS]"),
        (ToolFormat.MISTRAL, "[TOOL_CALLS]"),
        (ToolFormat.HERMES, "<tool_call>{"),
        (ToolFormat.LLAMA3_JSON, f'{{"name":"{_TOOL}","parameters":'),
        (ToolFormat.PYTHONIC, f"{_TOOL}({_ARGUMENT}={value}"),
        (ToolFormat.PYTHONIC, f"{_TOOL}({_ARGUMENT}='{_VALUE.replace(' ', '')}'"),
    ):
        if sign in call:
            return form
    return None


def _takes_tool_parts(render: Render) -> bool:
    text = [{"type": "text", "text": "trial"}]
    try:
        written = render(_history(text, [{"type": "text", "text": _RESULT}]), tools=[_trial_tool()])
    except REFUSALS:
        return False
    return _RESULT in written and "'text'" not in written and '"text"' not in written


def _variables(template: str) -> frozenset[str]:
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        names: Iterable[str] = meta.find_undeclared_variables(environment.parse(_without_generation(template)))
    except TemplateError:
        return frozenset()
    return frozenset(names) - _OWN - _FUNCTIONS


def _without_generation(template: str) -> str:
    """Without the tags by which training marks the assistant's words; only transformers knows them."""
    for tag in ("generation", "endgeneration"):
        for left in ("{%-", "{%"):
            for right in ("-%}", "%}"):
                template = template.replace(f"{left} {tag} {right}", "")
    return template


def _thinking(template: str, tokenizer: Any) -> Thinking | None:
    for begin, end in _MARKS:
        if end in template:
            ids = [tuple(tokenizer(mark, add_special_tokens=False)["input_ids"]) for mark in (begin, end)]
            return Thinking(begin, end, ids[0], ids[1])
    return None
