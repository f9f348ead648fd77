"""Prompts on their way from the ingress to the preprocessor and the model.

Shape legend: T frames (or tokens, where a name says so), H height, W width, C channels; all pixels are RGB.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deployments.types.media import DecodedVideo, FrameSampling, PatchRule, ResizeRule
from deployments.types.names import MediaKind


@dataclass(frozen=True, slots=True)
class ChatPart:
    """A piece of a message: a text, or the media item of this number among the request's items."""

    text: str | None
    item: int | None = None


class ToolFormat(StrEnum):
    """How a model writes its calls of tools; read by `ingress.tools`, told apart by `preprocessor.template`."""

    HERMES = "hermes"
    """`<tool_call>{"name": "f", "arguments": {}}</tool_call>`: Qwen 2.5, 3, VL, Hermes."""
    QWEN3_CODER = "qwen3_coder"
    """`<tool_call><function=f><parameter=x>1</parameter></function></tool_call>`."""
    GLM = "glm"
    """`<tool_call>f<arg_key>x</arg_key><arg_value>1</arg_value></tool_call>`."""
    LLAMA3_JSON = "llama3_json"
    """The whole answer is `{"name": "f", "parameters": {}}`."""
    MISTRAL = "mistral"
    """`[TOOL_CALLS][{"name": "f", "arguments": {}}]`."""
    MISTRAL_ARGS = "mistral_args"
    """`[TOOL_CALLS]f[ARGS]{}`."""
    PYTHONIC = "pythonic"
    """The whole answer is `[f(x=1)]`: Gemma, Llama 4."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask the client to call."""

    name: str
    description: str | None
    parameters: str
    """JSON text of its schema."""
    strict: bool = False
    """Whether arguments must keep to the schema wherever the model calls it."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asked for earlier in the conversation."""

    id: str
    name: str
    arguments: str
    """JSON text of an object."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[ChatPart, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    """Of a tool's message: the call that it answers."""
    reasoning: str | None = None
    """What the assistant thought before it answered; whether it is shown again, the template decides."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation to be answered."""

    messages: tuple[ChatMessage, ...]
    processor_kwargs: tuple[tuple[str, Any], ...] = ()
    """Allow-listed `mm_processor_kwargs` of the request."""
    use_audio_in_video: bool = False
    max_new_tokens: int | None = None
    """None: whatever the context has room for."""
    tools: tuple[Tool, ...] = ()
    template_kwargs: tuple[tuple[str, Any], ...] = ()
    """The request's `chat_template_kwargs`; which ones there may be, the template tells."""
    reasoning_effort: str | None = None
    """`none` turns thinking off where the template can; other values go to templates that take them."""
    continue_last: bool = False
    """The answer carries on with the last message instead of beginning one."""


@dataclass(frozen=True, slots=True)
class PlainPrompt:
    """A text, or its tokens, to be continued without a chat template."""

    text: str
    token_ids: tuple[int, ...] | None = None
    """In place of the text."""
    max_new_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class DeclaredSize:
    """How large an item is that is not looked at: the client says it, the prompt has places for that much."""

    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    """Frames of these per second of the video's time."""
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class MediaInput:
    """One media item as it reaches the preprocessor; its payload has the same place in the list of payloads.

    Pictures and sounds: the payload is the file's bytes. Videos: `video` is set and the payload is the decoder's dict.
    Items whose `pixels_at_model` is set have no place there: their patches go to the model and nowhere else. Nor have
    items that are only counted: those with a `declared` size and no `embeds`.
    """

    kind: MediaKind
    label: str
    container: str
    video: DecodedVideo | None = None
    pixels_at_model: bool = False
    declared: DeclaredSize | None = None
    """Of items that are not looked at."""
    embeds: bool = False
    """Its payload is a safetensors file of encoder outputs."""
    digest: str = ""
    """SHA-256 of its file, or of all files of a list of pictures, hexadecimal; empty where nothing is kept by it."""
    payloads: int = 1
    """How many it has in place of one: groups of its patches."""

    @property
    def has_payload(self) -> bool:
        return not self.pixels_at_model and (self.declared is None or self.embeds)


