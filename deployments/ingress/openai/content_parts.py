"""The parts of a message's content: texts, and the media items of a request in the order in which they stand there."""

import mimetypes
from typing import Annotated, Any, Literal

from pydantic import Field

from deployments.errors import BadRequest, TooManyItems, shown
from deployments.ingress.http.body import DATA_PREFIX
from deployments.ingress.openai.schema import Message
from deployments.ingress.request import ItemPlan, Source
from deployments.ingress.wire import NO_FRAME_OPTIONS, FrameOptions, PositiveFloat, PositiveInt, Wire, merged, validated
from deployments.types import DeclaredSize, MediaItem, MediaKind

MAX_URL_CHARS = 8192

Url = Annotated[str, Field(min_length=1)]
Detail = Literal["auto", "low", "high", "original"]


class TextPart(Wire):
    text: str


class ImageUrl(Wire):
    url: Url
    detail: Detail = "auto"
    """Accepted; the model's own processor chooses the resolution."""


class VideoUrl(FrameOptions):
    url: Url


class AudioUrl(Wire):
    url: Url


class InputAudio(Wire):
    data: Url
    format: Annotated[str, Field(max_length=16)] | None = None
    """A hint: what the sound is, its bytes say."""


class PixelLimits(Wire):
    """Sizes within which the model's processor resizes; of the whole request, as the processor takes them."""

    min_pixels: PositiveInt | None = None
    max_pixels: PositiveInt | None = None


class ImagePart(PixelLimits):
    image_url: ImageUrl
    detail: Detail = "auto"


class VideoPart(FrameOptions, PixelLimits):
    video_url: VideoUrl


class AudioPart(Wire):
    audio_url: AudioUrl


class InputAudioPart(Wire):
    input_audio: InputAudio


class FramesPart(FrameOptions, PixelLimits):
    video: Annotated[list[Url], Field(min_length=1)]


Side = Annotated[int, Field(ge=1, le=2**16)]


class ImageSize(Wire):
    """Of a picture that is not looked at."""

    width: Side | None = None
    height: Side | None = None


class VideoSize(ImageSize):
    """Likewise: its frames, and how many of them stand for a second."""

    num_frames: Side | None = None
    fps: PositiveFloat | None = None


class AudioSize(Wire):
    """Likewise."""

    duration_s: PositiveFloat | None = None


class ImageEmbedsPart(ImageSize):
    image_embeds: Url
    """Base64 of a safetensors file."""


class VideoEmbedsPart(VideoSize):
    video_embeds: Url


class AudioEmbedsPart(AudioSize):
    audio_embeds: Url


class RefusalPart(Wire):
    refusal: str


class File(Wire):
    file_data: Url
    """A `data:` URL, or base64 whose kind the file's name tells."""
    filename: str | None = None


class FilePart(Wire):
    file: File


EMBEDS_PARTS: dict[str, tuple[MediaKind, type[Wire]]] = {
    "image_embeds": (MediaKind.IMAGE, ImageEmbedsPart),
    "video_embeds": (MediaKind.VIDEO, VideoEmbedsPart),
    "audio_embeds": (MediaKind.AUDIO, AudioEmbedsPart),
}
PART_TYPES = ("text", "image_url", "video_url", "audio_url", "input_audio", "video", "file", "refusal", *EMBEDS_PARTS)
_COUNTED: dict[str, tuple[MediaKind, type[Wire]]] = {
    "image_url": (MediaKind.IMAGE, ImageSize),
    "video_url": (MediaKind.VIDEO, VideoSize),
    "audio_url": (MediaKind.AUDIO, AudioSize),
    "input_audio": (MediaKind.AUDIO, AudioSize),
}
_TELLING = {MediaKind.IMAGE: ("width",), MediaKind.VIDEO: ("width",), MediaKind.AUDIO: ("duration_s",)}
"""By which a part is known to tell its size."""
_HARMLESS = frozenset({"annotations", "cache_control", "logprobs", "uuid"})
_ALIASES = {
    "audio": "audio_url",
    "image": "image_url",
    "input_file": "file",
    "input_image": "image_url",
    "input_text": "text",
    "input_video": "video_url",
    "output_text": "text",
}
_ALIAS_KEYS = {"image": "image_url", "audio": "audio_url"}


