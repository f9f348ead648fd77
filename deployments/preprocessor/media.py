"""A request's media as the processor takes them: pixels and samples, each kind in order of appearance.

Shape legend: T frames, C channels, H height, W width.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.config import PreprocessorConfig
from deployments.core.deadline import Deadline
from deployments.errors import BadRequest
from deployments.media.geometry import target_size
from deployments.media.patches import frames_of
from deployments.media.pictures import decode_picture, most_decode_bytes
from deployments.media.sound import decode_sound
from deployments.preprocessor.embeds import Embeds, read_embeds
from deployments.preprocessor.family import Family
from deployments.preprocessor.limits import Sizes
from deployments.preprocessor.picture_rows import Picture, PictureCutter
from deployments.preprocessor.stand_in import StandIns
from deployments.types import Chat, DecodedVideo, MediaInput, MediaKind, PatchRule, Payload, ResizeRule

# Frames are mapped read-only from shared memory, and nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)


@dataclass(frozen=True, slots=True)
class Clip:
    frames_TCHW: torch.Tensor
    """uint8 RGB; a view of the decoder's frames, whose channels are the innermost in memory; or `blank_frames`."""
    video: DecodedVideo
    at_target: bool
    """They have the size already that the processor would resize the source's frames to."""


@dataclass(frozen=True, slots=True)
class Media:
    pictures_HWC: list[Picture] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    sounds: list[NDArray[np.float32]] = field(default_factory=list)
    """Mono, at the processor's rate: sounds of their own, and those of clips."""
    clip_of_sound: list[int | None] = field(default_factory=list)
    """For each of `sounds` the clip that it belongs to."""
    embeds: dict[MediaKind, list[Embeds]] = field(default_factory=dict)
    """Encoder outputs that are there already; of a kind either all items are such or none is."""
    sounding: set[str] = field(default_factory=set)
    """Labels of those clips."""
    pictures_at_target: bool = False
    """The pictures have the size already that the processor would resize them to."""

    @property
    def hears_clips(self) -> bool:
        return any(clip is not None for clip in self.clip_of_sound)


