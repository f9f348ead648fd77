"""Blank media of a size that the client tells: what is shown to the processor so that it gives a prompt its places, for
items whose encoder outputs are there already and for those that are only to be counted.

Shape legend: T frames, C channels, H height, W width.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.config import PreprocessorConfig
from deployments.errors import BadRequest
from deployments.media.geometry import target_size
from deployments.preprocessor.embeds import Embeds
from deployments.preprocessor.family import Family
from deployments.types import DeclaredSize, DecodedVideo, MediaInput, ResizeRule

DEFAULT_FPS = 2.0
"""At which the frames of a video were taken that does not say it."""
_SOME_SIDE = 224
"""Of pictures that the processor makes equal anyway."""


class StandIns:
    """Makes them within the limits of what they stand for."""

    def __init__(self, processor: Any, family: Family, config: PreprocessorConfig) -> None:
        self._images = getattr(processor, "image_processor", None)
        self._videos = getattr(processor, "video_processor", None)
        self._family = family
        self._config = config

    def picture(self, item: MediaInput, embeds: Embeds | None) -> NDArray[np.uint8]:
        """(H, W, C). Raises `BadRequest` naming the item where its size is not known, or is none that it may have."""
        if embeds is not None and embeds.grid_thw is not None:
            height, width = self._by_grid(item, self._images, embeds.grid_thw, self._family.image_resize)[1:]
        else:
            height, width = self._sides(item, self._family.image_resize, "image_grid_thw")
        self._check_pixels(item, height * width)
        return np.zeros((height, width, 3), np.uint8)

    def frames(self, item: MediaInput, embeds: Embeds | None) -> tuple[torch.Tensor, DecodedVideo]:
        """(T, C, H, W), without content, and the facts of a video that consists of these frames. Raises likewise."""
        size = item.declared or DeclaredSize()
        if embeds is not None and embeds.grid_thw is not None:
            count, height, width = self._by_grid(item, self._videos, embeds.grid_thw, self._family.video_resize)
        else:
            height, width = self._sides(item, self._family.video_resize, "video_grid_thw")
            count = self._known(item, "num_frames", size.num_frames, "video_grid_thw")
        self._check_pixels(item, count * height * width)
        fps = size.fps or DEFAULT_FPS
        times = tuple(number / fps for number in range(count))
        facts = DecodedVideo(fps, count / fps, count, tuple(range(count)), times, height, width, 0, "", 0, 0.0)
        return torch.zeros((1, 3, height, width), dtype=torch.uint8).expand(count, -1, -1, -1), facts

    def sound(self, item: MediaInput) -> NDArray[np.float32]:
        """Silence, (samples,). Raises likewise."""
        rate_hz = self._family.audio_rate_hz
        assert rate_hz is not None, "a family that takes sound has a rate"
        seconds = None if item.declared is None else item.declared.duration_s
        if seconds is None:
            raise BadRequest(f"{item.label} needs `duration_s`, the length of the sound", param=item.label)
        longest = min(self._config.max_audio_s, self._family.max_audio_s or self._config.max_audio_s)
        if seconds > longest:
            raise BadRequest(f"{item.label}: a sound may last {longest:g} s", param=item.label)
        return np.zeros(max(1, round(seconds * rate_hz)), np.float32)

    def _by_grid(
        self, item: MediaInput, part: Any, grid: tuple[int, int, int], rule: ResizeRule | None
    ) -> tuple[int, int, int]:
        """(frames, height, width) whose patches are this grid, and which the processor would leave as they are."""
        patch = getattr(part, "patch_size", None)
        if rule is None or not isinstance(patch, int):
            said = f"{item.label}: this model's prompts go by no grid of patches; give the item's size instead"
            raise BadRequest(said, param=item.label)
        frames = grid[0] * getattr(part, "temporal_patch_size", 1)
        height, width = grid[1] * patch, grid[2] * patch
        self._check_pixels(item, frames * height * width)
        if target_size(rule, frames, height, width, item.label) != (height, width):
            said = f"{item.label}: a grid of {list(grid)} patches is none that this model's processor makes"
            raise BadRequest(said, param=item.label)
        return frames, height, width

    def _sides(self, item: MediaInput, rule: ResizeRule | None, grid: str) -> tuple[int, int]:
        size = item.declared or DeclaredSize()
        if rule is not None and rule.kind == "exact" and size.width is None and size.height is None:
            return _SOME_SIDE, _SOME_SIDE
        sides = (
            self._known(item, "height", size.height, grid),
            self._known(item, "width", size.width, grid),
        )
        if rule is not None:
            target_size(rule, 1, *sides, item.label)
        return sides

    @staticmethod
    def _known(item: MediaInput, name: str, value: int | None, grid: str) -> int:
        if value is None:
            among = f", or the tensor `{grid}` among its embeddings" if item.embeds else ""
            raise BadRequest(f"{item.label} needs `{name}`{among}", param=item.label)
        return value

    def _check_pixels(self, item: MediaInput, pixels: int) -> None:
        limit = self._config.max_image_pixels
        if pixels > limit:
            raise BadRequest(f"{item.label} stands for {pixels} pixels; at most {limit} are allowed", param=item.label)