class PartReader:
    """Reads the contents of messages and collects the media items on the way."""

    def __init__(
        self, cuts: dict[str, bytearray], max_list_frames: int, *, takes_embeds: bool = False, counts: bool = False
    ) -> None:
        """`counts`: whether parts may tell their size, and are not fetched then."""
        self._cuts = cuts
        self._max_list_frames = max_list_frames
        self._takes_embeds = takes_embeds
        self._counts = counts
        self.items: list[ItemPlan] = []
        self.processor_kwargs: dict[str, int] = {}
        """What the parts say of the pixels of all."""

    def read(self, message: Message, label: str) -> list[str | int]:
        """Texts, and numbers of items. Raises `BadRequest` or `TooManyItems` naming the part."""
        if message.content is None:
            if message.role != "assistant" and message.role != "tool":
                raise BadRequest(f"`{label}.content` is missing", param=f"{label}.content")
            return []
        if isinstance(message.content, str):
            return [message.content]
        return [self._part(part, f"{label}.content[{i}]") for i, part in enumerate(message.content)]

    def _part(self, document: object, label: str) -> str | int:
        if not isinstance(document, dict):
            raise BadRequest(f"{label} must be an object with a `type`", param=label)
        kind, fields = _normalised(document)
        if self._counts and (counted := self._counted(kind, fields, label)) is not None:
            return counted
        match kind:
            case "text":
                return validated(TextPart, fields, label).text
            case "image_url":
                picture = validated(ImagePart, fields, label)
                self._limit(picture, label)
                return self._add(MediaKind.IMAGE, label, [picture.image_url.url])
            case "video_url":
                video = validated(VideoPart, fields, label)
                self._limit(video, label)
                return self._add(MediaKind.VIDEO, label, [video.video_url.url], merged(video.video_url, video))
            case "audio_url":
                sound = validated(AudioPart, fields, label).audio_url
                return self._add(MediaKind.AUDIO, label, [sound.url])
            case "input_audio":
                return self._input_audio(validated(InputAudioPart, fields, label).input_audio, label)
            case "video":
                return self._frames(fields, label)
            case "file":
                return self._file(validated(FilePart, fields, label).file, label)
            case "refusal":
                return validated(RefusalPart, fields, label).refusal
            case "image_embeds" | "video_embeds" | "audio_embeds":
                return self._embeds(kind, fields, label)
        said = f"unknown part type {shown(str(kind))!r}" if "type" in document else "a part needs a `type`"
        raise BadRequest(f"{label}: {said}: one of {', '.join(PART_TYPES)}", param=f"{label}.type")

    def _embeds(self, name: str, fields: dict[str, Any], label: str) -> int:
        if not self._takes_embeds:
            said = f"{label}: `{name}` are not taken by this server; its setting is media.max_embeds_bytes"
            raise BadRequest(said, param=label)
        kind, form = EMBEDS_PARTS[name]
        told = validated(form, fields, label).model_dump()
        source = self._source(kind, self.as_data_url(told.pop(name)), label, embeds=True)
        self.items.append(ItemPlan(kind, label, (source,), embeds=True, declared=DeclaredSize(**told)))
        return len(self.items) - 1

    def _counted(self, name: object, fields: dict[str, Any], label: str) -> int | None:
        """A part that tells its size, for those who only count; None for any other."""
        kind, form = _COUNTED.get(str(name), (None, None))
        if kind is None or form is None or not any(field in fields for field in _TELLING[kind]):
            return None
        sized = {field: fields[field] for field in form.model_fields if field in fields}
        size = validated(form, sized, label)
        self.items.append(ItemPlan(kind, label, (), declared=DeclaredSize(**size.model_dump())))
        return len(self.items) - 1

    def _limit(self, part: PixelLimits, label: str) -> None:
        for name in PixelLimits.model_fields:
            value = getattr(part, name)
            if value is not None and self.processor_kwargs.setdefault(name, value) != value:
                said = f"{label}: `{name}` holds for the whole request; another part says {self.processor_kwargs[name]}"
                raise BadRequest(said, param=f"{label}.{name}")

    def _input_audio(self, sound: InputAudio, label: str) -> int:
        return self._add(MediaKind.AUDIO, label, [self.as_data_url(sound.data)])

    def as_data_url(self, data: str) -> str:
        """`data` itself if it is one or stands for one, else the URL of this base64."""
        return data if data in self._cuts or data[:5].lower() == "data:" else DATA_PREFIX.decode() + data

    def _file(self, file: File, label: str) -> int:
        """Its kind by the type in the URL, or by its name."""
        head = (
            bytes(self._cuts[file.file_data][:64]).decode("latin-1") if file.file_data in self._cuts else file.file_data
        )
        said = head[5:64].partition(";")[0] if head[:5].lower() == "data:" else ""
        said = said or mimetypes.guess_type(file.filename or "")[0] or ""
        kind = said.partition("/")[0].lower()
        if kind not in tuple(MediaKind):
            what = f"of type {shown(said)}" if said else "of an unknown type"
            raise BadRequest(f"{label}: a file {what}; only pictures, videos and sounds are read", param=label)
        return self._add(MediaKind(kind), label, [self.as_data_url(file.file_data)])

    def _frames(self, fields: dict[str, Any], label: str) -> int:
        urls = fields.get("video")
        if isinstance(urls, list) and len(urls) > self._max_list_frames:
            said = f"{label} lists {len(urls)} pictures; at most {self._max_list_frames} are allowed"
            raise TooManyItems(said, param=f"{label}.video")
        part = validated(FramesPart, fields, label)
        self._limit(part, label)
        return self._add(MediaKind.VIDEO, label, part.video, part, is_list=True)

    def _add(
        self, kind: MediaKind, label: str, urls: list[str], frames: FrameOptions | None = None, *, is_list: bool = False
    ) -> int:
        labels = [f"{label}.video[{i}]" for i in range(len(urls))] if is_list else [label]
        source_kind = MediaKind.IMAGE if is_list else kind
        sources = tuple(self._source(source_kind, url, at) for url, at in zip(urls, labels, strict=True))
        self.items.append(ItemPlan(kind, label, sources, is_list, frames or NO_FRAME_OPTIONS))
        return len(self.items) - 1

    def _source(self, kind: MediaKind, url: str, label: str, *, embeds: bool = False) -> Source:
        data = self._cuts.pop(url, None)
        if data is None and url[:5].lower() == "data:":
            data = bytearray(url, "utf-8")
        if data is not None:
            return Source(MediaItem(kind, label, None, embeds=embeds), data)
        if len(url) > MAX_URL_CHARS:
            raise BadRequest(f"the URL of {label} is longer than {MAX_URL_CHARS} characters", param=label)
        return Source(MediaItem(kind, label, url), None)


def _normalised(document: dict[str, Any]) -> tuple[object, dict[str, Any]]:
    """The part's type and its fields by one spelling: aliases resolved, bare URLs wrapped as `{"url": ...}`."""
    kind = document.get("type")
    fields = {
        _ALIAS_KEYS.get(name, name): value
        for name, value in document.items()
        if name != "type" and name not in _HARMLESS
    }
    if kind == "audio" and isinstance(fields.get("audio_url"), dict) and "data" in fields["audio_url"]:
        return "input_audio", {"input_audio": fields.pop("audio_url"), **fields}
    if kind == "video" and isinstance(fields.get("video"), str):
        kind, fields["video_url"] = "video_url", fields.pop("video")
    if kind == "input_file":
        fields = {"file": fields}
    kind = _ALIASES.get(kind, kind) if isinstance(kind, str) else kind
    if kind in ("image_url", "video_url", "audio_url") and isinstance(fields.get(kind), str):
        fields[kind] = {"url": fields[kind]}
    return kind, fields
