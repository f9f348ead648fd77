"""From the body of a chat completion to what the stages work with: conversation, media items, sampling parameters."""

from dataclasses import replace
from typing import Any

from deployments.config import IngressConfig
from deployments.errors import BadRequest, shown
from deployments.ingress.http.body import Body
from deployments.ingress.models import Models
from deployments.ingress.openai.content_parts import PartReader
from deployments.ingress.openai.conversation import check_counts, check_size, read_message
from deployments.ingress.openai.sampling import limited, sampling_params
from deployments.ingress.openai.schema import ChatRequest, parse_request
from deployments.ingress.openai.tool_choice import read_tool_use
from deployments.ingress.request import GenerationRequest
from deployments.ingress.wire import FrameOptions, merged, validated
from deployments.types import Chat, ChatMessage, SamplingParams

MAX_KWARG_CHARS = 64
_NEUTRAL_IO: dict[tuple[str, str], tuple[object, ...]] = {
    ("image", "image_mode"): ("RGB",),
    ("image", "rgba_background_color"): ([255, 255, 255],),
    ("audio", "mono"): (True,),
    ("audio", "sr"): (),
}
"""By kind and name: the values of `media_io_kwargs` by which things are done anyway."""


def read_request(body: Body, models: Models, *, counts: bool = False) -> GenerationRequest:
    """Raises `BadRequest`, `ModelNotFound` or `TooManyItems`, each naming the field at fault.

    `counts`: only tokens are to be counted, so that media which tell their size are not needed.
    """
    document = body.document
    messages = document.get("messages") if isinstance(document, dict) else None
    check_size(messages, "messages")
    labels = [f"messages[{i}]" for i in range(len(messages))] if isinstance(messages, list) else []
    return read_chat(parse_request(document), labels, body, models, counts=counts)


def read_chat(
    request: ChatRequest, labels: list[str], body: Body, models: Models, *, counts: bool = False
) -> GenerationRequest:
    """The same of a chat request whose messages stand at the places `labels` of a body, of whichever API."""
    config = models.named(request.model)
    takes_embeds = config.media.max_embeds_bytes > 0
    reader = PartReader(body.cuts, config.ingress.max_list_frames, takes_embeds=takes_embeds, counts=counts)
    messages = [read_message(entry, at, reader) for entry, at in zip(request.messages, labels, strict=True)]
    check_counts(reader.items, config.ingress)
    frames, use_audio, processor_kwargs = _media_options(
        request, reader.processor_kwargs, config.preprocessor.allowed_processor_kwargs
    )
    params = _params(request, config.ingress)
    tool_use = read_tool_use(request)
    options = request.stream_options
    chat = Chat(
        tuple(messages),
        processor_kwargs,
        use_audio,
        params.max_tokens,
        tool_use.tools if tool_use else (),
        _template_kwargs(request.chat_template_kwargs),
        request.reasoning_effort,
        _continues(request, messages),
    )
    return GenerationRequest(
        request.model,
        chat,
        tuple(reader.items),
        frames,
        params,
        request.stream,
        include_usage=options is not None and options.include_usage,
        continuous_usage=options is not None and options.continuous_usage_stats,
        tool_use=tool_use,
        show_reasoning=request.include_reasoning,
        echo=_echo(messages) if request.echo else "",
        reuse=request.sluice.cache,
    )


def _params(request: ChatRequest, config: IngressConfig) -> SamplingParams:
    if request.top_logprobs is not None and not request.logprobs:
        raise BadRequest("`top_logprobs` needs `logprobs: true`", param="top_logprobs")
    if request.max_tokens and request.max_completion_tokens and request.max_tokens != request.max_completion_tokens:
        raise BadRequest("`max_tokens` and `max_completion_tokens` contradict each other", param="max_tokens")
    name = "max_tokens" if request.max_tokens else "max_completion_tokens"
    params = sampling_params(
        request,
        config,
        max_tokens=limited(request.max_tokens or request.max_completion_tokens, name, config),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )
    return replace(params, max_reasoning_tokens=request.max_reasoning_tokens)


def _continues(request: ChatRequest, messages: list[ChatMessage]) -> bool:
    """Whether the answer carries on with the last message. Raises `BadRequest` where that is half said."""
    if request.continue_final_message == request.add_generation_prompt:
        param = "continue_final_message" if request.continue_final_message else "add_generation_prompt"
        if param == "continue_final_message":
            raise BadRequest(f"`{param}` needs `add_generation_prompt: false`", param=param)
        raise BadRequest(f"`{param}: false` needs `continue_final_message: true`", param=param)
    if request.continue_final_message and (messages[-1].role != "assistant" or not messages[-1].parts):
        param = "continue_final_message"
        raise BadRequest(f"`{param}` needs an assistant's text as the last message", param=param)
    return request.continue_final_message


def _echo(messages: list[ChatMessage]) -> str:
    last = messages[-1]
    return "".join(part.text or "" for part in last.parts) if last.role == "assistant" else ""


def _template_kwargs(kwargs: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Plain values only; which names there may be, the template decides."""
    for name, value in kwargs.items():
        plain = isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= MAX_KWARG_CHARS)
        if value is not None and not plain:
            param = f"chat_template_kwargs.{shown(name)}"
            said = f"`{param}` must be true, false, a number or a text of up to {MAX_KWARG_CHARS} characters"
            raise BadRequest(said, param=param)
    return tuple(sorted((name, value) for name, value in kwargs.items() if value is not None))


def _media_options(
    request: ChatRequest, of_parts: dict[str, int], allowed: tuple[str, ...]
) -> tuple[FrameOptions, bool, tuple[tuple[str, Any], ...]]:
    """Frame options, `use_audio_in_video`, and what of `mm_processor_kwargs` goes to the processor.

    Frame options and `use_audio_in_video` may stand in `mm_processor_kwargs` too; at the top level they win.
    """
    extra = of_parts | {key: value for key, value in request.mm_processor_kwargs.items() if value is not None}
    _check_media_io(request.media_io_kwargs)
    in_io = validated(FrameOptions, request.media_io_kwargs.get("video", {}), "media_io_kwargs.video")
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
    frames = merged(in_io, validated(FrameOptions, own, "mm_processor_kwargs"), _frame_options(request))
    return frames, use_audio or request.use_audio_in_video, tuple(sorted(extra.items()))


def _check_media_io(kwargs: dict[str, dict[str, Any]]) -> None:
    """Raises `BadRequest` for an option of pictures or sounds that asks for something else than what is done."""
    for kind, options in kwargs.items():
        if kind == "video":
            continue
        for name, value in options.items():
            if value is not None and value not in _NEUTRAL_IO.get((kind, name), ()):
                param = f"media_io_kwargs.{shown(kind)}.{shown(name)}"
                raise BadRequest(f"`{param}` is not supported by this server with this value", param=param)


def _frame_options(request: ChatRequest) -> FrameOptions:
    return FrameOptions(**{name: getattr(request, name) for name in FrameOptions.model_fields})