@dataclass(frozen=True, slots=True)
class MediaMark:
    """A picture, a clip or a sound, named by all that decides what the model is shown of it."""

    kind: MediaKind
    label: str
    """Of the item that it belongs to."""
    digest: str
    """SHA-256, hexadecimal; empty where the model has to name it by its tensors."""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Prompt tokens by modality: `text`, and the kinds of media by their names. Text is the rest of the prompt."""

    by_modality: Mapping[str, int]

    def __getitem__(self, modality: str) -> int:
        return self.by_modality.get(modality, 0)

    @property
    def total(self) -> int:
        """The prompt's length."""
        return sum(self.by_modality.values())


@dataclass(frozen=True, slots=True)
class PixelNorm:
    """`(x * scale - mean) / std` per channel, to be done on the model's device for tensors that are still uint8."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    patch_layout: Literal["NCHW", "flat_channel_major"]
    """Where the channel is: axis -3, or the last axis is (C, temporal * patch * patch) flattened."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Of `Preprocessor.prepare`; payload, if any: the tensors by name (`pixel_values`, `image_grid_thw`, ...)."""

    token_ids: NDArray[np.int32]
    """(prompt tokens,), placeholders of media expanded."""
    counts: TokenCounts
    pixel_norm: PixelNorm | None
    use_audio_in_video: bool
    prepare_s: float
    thinking: "Thinking | None" = None
    """Of a model that thinks aloud: how that looks, and whether this prompt ends within it."""
    cache_salt: str = ""
    """Only prompts of equal salt share what the model keeps of their beginnings and of their media."""
    media: tuple[MediaMark, ...] = ()
    """In the prompt's order."""
    reuse: bool = True
    """Whether what is kept of earlier requests may be used, and this one kept."""
    sizes: Mapping[str, NDArray[Any]] | None = None
    """The tensors, where all pixels are at the model: they are few bytes, and travel along in place of a payload."""
    named_clips: tuple[tuple[int, int], ...] = ()
    """(rows, values) of the patches of each clip, where the model has seen all of them and none is sent along."""


@dataclass(frozen=True, slots=True)
class EncodeTask:
    """What `Encoder.encode` is asked for, beside the tensors; see `Prepared`."""

    pixel_norm: PixelNorm | None
    media: tuple[MediaMark, ...]
    """Of all the request's items, in the prompt's order."""
    cache_salt: str
    reuse: bool
    sizes: Mapping[str, NDArray[Any]] | None = None
    """As in `Prepared`: the tensors then are patches of clips."""
    first_clip: int = 0
    """Which of the request's clips is the first of these; the others may be with other encoders."""
    num_clips: int = 0
    """How many these are, where there are `sizes`; a clip's patches may be several tensors."""


@dataclass(frozen=True, slots=True)
class EncodedMedia:
    """Of `Encoder.encode`; its payload: encoder outputs by name (`model.multimodal.encoded`) and, unless the task has
    `sizes`, those of the preprocessor's tensors that are not made of pixels."""

    encode_s: float
    """Seconds from its first item to its last."""
    size_bytes: int
    encoded: frozenset[str]
    """Labels of the items that a tower had to look at."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """The marks around what a model thinks before it answers."""

    begin: str
    end: str
    begin_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    is_open: bool = False
    """Whether the prompt ends inside: the answer begins with thoughts."""


@dataclass(frozen=True, slots=True)
class StageStates:
    """Which deployments can't answer now, by name."""

    missing: Mapping[str, str | None] = field(default_factory=dict)
    """They should have a replica and have none; with why, where that is known."""
    idle: frozenset[str] = frozenset()
    """They were scaled to nothing and start when they are asked."""


@dataclass(frozen=True, slots=True)
class MediaProfile:
    """What the rest of the graph must know of the model's processor; asked of the preprocessor once."""

    model: str
    modalities: frozenset[MediaKind]
    context_length: int
    """Tokens of prompt and answer together."""
    sampling: FrameSampling
    """The family's own default."""
    resize: ResizeRule | None
    """None when it can't be known before the processor runs: frames then arrive at full size."""
    audio_rate_hz: int | None
    max_audio_s: float | None
    """Longest sound that the processor takes whole."""
    audio_in_video: bool
    """Whether the model listens to a video's audio track."""
    patches: PatchRule | None = None
    """How decoded frames become the model's tensor without the preprocessor; None where only it knows."""
    image_resize: ResizeRule | None = None
    """What pictures are brought to; None when it can't be known before the processor runs."""
    tool_format: ToolFormat | None = None
    """None: the model's template takes no tools."""
    special_marks: tuple[tuple[str, int], ...] = ()
    """Marks of tool calls that are special tokens of this checkpoint, and their ids."""
