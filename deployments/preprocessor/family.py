"""What must be known of a model family's processor to call it right: read from the loaded processor, not from its name.

What its attributes don't tell is found out by calling it on tiny inputs, so that a family's own arithmetic is believed
and not a copy of it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deployments.media.geometry import target_size
from deployments.types import MediaKind, ResizeRule

_TRIAL_FRAMES = ((2, 64, 96), (4, 190, 70), (6, 100, 240))
"""(frames, height, width) whose sizes tell one resize rule from the other under a small budget."""


@dataclass(frozen=True, slots=True)
class Family:
    """Facts about the processor of one checkpoint."""

    modalities: frozenset[MediaKind]
    image_size: dict[str, int] | None
    """`size` of the saved image processor; None when it has none. Given with every call: see `HfProcessor`."""
    video_size: dict[str, int] | None
    image_resize: ResizeRule | None
    """None when the size of pixels can't be known before the processor runs, as where pictures are cut into tiles."""
    video_resize: ResizeRule | None
    audio_rate_hz: int | None
    max_audio_s: float | None
    """Longest sound that the feature extractor takes whole."""
    audio_in_video: bool
    """Takes a video's sound along with its frames."""
    seconds_per_grid: bool
    """Takes the frame rate of a video as an argument of the call and writes it into a tensor."""
    images_or_videos: bool
    """Has one tensor for both, so that a request can hold only one of the two."""
    width: int
    """Of the model's embeddings; 0 where the configuration does not tell it."""
    deepstack_layers: int
    """Layers in which rows of pictures and videos are added beside those over the embeddings."""


def read_family(processor: Any, model_config: Any, can_place: Callable[[MediaKind], bool]) -> Family:
    """The facts about `processor`. `can_place`: whether the chat template has a place for a kind of media."""
    modalities = frozenset(kind for kind in MediaKind if _takes(processor, model_config, kind) and can_place(kind))
    images, videos = getattr(processor, "image_processor", None), getattr(processor, "video_processor", None)
    has_videos = videos is not None and MediaKind.VIDEO in modalities
    extractor = _audio_processor(processor) if MediaKind.AUDIO in modalities else None
    names = set(getattr(processor, "model_input_names", ()))
    vision = getattr(model_config, "vision_config", None)
    return Family(
        modalities=modalities,
        image_size=_size(images),
        video_size=_size(videos),
        image_resize=_image_rule(images) if MediaKind.IMAGE in modalities else None,
        video_resize=_video_rule(videos) if has_videos else None,
        audio_rate_hz=None if extractor is None else int(extractor.sampling_rate),
        max_audio_s=None if extractor is None else _max_audio_s(processor, extractor),
        audio_in_video=extractor is not None and has_videos and hasattr(processor, "load_audio_from_video"),
        seconds_per_grid=has_videos and "video_second_per_grid" in names,
        images_or_videos=has_videos and "pixel_values" in getattr(videos, "model_input_names", ()),
        width=int(getattr(model_config.get_text_config(), "hidden_size", 0)),
        deepstack_layers=len(getattr(vision, "deepstack_visual_indexes", None) or ()),
    )


def _takes(processor: Any, model_config: Any, kind: MediaKind) -> bool:
    part = {
        MediaKind.IMAGE: getattr(processor, "image_processor", None),
        MediaKind.VIDEO: getattr(processor, "video_processor", None),
        MediaKind.AUDIO: _audio_processor(processor),
    }[kind]
    if part is None or getattr(processor, f"{kind}_token", None) is None:
        return False
    # Processors of omni families come with parts that a smaller member's model lacks.
    return not (kind is MediaKind.AUDIO and getattr(model_config, "audio_config", part) is None)


def _audio_processor(processor: Any) -> Any:
    return getattr(processor, "audio_processor", None) or getattr(processor, "feature_extractor", None)


def _size(part: Any) -> dict[str, int] | None:
    """The saved size as a plain dict; the classes keep it as a dict or as their own mapping."""
    size = getattr(part, "size", None)
    return None if size is None else {key: value for key, value in dict(size).items() if value is not None}


def _max_audio_s(processor: Any, extractor: Any) -> float | None:
    """Whisper's extractor cuts at `n_samples` and others at 480,000 samples unless they are told not to."""
    if getattr(processor, "audio_kwargs", {}).get("truncation") is False:
        return None
    samples = getattr(extractor, "n_samples", None) or 480_000
    return float(samples / extractor.sampling_rate)


def _image_rule(images: Any) -> ResizeRule | None:
    def resized(height: int, width: int, _: int, size: dict[str, int]) -> tuple[int, int] | None:
        picture = np.zeros((height, width, 3), np.uint8)
        return _grid(images(picture, size=size, input_data_format="channels_last", return_tensors="pt"), images)

    return _rule(images, resized, frames=lambda _: 1)


def _video_rule(videos: Any) -> ResizeRule | None:
    def resized(height: int, width: int, frames: int, size: dict[str, int]) -> tuple[int, int] | None:
        clip = torch.zeros((frames, 3, height, width), dtype=torch.uint8)
        options = {"do_sample_frames": False, "input_data_format": "channels_first", "return_tensors": "pt"}
        outputs = videos([clip], size=size, **options)
        return _grid(outputs, videos) or _shape(outputs)

    return _rule(videos, resized, frames=lambda frames: frames)


def _rule(part: Any, resized: Callable[..., tuple[int, int] | None], frames: Callable[[int], int]) -> ResizeRule | None:
    """The first rule that foretells the sizes which `resized` gives; None when none does."""
    size = _size(part)
    if size is None or not getattr(part, "do_resize", True):
        return None
    for real, trial in _candidates(part, size):
        trial_size = {"shortest_edge": trial.min_pixels, "longest_edge": trial.max_pixels} if trial.factor > 1 else size
        try:
            told = [resized(height, width, count, trial_size) for count, height, width in _TRIAL_FRAMES]
        except (ValueError, TypeError, RuntimeError, AttributeError):
            continue
        if told == [target_size(trial, frames(count), height, width) for count, height, width in _TRIAL_FRAMES]:
            return real
    return None


def _candidates(part: Any, size: dict[str, int]) -> Iterable[tuple[ResizeRule, ResizeRule]]:
    """(the rule with the processor's own budget, the same with one small enough to be felt by the trials)."""
    if set(size) == {"height", "width"}:
        exact = ResizeRule("exact", height=size["height"], width=size["width"])
        yield exact, exact
    if set(size) == {"shortest_edge", "longest_edge"} and hasattr(part, "patch_size"):
        factor = part.patch_size * getattr(part, "merge_size", 1)
        temporal = getattr(part, "temporal_patch_size", 1)
        budget = size["shortest_edge"], size["longest_edge"]
        small = 4 * factor**2, 13 * factor**2
        yield ResizeRule("frame", factor, temporal, *budget), ResizeRule("frame", factor, temporal, *small)
        yield ResizeRule("clip", factor, temporal, *budget), ResizeRule("clip", factor, temporal, *small)


def _grid(outputs: Any, part: Any) -> tuple[int, int] | None:
    """(height, width) in pixels by the grid of patches that the processor tells."""
    for name, value in outputs.items():
        if name.endswith("grid_thw"):
            return int(value[0][1]) * part.patch_size, int(value[0][2]) * part.patch_size
    return None


def _shape(outputs: Any) -> tuple[int, int] | None:
    """(height, width) in pixels of frames that stay whole."""
    pixels = outputs.get("pixel_values_videos")
    if not torch.is_tensor(pixels) or pixels.ndim < 4:
        return None
    return int(pixels.shape[-2]), int(pixels.shape[-1])
