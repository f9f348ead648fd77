"""What crosses a stage boundary: frozen dataclasses of small metadata. Tensors travel beside them, by reference.

Shape legend: T frames (or tokens, where a name says so), H height, W width, C channels; all pixels are RGB.

Every stage method is an async generator called as `method(remaining_s, *metadata, *payloads)`. It yields its metadata
first and then, when it has one, its payload: a numpy array, or a dict of numpy arrays by name.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Payload = NDArray[Any] | dict[str, NDArray[Any]]


class MediaKind(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


MODALITIES = ("text", *(kind.value for kind in MediaKind))
"""What a prompt is made of, in the order in which it is told."""


class StageName(StrEnum):
    """Where a request's time goes and where it can fail: in errors, log, metrics, spans, `Server-Timing` and usage."""

    INGRESS = "ingress"
    ADMISSION = "admission"
    FETCH = "fetch"
    VIDEO_DECODE = "video_decode"
    PREPROCESS = "preprocess"
    MODEL = "model"
    # phases of the model stage
    QUEUE = "queue"
    ENCODE = "encode"
    PREFILL = "prefill"
    DECODE = "decode"


class CacheUse(StrEnum):
    """Whether something was there already, as answers tell it."""

    HIT = "hit"
    REVALIDATED = "revalidated"
    """There already; its host was asked whether it still holds, and sent nothing."""
    MISS = "miss"
    OFF = "off"
    """Nobody looked: the client wants none of it, or the server keeps none."""


# ── media: ingress -> fetcher -> decoder ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One thing to fetch, as the client named it."""

    kind: MediaKind
    """What the content part says it is. The fetcher refuses bytes that are something else."""
    label: str
    """Where it stands in the request, for errors: `messages[1].content[0]`."""
    url: str | None
    """`http:`, `https:` or `file:` URL; None when a `data:` URL's text travels beside as payload (uint8, ASCII)."""
    client: str = ""
    """Whose request it is: nobody gets more than a share of connections, look-ups and room."""
    embeds: bool = False
    """Whether the bytes are encoder outputs of such an item (safetensors) instead of the item."""
    cache: bool = True
    """Whether what was fetched before may answer, and this may be kept for later."""
    known: tuple[str, ...] = ()
    """Digests of contents that the caller has no use for: it has what is made of them. Their bytes are not sent."""
    confirmed: str = ""
    """Digest of the content that the caller was told a moment ago: the host is not asked for it once more."""
    in_parts: bool = False
    """Whether a large file may stay where it is, to be read by ranges (`Fetched.remote`)."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that stays with its host and is read by ranges, through the fetcher alone."""

    url: str = field(repr=False)
    """After redirects; its query may hold a signature."""
    version: str
    """What `If-Range` names: a strong ETag, or the date of the last change."""
    size_bytes: int
    max_read_bytes: int
    """What may be read of it in all."""
    client: str = ""
    """As in `MediaItem`; of whoever reads it, as is `key`."""
    key: str = ""
    """The fetch's own: ranges are asked for where it was answered, and where connections to the host are open."""


@dataclass(frozen=True, slots=True)
class RangesRead:
    """Of `MediaFetcher.read_ranges`; its payload is the ranges one after the other, one uint8 array."""

    size_bytes: int
    fetch_s: float
    refused: bool = False
    """The host does not keep to ranges: nothing was read."""


