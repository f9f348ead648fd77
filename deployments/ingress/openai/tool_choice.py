"""`tools` and `tool_choice`: which functions the model is told of, and whether it must call one."""

from typing import Any

from deployments.errors import BadRequest, shown
from deployments.ingress.openai.json_schema import closed
from deployments.ingress.openai.schema import ChatRequest, ChosenTool, FunctionTool
from deployments.ingress.request import ToolUse
from deployments.ingress.wire import validated
from deployments.types import Tool

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


def read_tool_use(request: ChatRequest) -> ToolUse | None:
    """None where no tool may be called. Raises `BadRequest` naming the field at fault."""
    tools = tuple(_tool(document, f"tools[{i}]") for i, document in enumerate(request.tools))
    names = [tool.name for tool in tools]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise BadRequest(f"`tools[{i}].function.name` is there twice", param=f"tools[{i}].function.name")
    choice = request.tool_choice or "auto"
    if isinstance(choice, dict):
        return _chosen(choice, tools, request.parallel_tool_calls)
    if choice not in ("none", "auto", "required"):
        raise BadRequest("`tool_choice` is none, auto, required or a function", param="tool_choice")
    if choice == "required" and not tools:
        raise BadRequest("`tool_choice` is required, but there are no `tools`", param="tools")
    if choice == "none" or not tools:
        return None
    return ToolUse(tools, choice == "required", request.parallel_tool_calls)


def _tool(document: object, label: str) -> Tool:
    if isinstance(document, dict):
        kind = document.get("type")
        if kind != "function":
            said = f"`{label}.type` is {shown(str(kind))!r}; only function tools are supported"
            raise BadRequest(said, param=f"{label}.type")
        document = {name: value for name, value in document.items() if name != "cache_control"}
    else:
        raise BadRequest(f"{label} must be an object with a function", param=label)
    function = validated(FunctionTool, document, label).function
    return Tool(function.name, function.description, closed(function.parameters or NO_PARAMETERS), function.strict)


def _chosen(choice: dict[str, Any], tools: tuple[Tool, ...], parallel: bool) -> ToolUse:
    if choice.get("type") == "allowed_tools":
        return _allowed(choice, tools, parallel)
    name = validated(ChosenTool, choice, "tool_choice").function.name
    named = tuple(tool for tool in tools if tool.name == name)
    if not named:
        raise BadRequest(f"`tool_choice` names {shown(name)!r}, which is none of `tools`", param="tool_choice")
    return ToolUse(named, required=True, parallel=False)


def _allowed(choice: dict[str, Any], tools: tuple[Tool, ...], parallel: bool) -> ToolUse:
    inner = choice.get("allowed_tools", choice)
    listed = inner.get("tools") if isinstance(inner, dict) else None
    if not isinstance(listed, list):
        raise BadRequest("`tool_choice.allowed_tools.tools` is missing", param="tool_choice")
    chosen = [validated(ChosenTool, entry if isinstance(entry, dict) else {}, "tool_choice") for entry in listed]
    names = {entry.function.name for entry in chosen}
    allowed = tuple(tool for tool in tools if tool.name in names)
    if len(allowed) < len(names) or not allowed:
        raise BadRequest("`tool_choice` allows a function that is none of `tools`", param="tool_choice")
    return ToolUse(allowed, inner.get("mode") == "required", parallel)
