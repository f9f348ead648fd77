"""The body of `POST /v1/chat/completions`: fields with their types, and what becomes of fields that are not supported.

A field which would change the answer and isn't supported is refused by name; one that asks for nothing is accepted.
Whatever isn't known at all is refused too, so that a misspelt field doesn't pass in silence. Parts: `content_parts`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from deployments.errors import BadRequest
from deployments.ingress.wire import FrameOptions, PositiveInt, SluiceOptions, Wire, validated

MAX_STOPS = 16
MAX_STOP_CHARS = 512
MAX_LOGIT_BIASES = 1024
MAX_TOP_LOGPROBS = 20
MAX_BAD_WORDS = 128
MAX_TOOLS = 128

HARMLESS = frozenset(
    {
        "cache_salt",
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
NEUTRAL: dict[str, tuple[object, ...]] = {
    "add_special_tokens": (False,),
    "allowed_token_ids": (),
    "audio": (),
    "best_of": (1,),
    "chat_template": (),
    "detokenize": (True,),
    "documents": (),
    "function_call": ("none",),
    "functions": (),
    "include_stop_str_in_output": (),
    "length_penalty": (1,),
    "modalities": (["text"],),
    "priority": (0,),
    "prompt_logprobs": (),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (),
    "web_search_options": (),
}
"""Unsupported fields, and their values that ask for nothing else than what is done anyway; empty ones always do."""

MESSAGE_HARMLESS = frozenset({"annotations", "name", "index"})
MESSAGE_NEUTRAL: dict[str, tuple[object, ...]] = {"audio": (), "function_call": ()}

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]


class CalledFunction(Wire):
    name: ToolName
    arguments: str | dict[str, Any] = ""


class AskedCall(Wire):
    """One of an assistant's `tool_calls`."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class Message(Wire):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Any] | None = None
    tool_calls: list[AskedCall] = []
    tool_call_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class Function(Wire):
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False


class FunctionTool(Wire):
    type: Literal["function"]
    function: Function


class ChosenFunction(Wire):
    name: ToolName


class ChosenTool(Wire):
    type: Literal["function"] = "function"
    function: ChosenFunction


class StreamOptions(Wire):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    """Each piece carries the usage so far."""
    include_obfuscation: bool = False
    """Accepted; nothing is padded."""


class JsonSchema(Wire):
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None
    """Accepted: an answer always keeps to its schema."""


class ResponseFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Wire):
    """As vLLM has it; one of them."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=1024)] | None = None
    grammar: str | None = None
    json_object: bool = False


class SamplingFields(Wire):
    """How tokens are chosen; the same in all of OpenAI's endpoints."""

    stream: bool = False
    stream_options: StreamOptions | None = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] = 0
    """0 and -1: all."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: PositiveInt = 1
    stop: str | list[str] | None = None
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=MAX_STOPS)] = []
    ignore_eos: bool = False
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_LOGIT_BIASES)] = {}
    bad_words: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]], Field(max_length=MAX_BAD_WORDS)
    ] = []
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], Field(min_length=1, max_length=1024)] | None = None
    guided_grammar: str | None = None
    skip_special_tokens: bool = True
    return_token_ids: bool = False
    echo: bool = False
    sluice: SluiceOptions = SluiceOptions()


class ChatRequest(SamplingFields, FrameOptions):
    """The body of `POST /v1/chat/completions`."""

    model: str
    messages: Annotated[list[Any], Field(min_length=1)]
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    mm_processor_kwargs: dict[str, Any] = {}
    media_io_kwargs: dict[str, dict[str, Any]] = {}
    use_audio_in_video: bool = False
    tools: Annotated[list[Any], Field(max_length=MAX_TOOLS)] = []
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=16)] = {}
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    max_reasoning_tokens: Annotated[int, Field(ge=0)] | None = None
    include_reasoning: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False


def supported(
    document: dict[str, Any], harmless: frozenset[str], neutral: dict[str, tuple[object, ...]], prefix: str = ""
) -> dict[str, Any]:
    """The fields that mean something. Raises `BadRequest` for one that asks for what is not done."""
    fields = {}
    for name, value in document.items():
        if name in harmless:
            continue
        if name in neutral:
            if value not in (None, [], {}, False, "") and value not in neutral[name]:
                raise BadRequest(f"`{prefix}{name}` is not supported by this server", param=prefix + name)
        else:
            fields[name] = value
    return fields


def parse_request(document: object) -> ChatRequest:
    """The request in a JSON document. Raises `BadRequest` naming the first field at fault in `param`."""
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object")
    return validated(ChatRequest, supported(document, HARMLESS, NEUTRAL), "")


def parse_message(document: object, label: str) -> Message:
    """One of `messages`; `label` is its place. Raises `BadRequest`."""
    if not isinstance(document, dict):
        raise BadRequest(f"{label} must be an object with a role and a content", param=label)
    return validated(Message, supported(document, MESSAGE_HARMLESS, MESSAGE_NEUTRAL, f"{label}."), label)