@dataclass(frozen=True, slots=True)
class WholeNeeded:
    """Of `VideoDecoder.decode_remote` in place of frames: the file can't be read in parts, or it would not pay."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """Of `MediaFetcher.fetch`; its payload is the item's bytes as one uint8 array of shape (size_bytes,), which is left
    out for contents that are `known`."""

    kind: MediaKind
    container: str
    """By magic bytes: `jpeg png webp gif bmp tiff heic avif`, `mp4 matroska avi mpegts flv`, `wav flac ogg mp3 aac`."""
    size_bytes: int
    final_url: str | None
    """After redirects, without credentials; None for `data:`."""
    fetch_s: float
    """Seconds inside the fetcher."""
    digest: str = ""
    """SHA-256 of the bytes, hexadecimal; empty where nothing is kept by it."""
    cache: CacheUse = CacheUse.OFF
    """Where the bytes came from."""
    remote: RemoteFile | None = None
    """Set for a file that is to be read by ranges: the payload is its beginning only, and nobody knows its digest."""
    pixels: int = 0
    """Height x width of a picture, by its header; 0 where that does not tell, and of other kinds."""

    @property
    def file_bytes(self) -> int:
        """Size of the file, wherever the most of it is."""
        return self.size_bytes if self.remote is None else self.remote.size_bytes


@dataclass(frozen=True, slots=True)
class FrameSampling:
    """Which frames a request wants, within the server's limits. Exactly one of `num_frames`, `fps` is set."""

    num_frames: int | None
    """This many, uniformly over the span; fewer when the video has fewer."""
    fps: float | None
    """One frame each 1/fps seconds of the video's own time line."""
    max_frames: int
    min_frames: int = 1
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class ResizeRule:
    """How the model's video processor derives the size of its frames; pure data, applied by `media.geometry`.

    `frame`: multiples of `factor` with min_pixels <= H*W <= max_pixels. `clip`: the same for T*H*W, T rounded to a
    multiple of `temporal_factor`. `exact`: `height` x `width`.
    """

    kind: Literal["frame", "clip", "exact"]
    factor: int = 1
    temporal_factor: int = 1
    min_pixels: int = 0
    max_pixels: int = 0
    height: int = 0
    width: int = 0


@dataclass(frozen=True, slots=True)
class PatchRule:
    """How the model's video processor cuts frames into the rows of its tensor; pure data, applied by `media.patches`.

    A row holds `temporal` frames of a square of `patch` pixels, channel after channel; squares of `merge` x `merge`
    patches stand together.
    """

    patch: int
    merge: int
    temporal: int


@dataclass(frozen=True, slots=True)
class VideoTask:
    """What `VideoDecoder.decode` is asked for, beside the bytes."""

    label: str
    sampling: FrameSampling
    resize: ResizeRule | None
    """Deliver frames at this size; None for the source's size."""
    audio_rate_hz: int | None
    """Deliver the audio track at this rate; None when it is not wanted."""
    patches: PatchRule | None = None
    """Deliver frames that have the size of `resize` as the model's own tensor; None for frames as such."""


@dataclass(frozen=True, slots=True)
class DecodedVideo:
    """Of `VideoDecoder`; payload {"frames_THWC": uint8 RGB contiguous, "audio": float32 (samples,) when asked for}.

    With `patch_grid` set "patches", uint8 (rows, values of a row), takes the place of "frames_THWC". A video without an
    audio track delivers an empty `audio`.
    """

    source_fps: float
    """Mean frame rate by timestamps; 1.0 for a lone frame and for lists of pictures without a rate."""
    duration_s: float
    total_frames: int
    indices: tuple[int, ...]
    """Display-order numbers of the frames delivered, ascending."""
    timestamps_s: tuple[float, ...]
    """Presentation times of the frames delivered, relative to the first frame of the file."""
    source_height: int
    source_width: int
    """As displayed: after rotation."""
    rotation_deg: int
    """Anticlockwise rotation which was applied: 0, 90, 180, 270."""
    backend: str
    lost_frames: int
    """Frames wanted which could not be decoded."""
    decode_s: float
    payload_bytes: int = 0
    patch_grid: tuple[int, int, int] | None = None
    """Rows of patches over time, height and width, when the payload is cut into them; the last frame then stands twice
    or more where there are too few for the last rows."""
    later: "tuple[GroupTask, ...]" = ()
    """Not empty where the payload is the first group of patches alone, and these are the others, each to be had of
    `VideoDecoder.decode_group`. What is told here is then of all of them, and a promise: it was told before."""

    @property
    def patches_shape(self) -> tuple[int, int]:
        """Of "patches", the whole payload."""
        assert self.patch_grid is not None, "the payload is frames"
        rows = math.prod(self.patch_grid)
        return rows, self.payload_bytes // max(rows, 1)


