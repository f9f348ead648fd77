"""Media for the tiny checkpoints, as their processors would make them: tokens of the prompt, tensors beside them.

Shape legend: T tokens, N patches, P values of a patch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.tiny_configs import (
    AUDIO,
    AUDIO_END,
    AUDIO_START,
    IMAGE,
    POSITIONS_PER_SECOND,
    SECONDS_PER_CHUNK,
    VIDEO,
    VISION_END,
    VISION_START,
)

Piece = tuple[list[int], dict[str, NDArray[Any]]]
"""Tokens of one media item, and its tensors; tensors of several items are joined along their first axis."""


def _normal(rng: np.random.Generator, *shape: int) -> NDArray[Any]:
    return rng.normal(size=shape).astype(np.float32)


def grid_media(
    pixels: str, grid: str, token: int, *, patch: int, temporal: int = 2, extra: str | None = None, frames: bool = False
) -> Callable[[np.random.Generator], Piece]:
    """`frames`: a video's frames stand apart in the prompt, each between its own start and end tokens."""

    def make(rng: np.random.Generator) -> Piece:
        t = 1 if pixels == "pixel_values" else int(rng.integers(2, 4))
        h, w = (2 * int(n) for n in rng.integers(1, 4, size=2))
        tensors = {
            pixels: _normal(rng, t * h * w, 3 * temporal * patch * patch),
            grid: np.array([[t, h, w]], dtype=np.int64),
        }
        if extra is not None:
            tensors[extra] = np.array([1.0], dtype=np.float32)
        if frames and t > 1:
            ids = [i for _ in range(t) for i in [20, VISION_START, *[token] * (h * w // 4), VISION_END]]
        else:
            ids = [VISION_START, *[token] * (t * h * w // 4), VISION_END]
        return ids, tensors

    return make


def mel_sound(mels: int, tokens_of: Callable[[int], int]) -> Callable[[np.random.Generator], Piece]:
    def make(rng: np.random.Generator) -> Piece:
        length = int(rng.integers(20, 60))
        ids = [AUDIO_START, *[AUDIO] * tokens_of(length), AUDIO_END]
        mask = np.ones((1, length), dtype=np.int64)
        return ids, {"input_features": _normal(rng, 1, mels, length), "feature_attention_mask": mask}

    return make


def pictures(size: int, tokens: int, **extra: NDArray[Any]) -> Callable[[np.random.Generator], Piece]:
    def make(rng: np.random.Generator) -> Piece:
        return [VISION_START, *[IMAGE] * tokens, VISION_END], {"pixel_values": _normal(rng, 1, 3, size, size), **extra}

    return make


def llava_onevision_image(rng: np.random.Generator) -> Piece:
    # One base view and one 16x16 tile: 16 base features, then 4 rows of 4 with a newline each.
    pixels = _normal(rng, 1, 2, 3, 16, 16)
    return [*[IMAGE] * (16 + 4 * 5)], {"pixel_values": pixels, "image_sizes": np.array([[16, 16]], dtype=np.int64)}


def llava_onevision_video(rng: np.random.Generator) -> Piece:
    # 2x2 pooled features of each of three frames, and one newline.
    return [*[VIDEO] * (3 * 4 + 1)], {"pixel_values_videos": _normal(rng, 1, 3, 3, 16, 16)}


def idefics_image(rng: np.random.Generator) -> Piece:
    ids = [VISION_START, *[IMAGE] * 4, VISION_END]
    return ids, {"pixel_values": _normal(rng, 1, 1, 3, 16, 16)}


def gemma4_image(rng: np.random.Generator) -> Piece:
    side = 4
    places = np.array([[x, y] for y in range(side) for x in range(side)], dtype=np.int64)
    ids = [VISION_START, *[IMAGE] * (side * side // 4), VISION_END]
    return ids, {"pixel_values": _normal(rng, 1, side * side, 3 * 16), "image_position_ids": places[None]}


def gemma4_video(rng: np.random.Generator) -> Piece:
    side, frames = 4, int(rng.integers(2, 4))
    places = np.array([[x, y] for y in range(side) for x in range(side)], dtype=np.int64)
    ids = [i for _ in range(frames) for i in [20, VISION_START, *[VIDEO] * (side * side // 4), VISION_END]]
    return ids, {
        "pixel_values_videos": _normal(rng, frames, side * side, 3 * 16),
        "video_position_ids": np.repeat(places[None], frames, axis=0),
        "num_frames_per_video": np.array([frames], dtype=np.int64),
    }


def omni2_tokens(length: int) -> int:
    return ((length - 1) // 2 + 1 - 2) // 2 + 1


def omni3_tokens(length: int) -> int:
    rest = length % 100
    after = ((rest - 1) // 2 + 1 - 1) // 2 + 1
    return ((after - 1) // 2 + 1) + (length // 100) * 13


def gemma4_sound(rng: np.random.Generator) -> Piece:
    length = int(rng.integers(20, 60))
    tokens = (length + 3) // 4
    mask = np.ones((1, length), dtype=bool)
    ids = [AUDIO_START, *[AUDIO] * tokens, AUDIO_END]
    return ids, {"input_features": _normal(rng, 1, length, 8), "input_features_mask": mask}


def omni2_sounding_clip(rng: np.random.Generator) -> Piece:
    """Three frames a second apart, and their sound: first all of a chunk's frames, then all of its sound."""
    frame_tokens, sound_tokens, chunk = 4, 14, POSITIONS_PER_SECOND * SECONDS_PER_CHUNK
    frames = [VIDEO] * (frame_tokens * 2), [VIDEO] * frame_tokens
    sound = [AUDIO] * chunk, [AUDIO] * (sound_tokens - chunk)
    ids = [*frames[0], *sound[0], *frames[1], *sound[1]]
    return _sounding(rng, ids, next(n for n in range(20, 100) if omni2_tokens(n) == sound_tokens))


def omni3_sounding_clip(rng: np.random.Generator) -> Piece:
    """Three frames a second apart, and their sound: token by token in the order of their times."""
    sound_tokens = 8
    places = [(frame * POSITIONS_PER_SECOND, 0) for frame in range(3) for _ in range(4)]
    places += [(place, 1) for place in range(sound_tokens)]
    ids = [AUDIO if sound else VIDEO for _, sound in sorted(places)]
    return _sounding(rng, ids, next(n for n in range(20, 100) if omni3_tokens(n) == sound_tokens))


def _sounding(rng: np.random.Generator, ids: list[int], features: int) -> Piece:
    tensors = {
        "pixel_values_videos": _normal(rng, 3 * 4 * 4, 3 * 2 * 4 * 4),
        "video_grid_thw": np.array([[3, 4, 4]], dtype=np.int64),
        "video_second_per_grid": np.array([1.0], dtype=np.float32),
        "input_features": _normal(rng, 1, 16, features),
        "feature_attention_mask": np.ones((1, features), dtype=np.int64),
    }
    return [VISION_START, AUDIO_START, *ids, AUDIO_END, VISION_END], tensors
