"""Small requests: noise as pictures, clips and sounds, in the form in which a preprocessor gets them."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from deployments.config import AppConfig
from deployments.core.deadline import Deadline
from deployments.preprocessor.preparation import Preparation, Tensors
from deployments.types import Chat, ChatMessage, ChatPart, DecodedVideo, MediaInput, MediaKind, Payload, Prepared
from tests.support.tiny_processors import FAMILIES, tiny_checkpoint

RATE_HZ = 16_000


def preparation(family: str, config: AppConfig | None = None, **checkpoint: Any) -> Preparation:
    return Preparation(tiny_checkpoint(FAMILIES[family](), **checkpoint), config or AppConfig())


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def picture_file(pixels_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, "PNG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def tone(seconds: float) -> NDArray[np.float32]:
    return (0.3 * np.sin(np.arange(int(seconds * RATE_HZ)) / 9)).astype(np.float32)


def sound_file(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE_HZ, format="WAV", subtype="FLOAT")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def decoded(indices: Sequence[int], height: int, width: int, times: Sequence[float] | None = None) -> DecodedVideo:
    """A clip of 30 frames a second, of whose frames those at `indices` were taken."""
    times = [index / 30 for index in indices] if times is None else times
    return DecodedVideo(30.0, 5.0, 150, tuple(indices), tuple(times), height, width, 0, "pyav", 0, 0.01)


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """As it comes out of shared memory: a write to it fails."""
    array.flags.writeable = False
    return array


def image(number: int) -> MediaInput:
    return MediaInput(MediaKind.IMAGE, f"item {number}", "png")


def audio(number: int) -> MediaInput:
    return MediaInput(MediaKind.AUDIO, f"item {number}", "wav")


def video(number: int, facts: DecodedVideo) -> MediaInput:
    return MediaInput(MediaKind.VIDEO, f"item {number}", "mp4", facts)


def asking(*parts: str | int, **options: Any) -> Chat:
    """One user message of texts and items."""
    content = (ChatPart(part) if isinstance(part, str) else ChatPart(None, part) for part in parts)
    return Chat((ChatMessage("user", tuple(content)),), **options)


def prepare(
    stage: Preparation, chat: Chat, inputs: Sequence[MediaInput] = (), payloads: Sequence[Payload] = ()
) -> tuple[Prepared, Tensors]:
    prepared, tensors = stage.prepare(Deadline(60, "preprocess"), chat, tuple(inputs), payloads)
    return prepared, tensors or {}