@dataclass(frozen=True, slots=True)
class PartTask:
    """Some of the frames of a video, for another decoder. Numbers are those of packets of the file's video track."""

    packets: tuple[int, ...]
    """Whose frames are wanted, in their order of display."""
    runs: tuple[tuple[int, int], ...]
    """First and last (exclusive) packet of each run that is decoded for them, in decode order."""
    clip_frames: int
    """Of the whole video: the size of each may depend on their number."""


@dataclass(frozen=True, slots=True)
class GroupTask:
    """Some frames of a video that make whole rows of patches; the answer is {"patches"} of these, or `MediaLost`."""

    part: PartTask
    clip: str
    """Names the video: groups of one are decoded one after the other by a replica."""
    source_height: int
    source_width: int
    rotation_deg: int
    """As the first group has them."""


@dataclass(frozen=True, slots=True)
class PartReply:
    """First of `VideoDecoder.decode_part`, at once; nothing follows where the part is not taken."""

    taken: bool


@dataclass(frozen=True, slots=True)
class DecodedPart:
    """Second of `VideoDecoder.decode_part`; payload {"frames_THWC": uint8 RGB} or {"planes_TCHW": the same pixels}."""

    kept: tuple[int, ...]
    """Places in `PartTask.packets` of the frames that came out."""
    source_height: int
    source_width: int
    rotation_deg: int
    """As in `DecodedVideo`."""


# ── prompt: ingress -> preprocessor -> model ─────────────────────────────────────────────────────────────────────────


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


# ── answer: model -> ingress ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like."""

    kind: Literal["json_schema", "regex", "lark"]
    text: str
    """JSON text of a schema, `{}` for any JSON object; a regular expression; a grammar as llguidance reads them."""
    param: str = "response_format"
    """The request's field that asked for it, for errors."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens; validated at the ingress. Neutral values change nothing."""

    max_tokens: int | None = None
    """None: whatever the context has room for."""
    min_tokens: int = 0
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    """None: none; k: the chosen token's and the k most likely ones'."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: Grammar | None = None
    """What the answer must follow, thoughts before it left free."""
    bad_words: tuple[str, ...] = ()
    """Never to be written."""
    max_reasoning_tokens: int | None = None
    """Tokens of thoughts, after which they are ended; None: no limit of their own."""
    skip_special_tokens: bool = True
    visible_tokens: tuple[str, ...] = ()
    """Special tokens that are part of the text all the same."""
    return_token_ids: bool = False
    score_prompt: bool = False
    """The prompt's own tokens come first in the answer, with their log-probabilities, as if they were chosen."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token_id: int
    token: str
    """Half a character reads as U+FFFD; a special token as its name."""
    raw: bytes
    """The token's own bytes: those of an answer's tokens, put together, are its text in UTF-8."""
    logprob: float | None
    """Natural logarithm; None for a prompt's first token, which follows from nothing."""
    top: "tuple[TokenLogprob, ...]" = ()
    """The most likely ones, best first."""


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """New tokens of one choice since its last delta."""

    index: int
    """Which of the `n` choices."""
    text: str
    """Whole characters only; may be empty while a character or a possible stop string is incomplete."""
    num_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    """Set on the last delta of a choice."""
    num_reasoning_tokens: int = 0
    """How many of them are thoughts."""
    token_ids: tuple[int, ...] = ()
    """Where the request wants them."""
    stop_reason: str | int | None = None
    """The stop string or token of the request that ended the choice."""


@dataclass(frozen=True, slots=True)
class GenerateTimes:
    """Where a request's time went inside the model replica, in seconds."""

    queue_s: float
    encode_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class GenerateChunk:
    """What `Model.generate` yields, several times; the last one carries `times`."""

    deltas: tuple[TokenDelta, ...]
    times: GenerateTimes | None = None
    cached_tokens: int = 0
    """Of the prompt, in the last one: their keys and values were there already."""
    encoded: frozenset[str] = frozenset()
    """Labels of the items that a tower had to look at, in the last one."""
    media_s: float | None = None
    """From the call until all media had come that were promised; None where none were, or not all have come."""
