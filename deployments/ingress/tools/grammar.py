"""Grammars by which a model can only write valid calls, in the format of its family; Lark as llguidance reads it.

Where calls are required, the whole answer is one call or more. Where they are not but a tool is `strict`, text is free
up to the mark that announces a call.
"""

from collections.abc import Callable
from typing import Any

import orjson

from deployments.errors import BadRequest
from deployments.ingress.request import ToolUse
from deployments.ingress.tools.formats import BEGIN, END, schema_of
from deployments.types import Grammar, Tool, ToolFormat

Mark = Callable[[str], str]
"""A mark as the grammar must write it: a special token by its id, anything else as a text."""

_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_SHARED: tuple[str, ...] = ("$defs", "definitions")
"""Parts of a schema to which others refer from its root."""
_TEXT = r"/(.|\n)*/"
_BEGIN = {ToolFormat.MISTRAL: "[TOOL_CALLS]", ToolFormat.MISTRAL_ARGS: "[TOOL_CALLS]"}
_WITHOUT_MARK = frozenset({ToolFormat.LLAMA3_JSON, ToolFormat.PYTHONIC})
"""Their calls have no mark: an answer is a call by how it begins."""
_TEXT_WITHOUT_CALL = {ToolFormat.LLAMA3_JSON: r"/(\s*[^\s{](.|\n)*)?/", ToolFormat.PYTHONIC: r"/(\s*[^\s\[](.|\n)*)?/"}
"""Answers that do not begin like a call."""


def tool_grammar(
    use: ToolUse, form: ToolFormat, special: tuple[tuple[str, int], ...], answer: Grammar | None
) -> Grammar | None:
    """What binds an answer that may call `use.tools`; None: nothing. `answer`: what binds it where it calls none.

    Raises `BadRequest` where the two can't be had together.
    """
    if answer is not None and answer.kind != "json_schema":
        if use.required:
            raise BadRequest(f"`{answer.param}` contradicts a call that is required", param=answer.param)
        return answer  # its own words: what of them is a call is read as one
    ids = dict(special)

    def mark(text: str) -> str:
        return f"<[{ids[text]}]>" if text in ids else _literal(text)

    begin = "" if form in _WITHOUT_MARK else mark(_BEGIN.get(form, BEGIN))
    rules = [f"tool_{i}: {_BODIES[form](tool, mark)}" for i, tool in enumerate(use.tools)]
    rules.append("tool: " + " | ".join(f"tool_{i}" for i in range(len(use.tools))))
    opening, more, closing = _row(form, begin, use.parallel)
    rest = f"tool{more}{closing}"
    rules += [f"calls: {opening} {rest}", f"TEXT: {_TEXT}"]
    if form in (ToolFormat.QWEN3_CODER, ToolFormat.GLM):
        end = r"\n</parameter>\n" if form is ToolFormat.QWEN3_CODER else "</arg_value>"
        rules.append(f'text_value[suffix="{end}"]: {_TEXT}')
    if use.required:
        start = "calls"
    elif answer is not None:
        start = f"calls | {_answer(answer)}"
    elif not any(tool.strict for tool in use.tools):
        return None
    elif not begin:
        start = f"calls | {_TEXT_WITHOUT_CALL[form]}"
    elif begin.startswith("<"):
        start = "TEXT calls | TEXT"
    else:
        start = f"up_to_call {rest} | TEXT"
        rules.append(f"up_to_call[lazy]: TEXT {opening}")
    return Grammar("lark", "\n".join([f"start: {start}", *rules]), "tools")


def _answer(answer: Grammar) -> str:
    return _json({"type": "object"} if answer.text.strip() == "{}" else orjson.loads(answer.text))


def _row(form: ToolFormat, begin: str, parallel: bool) -> tuple[str, str, str]:
    """What stands before the first call, what may follow it, and what stands behind the last one."""
    match form:
        case ToolFormat.MISTRAL:
            opening, more, closing = f'{begin} "["', ' (", " tool)*', ' "]"'
        case ToolFormat.PYTHONIC:
            opening, more, closing = '"["', ' (", " tool)*', ' "]"'
        case ToolFormat.LLAMA3_JSON:
            opening, more, closing = "", ' ("; " tool)*', ""
        case ToolFormat.MISTRAL_ARGS:
            opening, more, closing = begin, f" ({begin} tool)*", ""
        case _:
            opening, more, closing = begin, rf' ("\n" {begin} tool)*', ""
    return opening, more if parallel else "", closing


