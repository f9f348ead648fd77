"""One table from the format of a checkpoint's tool calls to what reads them, and to how a grammar writes them."""

from collections.abc import Callable
from typing import Any

import orjson

from deployments.ingress.tools.json_call import JsonCall
from deployments.ingress.tools.marked import MarkedCalls
from deployments.ingress.tools.mistral import MistralAnswer
from deployments.ingress.tools.parser import ToolParser
from deployments.ingress.tools.tagged import GLM, QWEN3_CODER, Schemas, TaggedCall
from deployments.ingress.tools.whole_answer import PYTHON_TAG, JsonAnswer, PythonAnswer
from deployments.types import Tool, ToolFormat

BEGIN, END = "<tool_call>", "</tool_call>"

_PARSERS: dict[ToolFormat, Callable[[Schemas], ToolParser]] = {
    ToolFormat.HERMES: lambda _: MarkedCalls(BEGIN, END, JsonCall),
    ToolFormat.QWEN3_CODER: lambda schemas: MarkedCalls(BEGIN, END, lambda: TaggedCall(QWEN3_CODER, schemas)),
    ToolFormat.GLM: lambda schemas: MarkedCalls(BEGIN, END, lambda: TaggedCall(GLM, schemas)),
    ToolFormat.LLAMA3_JSON: lambda _: JsonAnswer(),
    ToolFormat.MISTRAL: lambda _: MistralAnswer(),
    ToolFormat.MISTRAL_ARGS: lambda _: MistralAnswer(),
    ToolFormat.PYTHONIC: lambda _: PythonAnswer(),
}

MARKS: dict[ToolFormat, tuple[str, ...]] = {
    ToolFormat.HERMES: (BEGIN, END),
    ToolFormat.QWEN3_CODER: (BEGIN, END),
    ToolFormat.GLM: (BEGIN, END, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    ToolFormat.LLAMA3_JSON: (PYTHON_TAG,),
    ToolFormat.MISTRAL: ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    ToolFormat.MISTRAL_ARGS: ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    ToolFormat.PYTHONIC: (),
}
"""What must stay in the text although it may be special tokens."""


def new_parser(form: ToolFormat, tools: tuple[Tool, ...]) -> ToolParser:
    """A reader for one answer."""
    return _PARSERS[form]({tool.name: schema_of(tool) for tool in tools})


def schema_of(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's parameters."""
    schema: dict[str, Any] = orjson.loads(tool.parameters)
    return schema
