"""The parts of a message's content: texts, and the media items of a request in the order in which they stand there."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from deployments.errors import BadRequest, TooManyItems, shown
from deployments.ingress.http.body import AUDIO_PREFIX
from deployments.ingress.openai.schema import NO_FRAME_OPTIONS, FrameOptions, Message, Wire, merged, validated
from deployments.types import MediaItem, MediaKind

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


class ImagePart(Wire):
    image_url: ImageUrl
    detail: Detail = "auto"


class VideoPart(FrameOptions):
    video_url: VideoUrl


class AudioPart(Wire):
    audio_url: AudioUrl


class InputAudioPart(Wire):
    input_audio: InputAudio


class FramesPart(FrameOptions):
    video: Annotated[list[Url], Field(min_length=1)]


PART_TYPES = ("text", "image_url", "video_url", "audio_url", "input_audio", "video")
_HARMLESS = frozenset({"cache_control", "uuid"})
_ALIASES = {"input_text": "text", "input_image": "image_url", "image": "image_url", "audio": "audio_url"}
_ALIAS_KEYS = {"image": "image_url", "audio": "audio_url"}


@dataclass(slots=True)
class Source:
    """Where the bytes of an item, or of one picture of a list, come from."""

    item: MediaItem
    data: bytearray | None
    """The text of a `data:` URL, until it has been put into shared memory."""

    def take(self) -> bytearray | None:
        """`data`, which this source then no longer holds."""
        data, self.data = self.data, None
        return data


@dataclass(frozen=True, slots=True)
class ItemPlan:
    """One media item of a request."""

    kind: MediaKind
    label: str
    sources: tuple[Source, ...]
    is_list: bool = False
    """A video given as a list of pictures, one source each."""
    frames: FrameOptions = NO_FRAME_OPTIONS


class PartReader:
    """Reads the contents of messages and collects the media items on the way."""

    def __init__(self, cuts: dict[str, bytearray], max_list_frames: int) -> None:
        self._cuts = cuts
        self._max_list_frames = max_list_frames
        self.items: list[ItemPlan] = []

    def read(self, message: Message, label: str) -> list[str | int]:
        """Texts, and numbers of items. Raises `BadRequest` or `TooManyItems` naming the part."""
        if message.content is None:
            if message.role != "assistant":
                raise BadRequest(f"`{label}.content` is missing", param=f"{label}.content")
            return []
        if isinstance(message.content, str):
            return [message.content]
        return [self._part(part, f"{label}.content[{i}]") for i, part in enumerate(message.content)]

    def _part(self, document: object, label: str) -> str | int:
        if not isinstance(document, dict):
            raise BadRequest(f"{label} must be an object with a `type`", param=label)
        kind, fields = _normalised(document)
        match kind:
            case "text":
                return validated(TextPart, fields, label).text
            case "image_url":
                image = validated(ImagePart, fields, label).image_url
                return self._add(MediaKind.IMAGE, label, [image.url])
            case "video_url":
                video = validated(VideoPart, fields, label)
                return self._add(MediaKind.VIDEO, label, [video.video_url.url], merged(video.video_url, video))
            case "audio_url":
                sound = validated(AudioPart, fields, label).audio_url
                return self._add(MediaKind.AUDIO, label, [sound.url])
            case "input_audio":
                return self._input_audio(validated(InputAudioPart, fields, label).input_audio, label)
            case "video":
                return self._frames(fields, label)
        said = f"unknown part type {shown(str(kind))!r}" if "type" in document else "a part needs a `type`"
        raise BadRequest(f"{label}: {said}: one of {', '.join(PART_TYPES)}", param=f"{label}.type")

    def _input_audio(self, sound: InputAudio, label: str) -> int:
        url = sound.data
        if url not in self._cuts and url[:5].lower() != "data:":
            url = AUDIO_PREFIX.decode() + url
        return self._add(MediaKind.AUDIO, label, [url])

    def _frames(self, fields: dict[str, Any], label: str) -> int:
        urls = fields.get("video")
        if isinstance(urls, list) and len(urls) > self._max_list_frames:
            said = f"{label} lists {len(urls)} pictures; at most {self._max_list_frames} are allowed"
            raise TooManyItems(said, param=f"{label}.video")
        part = validated(FramesPart, fields, label)
        return self._add(MediaKind.VIDEO, label, part.video, part, is_list=True)

    def _add(
        self, kind: MediaKind, label: str, urls: list[str], frames: FrameOptions | None = None, *, is_list: bool = False
    ) -> int:
        labels = [f"{label}.video[{i}]" for i in range(len(urls))] if is_list else [label]
        source_kind = MediaKind.IMAGE if is_list else kind
        sources = tuple(self._source(source_kind, url, at) for url, at in zip(urls, labels, strict=True))
        self.items.append(ItemPlan(kind, label, sources, is_list, frames or NO_FRAME_OPTIONS))
        return len(self.items) - 1

    def _source(self, kind: MediaKind, url: str, label: str) -> Source:
        data = self._cuts.pop(url, None)
        if data is None and url[:5].lower() == "data:":
            data = bytearray(url, "utf-8")
        if data is not None:
            return Source(MediaItem(kind, label, None), data)
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
    kind = _ALIASES.get(kind, kind) if isinstance(kind, str) else kind
    if kind in ("image_url", "video_url", "audio_url") and isinstance(fields.get(kind), str):
        fields[kind] = {"url": fields[kind]}
    return kind, fields