def _hermes(tool: Tool, mark: Mark) -> str:
    return rf'"\n" {_json(_object(tool, "arguments"))} "\n" {mark(END)}'


def _llama3(tool: Tool, mark: Mark) -> str:
    return _json(_object(tool, "parameters"))


def _mistral(tool: Tool, mark: Mark) -> str:
    return _json(_object(tool, "arguments"))


def _mistral_args(tool: Tool, mark: Mark) -> str:
    return f"{_literal(tool.name)} {mark('[ARGS]')} {_json(schema_of(tool))}"


def _qwen3_coder(tool: Tool, mark: Mark) -> str:
    written = [_literal(f"\n<function={tool.name}>\n")]
    for key, schema, needed in _parameters(tool):
        value = _between(schema, "\n</parameter>\n")
        written.append(_optional(f"{_literal(f'<parameter={key}>' + chr(10))} {value}", needed))
    return " ".join([*written, _literal("</function>\n"), mark(END)])


def _glm(tool: Tool, mark: Mark) -> str:
    arguments = []
    for key, schema, needed in _parameters(tool):
        named = [mark("<arg_key>"), _literal(key), mark("</arg_key>"), _literal("\n"), mark("<arg_value>")]
        arguments.append(_optional(" ".join([*named, _between(schema, "</arg_value>", mark), _literal("\n")]), needed))
    return " ".join([_literal(f"{tool.name}\n"), *arguments, mark(END)])


def _pythonic(tool: Tool, mark: Mark) -> str:
    """Required arguments first, then any of the others, in the schema's order."""
    parameters = sorted(_parameters(tool), key=lambda parameter: not parameter[2])
    body, alone = "", True
    for key, schema, needed in parameters:
        written = f"{_literal(f'{key}=')} {_json(schema)}"
        if needed:
            body += written if alone else f' ", " {written}'
            alone = False
        elif not alone:
            body += f' (", " {written})?'
    if alone and parameters:
        options = " | ".join(f"{_literal(f'{key}=')} {_json(schema)}" for key, schema, _ in parameters)
        body = f'(({options}) (", " ({options}))*)?'
    return f"{_literal(f'{tool.name}(')} {body} {_literal(')')}"


_BODIES: dict[ToolFormat, Callable[[Tool, Mark], str]] = {
    ToolFormat.HERMES: _hermes,
    ToolFormat.QWEN3_CODER: _qwen3_coder,
    ToolFormat.GLM: _glm,
    ToolFormat.LLAMA3_JSON: _llama3,
    ToolFormat.MISTRAL: _mistral,
    ToolFormat.MISTRAL_ARGS: _mistral_args,
    ToolFormat.PYTHONIC: _pythonic,
}
"""A call behind the mark that announces it."""


def _object(tool: Tool, key: str) -> dict[str, Any]:
    parameters = schema_of(tool)
    shared = {name: parameters.pop(name) for name in _SHARED if name in parameters}
    properties = {"name": {"const": tool.name}, key: parameters}
    schema = {"type": "object", "properties": properties, "required": ["name", key], "additionalProperties": False}
    return schema | shared


def _parameters(tool: Tool) -> list[tuple[str, dict[str, Any], bool]]:
    """Name, schema and whether it is required, of each parameter."""
    schema = schema_of(tool)
    properties, needed = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return []
    wanted = needed if isinstance(needed, list) else []
    shared = {key: schema[key] for key in _SHARED if key in schema}
    return [
        (key, shared | value if isinstance(value, dict) else shared, key in wanted) for key, value in properties.items()
    ]


def _between(schema: dict[str, Any], end: str, mark: Mark | None = None) -> str:
    """A value and what closes it: bare text up to there, or JSON."""
    closing = mark(end) if mark else _literal(end)
    if schema.get("type") != "string":
        return f"{_json(schema)} {closing}"
    words = schema.get("enum") or ([schema["const"]] if "const" in schema else None)
    if words:
        return "(" + " | ".join(_literal(str(word)) for word in words) + f") {closing}"
    return f"TEXT {closing}" if closing.startswith("<") else "text_value"


def _optional(rule: str, needed: bool) -> str:
    return rule if needed else f"({rule})?"


def _json(schema: dict[str, Any]) -> str:
    return "%json " + orjson.dumps({"x-guidance": _STYLE, **schema}).decode()


def _literal(text: str) -> str:
    return orjson.dumps(text).decode()
