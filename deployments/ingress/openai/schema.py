"""What a chat-completions request may hold: the fields of OpenAI's API, and the extensions that Sluice answers to.

Null equals absent. A field that would change the answer and isn't supported is refused by its name; one that changes
nothing is accepted; one that is unknown is refused by its name too. The contents of messages are read in `parts`.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deployments.errors import BadRequest, shown

MAX_STOPS = 16
MAX_STOP_CHARS = 512
MAX_LOGIT_BIASES = 1024
MAX_TOP_LOGPROBS = 20

HARMLESS = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
UNSUPPORTED = frozenset(
    {
        "add_generation_prompt",
        "audio",
        "best_of",
        "chat_template",
        "chat_template_kwargs",
        "continue_final_message",
        "documents",
        "echo",
        "function_call",
        "functions",
        "guided_choice",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "length_penalty",
        "prediction",
        "prompt_logprobs",
        "reasoning",
        "reasoning_effort",
        "structured_outputs",
        "tools",
        "use_beam_search",
        "verbosity",
        "web_search_options",
    }
)
SAYING_NOTHING: dict[str, tuple[object, ...]] = {"modalities": (["text"],), "tool_choice": ("none",)}
"""Unsupported fields, and their values that ask for nothing else than what is done anyway."""

MESSAGE_HARMLESS = frozenset({"annotations", "name"})
MESSAGE_UNSUPPORTED = frozenset(
    {"audio", "function_call", "reasoning_content", "refusal", "tool_call_id", "tool_calls"}
)


class Wire(BaseModel):
    """Base of what comes over HTTP: exact JSON types, unknown keys refused, null equals absent."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, fields: object) -> object:
        if isinstance(fields, dict):
            return {name: value for name, value in fields.items() if value is not None}
        return fields


W = TypeVar("W", bound=Wire)


PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SecondsFromStart = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]


class FrameOptions(Wire):
    """Which frames of a video to look at; at the top level, and in a part for that video alone."""

    fps: PositiveFloat | None = None
    num_frames: PositiveInt | None = None
    max_frames: PositiveInt | None = None
    start_s: SecondsFromStart | None = None
    end_s: SecondsFromStart | None = None


NO_FRAME_OPTIONS = FrameOptions()


def merged(*layers: FrameOptions) -> FrameOptions:
    """Later layers override earlier ones; `fps` and `num_frames` override each other."""
    fields: dict[str, Any] = {}
    for layer in layers:
        said = {name: value for name in FrameOptions.model_fields if (value := getattr(layer, name)) is not None}
        if "fps" in said or "num_frames" in said:
            fields.pop("fps", None)
            fields.pop("num_frames", None)
        fields |= said
    return FrameOptions(**fields)


class Message(Wire):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Any] | None = None


class StreamOptions(Wire):
    include_usage: bool = False
    include_obfuscation: bool = False
    """Accepted; nothing is padded."""


class JsonSchema(Wire):
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(FrameOptions):
    """The body of `POST /v1/chat/completions`."""

    model: str
    messages: Annotated[list[Any], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
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
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_LOGIT_BIASES)] = {}
    response_format: ResponseFormat | None = None
    mm_processor_kwargs: dict[str, Any] = {}
    use_audio_in_video: bool = False


def parse_request(document: object) -> ChatRequest:
    """The request in a JSON document. Raises `BadRequest` naming the first field at fault in `param`."""
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object")
    fields = {}
    for name, value in document.items():
        if name in HARMLESS:
            continue
        if name in UNSUPPORTED or name in SAYING_NOTHING:
            refuse_unsupported(name, value, name)
        else:
            fields[name] = value
    return validated(ChatRequest, fields, "")


def parse_message(document: object, label: str) -> Message:
    """One of `messages`; `label` is its place. Raises `BadRequest`."""
    if not isinstance(document, dict):
        raise BadRequest(f"{label} must be an object with a role and a content", param=label)
    fields = {}
    for name, value in document.items():
        if name in MESSAGE_HARMLESS:
            continue
        if name in MESSAGE_UNSUPPORTED:
            refuse_unsupported(name, value, f"{label}.{name}")
        else:
            fields[name] = value
    return validated(Message, fields, label)


def refuse_unsupported(name: str, value: object, param: str) -> None:
    """Raise `BadRequest` unless `value` asks for nothing."""
    if value in (None, [], {}, False, "") or value in SAYING_NOTHING.get(name, ()):
        return
    raise BadRequest(f"`{param}` is not supported by this server", param=param)


def validated(model: type[W], fields: dict[str, Any], label: str) -> W:
    """`model` from `fields`. Raises `BadRequest` whose `param` is `label` and the path below it."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = _path(label, first["loc"])
        raise BadRequest(_said(first["type"], first["msg"], param), param=shown(param)) from error


def _path(label: str, loc: tuple[int | str, ...]) -> str:
    """`messages[0]` and ("image_url", "url") -> `messages[0].image_url.url`; names of union branches are left out."""
    path = label
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step not in ("str", "[key]") and "[" not in step:
            path += f".{step}" if path else step
    return path


def _said(kind: str, message: str, param: str) -> str:
    if kind == "extra_forbidden":
        return f"unknown field `{shown(param)}`"
    if kind == "missing":
        return f"`{shown(param)}` is missing"
    return f"`{shown(param)}`: {shown(message)}"
