"""From a validated request to what the stages work with: the conversation, its media items, the sampling parameters."""

from dataclasses import dataclass
from typing import Any, Literal

import orjson

from deployments.config import AppConfig, IngressConfig
from deployments.errors import BadRequest, ModelNotFound, TooManyItems, shown
from deployments.ingress.http.body import Body
from deployments.ingress.openai.content_parts import ItemPlan, PartReader
from deployments.ingress.openai.schema import (
    MAX_STOP_CHARS,
    MAX_STOPS,
    ChatRequest,
    FrameOptions,
    ResponseFormat,
    merged,
    parse_message,
    parse_request,
    validated,
)
from deployments.types import Chat, ChatMessage, ChatPart, MediaKind, SamplingParams

MAX_MESSAGES = 1024
MAX_PARTS = 1024

Role = Literal["system", "user", "assistant"]
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request, checked against everything that can be checked before any work."""

    chat: Chat
    items: tuple[ItemPlan, ...]
    frames: FrameOptions
    """The request's own; an item's override them."""
    params: SamplingParams
    stream: bool
    include_usage: bool
    """Whether a stream ends with a usage chunk."""


def read_request(body: Body, config: AppConfig) -> GenerationRequest:
    """Raises `BadRequest`, `ModelNotFound` or `TooManyItems`, each naming the field at fault."""
    _check_size(body.document)
    request = parse_request(body.document)
    if request.model != config.model_name:
        said = f"the model {shown(request.model)!r} does not exist; this server has {config.model_name!r}"
        raise ModelNotFound(said, param="model")
    reader = PartReader(body.cuts, config.ingress.max_list_frames)
    messages = tuple(_message(document, i, reader) for i, document in enumerate(request.messages))
    _check_counts(reader.items, config.ingress)
    frames, use_audio, processor_kwargs = _media_options(request, config.preprocessor.allowed_processor_kwargs)
    params = sampling_params(request, config.ingress)
    chat = Chat(messages, processor_kwargs, use_audio, params.max_tokens)
    include_usage = request.stream_options is not None and request.stream_options.include_usage
    return GenerationRequest(chat, tuple(reader.items), frames, params, request.stream, include_usage)


def sampling_params(request: ChatRequest, config: IngressConfig) -> SamplingParams:
    """Raises `BadRequest` for what single fields can't tell: values that contradict others or the server's limits."""
    if request.n > config.max_choices:
        raise BadRequest(f"`n` is {request.n}; at most {config.max_choices} choices are allowed", param="n")
    if request.top_logprobs is not None and not request.logprobs:
        raise BadRequest("`top_logprobs` needs `logprobs: true`", param="top_logprobs")
    max_tokens = _max_tokens(request, config)
    if request.min_tokens > (max_tokens or config.max_tokens):
        raise BadRequest("`min_tokens` is larger than the answer may be", param="min_tokens")
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=request.min_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=max(request.top_k, 0),
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        seed=request.seed,
        n=request.n,
        stop=_stops(request.stop),
        stop_token_ids=tuple(request.stop_token_ids),
        ignore_eos=request.ignore_eos,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        logit_bias=_logit_bias(request.logit_bias),
        json_schema=_json_schema(request.response_format),
    )


def _check_size(document: object) -> None:
    """Bounds what validation may cost."""
    messages = document.get("messages") if isinstance(document, dict) else None
    if not isinstance(messages, list):
        return
    if len(messages) > MAX_MESSAGES:
        raise BadRequest(f"there are {len(messages)} messages; at most {MAX_MESSAGES} are allowed", param="messages")
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    parts = sum(len(content) for content in contents if isinstance(content, list))
    if parts > MAX_PARTS:
        raise BadRequest(f"the messages have {parts} parts; at most {MAX_PARTS} are allowed", param="messages")


def _message(document: object, number: int, reader: PartReader) -> ChatMessage:
    label = f"messages[{number}]"
    message = parse_message(document, label)
    parts = reader.read(message, label)
    return ChatMessage(
        _ROLES[message.role],
        tuple(ChatPart(part) if isinstance(part, str) else ChatPart(None, part) for part in parts),
    )


def _check_counts(items: list[ItemPlan], config: IngressConfig) -> None:
    limits = {
        MediaKind.IMAGE: config.max_images,
        MediaKind.VIDEO: config.max_videos,
        MediaKind.AUDIO: config.max_audios,
    }
    for kind, limit in limits.items():
        named = [item for item in items if item.kind == kind]
        if len(named) > limit:
            said = f"the request has {len(named)} {kind} items; at most {limit} are allowed"
            raise TooManyItems(said, param=named[limit].label)


def _media_options(
    request: ChatRequest, allowed: tuple[str, ...]
) -> tuple[FrameOptions, bool, tuple[tuple[str, Any], ...]]:
    """Frame options, `use_audio_in_video`, and what of `mm_processor_kwargs` goes to the processor.

    Frame options and `use_audio_in_video` may stand in `mm_processor_kwargs` too; at the top level they win.
    """
    extra = {key: value for key, value in request.mm_processor_kwargs.items() if value is not None}
    own = {key: extra.pop(key) for key in list(extra) if key in FrameOptions.model_fields}
    use_audio = extra.pop("use_audio_in_video", False)
    if not isinstance(use_audio, bool):
        param = "mm_processor_kwargs.use_audio_in_video"
        raise BadRequest(f"`{param}` must be true or false", param=param)
    for key in extra:
        if key not in allowed:
            known = ", ".join((*allowed, *FrameOptions.model_fields, "use_audio_in_video"))
            param = f"mm_processor_kwargs.{shown(key)}"
            raise BadRequest(f"`{param}` is not allowed; allowed are {known}", param=param)
    frames = merged(validated(FrameOptions, own, "mm_processor_kwargs"), _frame_options(request))
    return frames, use_audio or request.use_audio_in_video, tuple(sorted(extra.items()))


def _frame_options(request: ChatRequest) -> FrameOptions:
    return FrameOptions(**{name: getattr(request, name) for name in FrameOptions.model_fields})


def _max_tokens(request: ChatRequest, config: IngressConfig) -> int | None:
    if request.max_tokens and request.max_completion_tokens and request.max_tokens != request.max_completion_tokens:
        raise BadRequest("`max_tokens` and `max_completion_tokens` contradict each other", param="max_tokens")
    name = "max_tokens" if request.max_tokens else "max_completion_tokens"
    asked = request.max_tokens or request.max_completion_tokens or config.default_max_tokens
    if asked is not None and asked > config.max_tokens:
        raise BadRequest(f"`{name}` is {asked}; at most {config.max_tokens} are allowed", param=name)
    return asked


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS or any(not 0 < len(text) <= MAX_STOP_CHARS for text in stops):
        said = f"`stop` takes up to {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters"
        raise BadRequest(said, param="stop")
    return stops


def _logit_bias(biases: dict[str, float]) -> tuple[tuple[int, float], ...]:
    if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in biases):
        raise BadRequest("the keys of `logit_bias` are token ids", param="logit_bias")
    return tuple((int(key), value) for key, value in biases.items())


def _json_schema(response_format: ResponseFormat | None) -> str | None:
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return "{}"
    schema = response_format.json_schema and response_format.json_schema.schema_
    if schema is None:
        param = "response_format.json_schema.schema"
        raise BadRequest(f"`{param}` is missing", param=param)
    return orjson.dumps(schema).decode()
