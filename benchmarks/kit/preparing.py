"""What the benchmarks of the media stages share: the processors of published checkpoints, and the ways from a file to
the model's tensors."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import (
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from deployments.config import AppConfig, DecoderConfig, PreprocessorConfig
from deployments.core.deadline import Deadline
from deployments.decoder.reader import VideoRead, VideoReader
from deployments.model.multimodal.pixels import add_clips, normalised
from deployments.preprocessor.preparation import Preparation, Tensors
from deployments.types import (
    Chat,
    ChatMessage,
    ChatPart,
    FrameSampling,
    MediaInput,
    MediaKind,
    PatchRule,
    Prepared,
    ResizeRule,
    VideoTask,
)
from tests.support.tiny_processors import QWEN_TEMPLATE, QWEN_TOKENS, byte_tokenizer, tiny_checkpoint

CONTEXT_LENGTH = 1 << 20
FRAMES = 32


def qwen2_5_vl() -> Any:
    images = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384})
    videos = Qwen2VLVideoProcessor(
        size={"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}, cap_pixels_per_frame=False
    )
    return Qwen2_5_VLProcessor(images, byte_tokenizer(*QWEN_TOKENS), videos, chat_template=QWEN_TEMPLATE)


def qwen3_vl() -> Any:
    half = [0.5, 0.5, 0.5]
    size = {"shortest_edge": 65536, "longest_edge": 16777216}
    images = Qwen2VLImageProcessor(patch_size=16, size=size, image_mean=half, image_std=half)
    videos = Qwen3VLVideoProcessor(
        size={"shortest_edge": 4096, "longest_edge": 25165824}, image_mean=half, image_std=half,
        cap_pixels_per_frame=False,
    )  # fmt: skip
    return Qwen3VLProcessor(images, byte_tokenizer(*QWEN_TOKENS), videos, chat_template=QWEN_TEMPLATE)


PROCESSORS: dict[str, Callable[[], Any]] = {"Qwen3-VL": qwen3_vl, "Qwen2.5-VL": qwen2_5_vl}


def deadline() -> Deadline:
    return Deadline(3600, "benchmark")


def preparation(processor: str, uint8: bool = True, workers: int = 1) -> Preparation:
    config = AppConfig(preprocessor=PreprocessorConfig(uint8_handoff=uint8, workers=workers))
    return Preparation(tiny_checkpoint(PROCESSORS[processor](), CONTEXT_LENGTH), config)


def question(items: int) -> Chat:
    parts = (*(ChatPart(None, number) for number in range(items)), ChatPart("What happens here?"))
    return Chat((ChatMessage("user", parts),))


def picture_file(width: int, height: int, fmt: str, seed: int = 0) -> NDArray[np.uint8]:
    """A picture of clouds with a little noise, as a JPEG of a usual photo's size; a PNG is a page of black on white."""
    source = np.random.default_rng(seed)
    coarse = Image.fromarray(source.integers(0, 256, (height // 16, width // 16, 3), np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    if fmt == "PNG":
        lines = (np.arange(height) % 30 < 18)[:, None, None]
        pixels = np.where(lines & (pixels[..., :1] < 100), 0.0, 255.0).repeat(3, axis=2)
    else:
        pixels = pixels + source.normal(0, 3, pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
        buffer, fmt, **({"quality": 90} if fmt == "JPEG" else {})
    )
    return np.frombuffer(buffer.getvalue(), np.uint8)


@dataclass(frozen=True, slots=True)
class Crossing:
    """Bytes of pixels on their way between the stages."""

    to_preprocessor: int
    from_preprocessor: int
    straight: int
    """From the decoder to the model."""

    @property
    def total(self) -> int:
        return self.to_preprocessor + self.from_preprocessor + self.straight


@dataclass(frozen=True, slots=True)
class Way:
    """From a file to the tensors that reach the model's replica."""

    decoder: VideoReader
    stage: Preparation
    resize: ResizeRule | None = None
    patches: PatchRule | None = None
    to_float: bool = False
    """Do the model's part on this CPU too: normalise what is uint8."""
    frames: int = FRAMES

    def decode(self, data: NDArray[np.uint8]) -> VideoRead:
        sampling = FrameSampling(num_frames=self.frames, fps=None, max_frames=self.frames)
        return self.decoder.read(VideoTask("clip", sampling, self.resize, None, self.patches), data, deadline())

    def prepare(self, read: VideoRead) -> tuple[Prepared, Tensors]:
        item = MediaInput(MediaKind.VIDEO, "clip", "mp4", read.meta)
        straight = read.meta.patch_grid is not None
        payloads = [] if straight else [read.payload]
        chat, inputs = question(1), (replace(item, pixels_at_model=straight),)
        prepared, tensors = self.stage.prepare(deadline(), chat, inputs, payloads)
        assert tensors is not None
        return prepared, tensors

    def run(self, data: NDArray[np.uint8]) -> tuple[Prepared, Tensors]:
        read = self.decode(data)
        prepared, tensors = self.prepare(read)
        if read.meta.patch_grid is not None:
            add_clips(tensors, [dict(read.payload)])
        if self.to_float:
            pixels = torch.from_numpy(tensors["pixel_values_videos"])
            tensors["pixel_values_videos"] = normalised(pixels, prepared.pixel_norm, torch.float32).numpy()
        return prepared, tensors

    def crossing(self, data: NDArray[np.uint8]) -> Crossing:
        read = self.decode(data)
        pixels, tensors = _bytes(read.payload), _bytes(self.prepare(read)[1])
        straight = read.meta.patch_grid is not None
        return Crossing(0 if straight else pixels, tensors, pixels if straight else 0)


USUAL = "full-size frames, HF to float32"
OURS = "ours: resized and cut in the decode, uint8"


def ways(processor: str, frames: int = FRAMES) -> dict[str, Way]:
    """The first is the usual one."""
    decoder = VideoReader(DecoderConfig())
    floats, bytes_ = preparation(processor, uint8=False), preparation(processor)
    resize, patches = bytes_.profile.resize, bytes_.profile.patches
    found = {
        USUAL: Way(decoder, floats),
        "full-size frames, HF to uint8": Way(decoder, bytes_),
        "resized in the decode, HF to uint8": Way(decoder, bytes_, resize),
        OURS: Way(decoder, bytes_, resize, patches),
        f"{OURS}, then float32 by the model's replica on this CPU": Way(decoder, bytes_, resize, patches, True),
    }
    return {name: replace(way, frames=frames) for name, way in found.items()}


def _bytes(payload: dict[str, NDArray[Any]]) -> int:
    return sum(array.nbytes for array in payload.values())
