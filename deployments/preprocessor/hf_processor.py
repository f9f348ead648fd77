"""The call of a transformers processor: one request, everything decided by us, nothing left to a saved default.

- Frames are sampled already: `do_sample_frames=False`, and the metadata say when each frame is shown.
- Frames that have their size already are not resized again.
- `size` goes with each call: a processor class's own `videos_kwargs` would win over the saved video processor's size.
- One prompt a call: some processors pad on the left whatever the tokenizer is told.

What merging these options with the saved ones costs, 0.12 ms a call, is left as it is: under a hundredth of a request.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.errors import BadRequest, InternalError, shown
from deployments.preprocessor.family import Family
from deployments.preprocessor.handoff import RAW_OPTIONS
from deployments.preprocessor.limits import Sizes
from deployments.preprocessor.media import Media
from deployments.preprocessor.prompt import Prompt
from deployments.preprocessor.timeline import sampled_fps, video_metadata

TYPES_TENSOR = "mm_token_type_ids"
_SAME_RATE = 0.01
"""Relative difference below which two clips count as sampled at one rate."""
_TOLD = frozenset({"type", "text", "replacement"})
_NOT_TENSORS = frozenset({"input_ids", "attention_mask", "text_replacement_offsets", "video_metadata"})


@dataclass(frozen=True, slots=True)
class Expanded:
    """What the processor made of a prompt."""

    token_ids: NDArray[np.int32]
    tensors: dict[str, NDArray[Any]]
    replacements: tuple[dict[str, Any], ...]
    """For each placeholder in order: its `type`, its `text` and the `replacement` text."""

    def equals(self, other: "Expanded") -> bool:
        """Whether all of it is the same, value by value."""
        return (
            np.array_equal(self.token_ids, other.token_ids)
            and self.replacements == other.replacements
            and self.tensors.keys() == other.tensors.keys()
            and all(np.array_equal(self.tensors[name], other.tensors[name]) for name in self.tensors)
        )


@dataclass(frozen=True, slots=True)
class HfProcessor:
    """One copy of a checkpoint's processor. Not for two threads at once: its tokenizer has state."""

    processor: Any
    family: Family

    def expand(self, prompt: Prompt, media: Media, sizes: Sizes, raw_pixels: bool) -> Expanded:
        """Tensors of `media` and the prompt with their tokens in place of the placeholders; none of blank frames.

        raw_pixels: leave pixels as uint8. Raises `BadRequest` for what the processor refuses.
        """
        with _refusals():
            outputs = self.processor(**self._arguments(prompt, media, sizes, raw_pixels))
        return self._expanded(outputs, media)

    async def expand_awaiting(self, prompt: Prompt, media: Media, sizes: Sizes, raw_pixels: bool) -> Expanded:
        """As `expand`, by a processor whose call is a coroutine."""
        with _refusals():
            outputs = await self.processor(**self._arguments(prompt, media, sizes, raw_pixels))
        return self._expanded(outputs, media)

    def read(self, text: str, add_special_tokens: bool) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(T,) tokens of a text whose placeholders are expanded, and (1, T) whether each is one of which medium."""
        told = self.processor.tokenizer([text], add_special_tokens=add_special_tokens, padding=False, truncation=False)
        ids = told["input_ids"]
        types = self.processor.create_mm_token_type_ids(ids)
        return np.asarray(ids[0], np.int32), np.asarray(types, np.int64)

    def _arguments(self, prompt: Prompt, media: Media, sizes: Sizes, raw_pixels: bool) -> dict[str, Any]:
        return {
            "text": [prompt.text],
            "images": [media.pictures_HWC] if media.pictures_HWC else None,
            "videos": [[clip.frames_TCHW for clip in media.clips]] if media.clips else None,
            "audio": media.sounds or None,
            **self._options(prompt, media, sizes, RAW_OPTIONS if raw_pixels else {}),
        }

    def _expanded(self, outputs: Any, media: Media) -> Expanded:
        self._tell_seconds(outputs, media)
        tensors = {
            name: _array(value) for name, value in outputs.items() if name not in _NOT_TENSORS and not _is_blank(value)
        }
        ids = outputs["input_ids"][0]
        said = outputs.get("text_replacement_offsets", [[]])[0]
        replacements = tuple({name: value for name, value in one.items() if name in _TOLD} for one in said)
        return Expanded(np.asarray(ids, np.int32), tensors, replacements)

    def _options(self, prompt: Prompt, media: Media, sizes: Sizes, pixels: dict[str, bool]) -> dict[str, Any]:
        options: dict[str, Any] = {
            "return_tensors": "pt",
            "return_mm_token_type_ids": True,
            "return_text_replacement_offsets": True,
            "text_kwargs": {"add_special_tokens": prompt.add_special_tokens, "padding": False, "truncation": False},
        }
        if media.pictures_HWC:
            options["images_kwargs"] = _with_size(sizes.image) | {"input_data_format": "channels_last"} | pixels
            if media.pictures_at_target:
                options["images_kwargs"]["do_resize"] = False
        if media.clips:
            options["videos_kwargs"] = self._video_options(media, sizes.video) | pixels
        if media.sounds:
            options["audio_kwargs"] = {"sampling_rate": self.family.audio_rate_hz}
        if media.hears_clips:
            options |= {"load_audio_from_video": True, "audio_from_video_indices": media.clip_of_sound}
        return options

    def _video_options(self, media: Media, size: dict[str, int] | None) -> dict[str, Any]:
        options = _with_size(size) | {
            "do_sample_frames": False,
            "video_metadata": [video_metadata(clip.video) for clip in media.clips],
            "input_data_format": "channels_first",
        }
        if all(clip.at_target for clip in media.clips):
            options["do_resize"] = False
        if self.family.seconds_per_grid:
            options["fps"] = self._common_fps(media)
        return options

    def _common_fps(self, media: Media) -> float:
        """The processor takes one rate for all clips; it matters to it only where sound is woven between frames."""
        rates = [sampled_fps(clip.video) for clip in media.clips]
        if media.hears_clips and max(rates) > min(rates) * (1 + _SAME_RATE):
            raise BadRequest(
                "videos of one request whose sound is listened to must be sampled at one rate; give each the same fps",
                param="use_audio_in_video",
            )
        return rates[0]

    def _tell_seconds(self, outputs: Any, media: Media) -> None:
        """Each clip its own rate, in the tensor that tells the model how far apart its frames are."""
        if self.family.seconds_per_grid and len(media.clips) > 1 and not media.hears_clips:
            frames = self.processor.video_processor.temporal_patch_size
            seconds = [frames / sampled_fps(clip.video) for clip in media.clips]
            outputs["video_second_per_grid"] = torch.tensor(seconds, dtype=torch.float32)


@contextmanager
def _refusals() -> Iterator[None]:
    """What a processor raises, as ours."""
    try:
        yield
    except ValueError as exc:
        raise BadRequest(f"the model's processor refuses the request: {shown(str(exc))}", param="messages") from exc
    except (MemoryError, torch.OutOfMemoryError) as exc:
        raise InternalError("not enough memory to prepare the request") from exc


def tokenized(tokenizer: Any, prompt: Prompt) -> NDArray[np.int32]:
    """Token ids of a prompt without media."""
    return np.asarray(tokenizer(prompt.text, add_special_tokens=prompt.add_special_tokens)["input_ids"], np.int32)


def _with_size(size: dict[str, int] | None) -> dict[str, Any]:
    return {} if size is None else {"size": size}


def _is_blank(value: Any) -> bool:
    """Made of frames without content."""
    return torch.is_tensor(value) and value.is_meta


def _array(value: Any) -> NDArray[Any]:
    return value.numpy() if torch.is_tensor(value) else np.asarray(value)