@dataclass(frozen=True, slots=True)
class MediaReader:
    """Brings files and frames into the processor's form, within the server's limits and the family's."""

    config: PreprocessorConfig
    family: Family
    patches: PatchRule | None
    """How frames that come as patches were cut."""
    cutter: PictureCutter | None
    """Of pictures, where it can do what the processor would."""
    stand_ins: StandIns

    def read(
        self,
        chat: Chat,
        inputs: Sequence[MediaInput],
        payloads: Sequence[Payload],
        sizes: Sizes,
        deadline: Deadline,
    ) -> Media:
        """`payloads`: those of each of `inputs`, in their order, but for those whose pixels are at the model.

        Raises `BadRequest` for a kind that the model does not take, `BadMedia` and `TooLarge` naming the item.
        """
        self._check_kinds(chat, inputs)
        given = any(item.embeds for item in inputs if item.kind is MediaKind.IMAGE)
        media = Media(pictures_at_target=self.cutter is not None and not given)
        for item, own in _by_item(inputs, payloads):
            payload = _whole(own)
            if item.embeds or item.declared is not None:
                self._add_stand_in(media, item, payload, sizes)
            elif item.kind is MediaKind.IMAGE:
                pixels_HWC = self._pixels(item, payload, sizes.image, deadline)
                media.pictures_HWC.append(self._sized(pixels_HWC, item, sizes.image, media))
            elif item.kind is MediaKind.AUDIO:
                media.sounds.append(self._sound(item, payload, deadline))
                media.clip_of_sound.append(None)
            else:
                self._add_clip(media, chat, item, payload, sizes.video)
        return media

    def decode_bytes(self, inputs: Sequence[MediaInput], payloads: Sequence[Payload]) -> int:
        """Memory that `read` takes at most while it decodes one of these pictures after the other, by their headers.

        Raises `BadMedia` and `TooLarge` naming the item.
        """
        files = ((item, own[0]) for item, own in _by_item(inputs, payloads) if own)
        pictures = ((item, payload) for item, payload in files if item.kind is MediaKind.IMAGE and not item.embeds)
        limit = self.config.max_image_pixels
        return max((most_decode_bytes(_bytes(payload), item.label, limit) for item, payload in pictures), default=0)

    def _add_stand_in(self, media: Media, item: MediaInput, payload: Payload, sizes: Sizes) -> None:
        embeds = read_embeds(_bytes(payload), item.kind, self.family, item.label) if item.embeds else None
        if embeds is not None:
            media.embeds.setdefault(item.kind, []).append(embeds)
        if item.kind is MediaKind.IMAGE:
            pixels_HWC = self.stand_ins.picture(item, embeds)
            media.pictures_HWC.append(self._sized(pixels_HWC, item, sizes.image, media))
        elif item.kind is MediaKind.VIDEO:
            media.clips.append(Clip(*self.stand_ins.frames(item, embeds), at_target=False))
        else:
            media.sounds.append(self.stand_ins.sound(item))
            media.clip_of_sound.append(None)

    def _check_kinds(self, chat: Chat, inputs: Sequence[MediaInput]) -> None:
        for item in inputs:
            if item.kind not in self.family.modalities:
                taken = ", ".join(sorted(self.family.modalities)) or "text only"
                raise BadRequest(f"this model does not take {item.kind} input; it takes: {taken}", param=item.label)
            if item.embeds != next(other.embeds for other in inputs if other.kind is item.kind):
                said = f"{item.label}: the {item.kind} items of a request are all embeddings, or none is"
                raise BadRequest(said, param=item.label)
            if item.embeds and item.kind is MediaKind.VIDEO:
                self._check_clip_embeds(chat, item)
        kinds = {item.kind for item in inputs}
        if self.family.images_or_videos and {MediaKind.IMAGE, MediaKind.VIDEO} <= kinds:
            raise BadRequest("this model takes pictures or videos in one request, not both", param=inputs[0].label)
        if chat.use_audio_in_video and not self.family.audio_in_video:
            raise BadRequest("this model does not listen to the sound of videos", param="use_audio_in_video")

    def _check_clip_embeds(self, chat: Chat, item: MediaInput) -> None:
        if chat.use_audio_in_video:
            raise BadRequest(f"{item.label}: `video_embeds` have no sound to listen to", param="use_audio_in_video")
        if self.family.images_or_videos:
            said = f"{item.label}: this model takes a video's frames as pictures; send them as `image_embeds`"
            raise BadRequest(said, param=item.label)

    def _pixels(
        self, item: MediaInput, payload: Payload, size: dict[str, int] | None, deadline: Deadline
    ) -> NDArray[np.uint8]:
        rule, limit = with_size(self.family.image_resize, size), self.config.max_image_pixels
        pixels_HWC = decode_picture(_bytes(payload), item.label, limit, deadline, rule, draft=self.config.jpeg_draft)
        deadline.check()
        return pixels_HWC

    def _sized(
        self, pixels_HWC: NDArray[np.uint8], item: MediaInput, size: dict[str, int] | None, media: Media
    ) -> Picture:
        """At the size that the model is shown, where that is made here: the rest of the pixels is let go at once."""
        rule = with_size(self.family.image_resize, size)
        if rule is None:
            return pixels_HWC
        target = target_size(rule, 1, pixels_HWC.shape[0], pixels_HWC.shape[1], item.label)
        if self.cutter is None or not media.pictures_at_target:
            return pixels_HWC
        return self.cutter.resized(pixels_HWC, *target)

    def _sound(self, item: MediaInput, payload: Payload, deadline: Deadline) -> NDArray[np.float32]:
        rate_hz = self.family.audio_rate_hz
        assert rate_hz is not None, "a family that takes sound has a rate"
        limit_s = min(self.config.max_audio_s, self.family.max_audio_s or self.config.max_audio_s)
        return decode_sound(_bytes(payload), item.container, rate_hz, limit_s, item.label, deadline)

    def _add_clip(
        self, media: Media, chat: Chat, item: MediaInput, payload: Payload, size: dict[str, int] | None
    ) -> None:
        assert isinstance(payload, dict)
        assert item.video is not None
        video, rule = item.video, with_size(self.family.video_resize, size)
        frames = self._frames(item, video, payload)
        target = None
        if rule is not None:
            target = target_size(rule, len(frames), video.source_height, video.source_width, item.label)
            if rule.kind == "clip" and len(frames) < rule.temporal_factor:
                frames = frames.expand(rule.temporal_factor, -1, -1, -1)  # as the model pads it, who wants that many
        media.clips.append(Clip(frames, video, target == tuple(frames.shape[2:])))
        samples = payload.get("audio")
        if chat.use_audio_in_video and samples is not None and len(samples):
            self._check_length(item, samples)
            media.sounds.append(samples)
            media.clip_of_sound.append(len(media.clips) - 1)
            media.sounding.add(item.label)

    def _frames(self, item: MediaInput, video: DecodedVideo, payload: dict[str, NDArray[Any]]) -> torch.Tensor:
        """(T, C, H, W)"""
        if video.patch_grid is None:
            return torch.from_numpy(payload["frames_THWC"]).permute(0, 3, 1, 2)
        assert self.patches is not None, "patches are asked for by the rule of this family"
        if not item.pixels_at_model:
            frames_THWC = frames_of(payload["patches"], video.patch_grid, self.patches, len(video.indices))
            return torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
        _, high, wide = video.patch_grid
        return blank_frames(len(video.indices), high * self.patches.patch, wide * self.patches.patch)

    def _check_length(self, item: MediaInput, samples: NDArray[Any]) -> None:
        seconds, limit_s = len(samples) / (self.family.audio_rate_hz or 1), self.family.max_audio_s
        if limit_s is not None and seconds > limit_s:
            raise BadRequest(
                f"the video's sound lasts {seconds:.1f} s, this model listens to at most {limit_s:g} s; "
                "take a part of it with start_s and end_s, or leave use_audio_in_video out",
                param=item.label,
            )


def blank_frames(frames: int, height: int, width: int) -> torch.Tensor:
    """(T, C, H, W) uint8 without content: what is computed of it costs nothing but arithmetic on shapes."""
    return torch.empty((frames, 3, height, width), dtype=torch.uint8, device="meta")


def with_size(rule: ResizeRule | None, size: dict[str, int] | None) -> ResizeRule | None:
    """`rule` with the budget that a request set by `size`."""
    if rule is None or rule.kind == "exact" or size is None:
        return rule
    return replace(rule, min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"])


def _by_item(
    inputs: Sequence[MediaInput], payloads: Sequence[Payload]
) -> Iterator[tuple[MediaInput, Sequence[Payload]]]:
    first = 0
    for item in inputs:
        stop = first + (item.payloads if item.has_payload else 0)
        yield item, payloads[first:stop]
        first = stop


def _whole(payloads: Sequence[Payload]) -> Payload:
    """An item's, put together where it came in groups; empty where it has none."""
    groups = [payload["patches"] for payload in payloads[1:] if isinstance(payload, dict)]
    if not groups:
        return payloads[0] if payloads else {}
    assert isinstance(payloads[0], dict)
    return {"patches": np.concatenate([payloads[0]["patches"], *groups])}


def _bytes(payload: Payload) -> NDArray[np.uint8]:
    assert isinstance(payload, np.ndarray)
    return payload
