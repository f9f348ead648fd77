"""The readers of media as the stages use them, fed with bytes of any kind; whatever they give is checked."""

import importlib
import math
import random
import warnings

import numpy as np
from numpy.typing import NDArray

from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.decoder.reader import VideoReader
from deployments.errors import RequestError, StageTimeout
from deployments.media.container import limit_allocations
from deployments.media.patches import frames_of
from deployments.media.pictures import decode_picture
from deployments.media.sniff import HEAD_BYTES, KINDS, sniff
from deployments.media.sound import decode_sound
from deployments.types import FrameSampling, MediaKind, PatchRule, ResizeRule, VideoTask

MAX_PIXELS = 2_000_000
MAX_OUTPUT_BYTES = 64 * 2**20
MAX_SOUND_S = 60.0
SOUND_RATE_HZ = 16_000
_SAMPLINGS = (
    FrameSampling(num_frames=8, fps=None, max_frames=32),
    FrameSampling(num_frames=None, fps=2.0, max_frames=32, min_frames=4),
    FrameSampling(num_frames=None, fps=60.0, max_frames=32),
)
_CUTS = {32: PatchRule(patch=16, merge=2, temporal=2), 28: PatchRule(patch=14, merge=2, temporal=3)}
"""By the factor of the rule for the size."""
_RULES = (
    None,
    ResizeRule("clip", factor=32, temporal_factor=2, min_pixels=4 * 32 * 32, max_pixels=32 * 96 * 96),
    ResizeRule("frame", factor=28, min_pixels=28 * 28, max_pixels=56 * 56),
    ResizeRule("exact", height=32, width=32),
)


class MediaSubject:
    """Says of each file what became of it: `answered`, `refused`, `expired`; raises for everything else."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        limits = {"max_source_pixels": MAX_PIXELS, "max_output_bytes": MAX_OUTPUT_BYTES, "max_audio_s": MAX_SOUND_S}
        self._readers = [
            VideoReader(DecoderConfig(backend=backend, **limits)) for backend in ("pyav", "pyav", "opencv")
        ]
        for late in ("stream", "codeccontext", "subtitle"):  # PyAV loads them when it first meets such a track
            importlib.import_module(f"av.subtitles.{late}")
        limit_allocations()  # looks at this process's libraries when it is first called
        warnings.simplefilter("ignore")  # of Pillow, about what it has seen in a file

    def feed(self, data: bytes) -> str:
        """Reads `data` as everything that it may be sent as. How it is read depends on nothing but the bytes."""
        container = sniff(data[:HEAD_BYTES]).container
        if container is None:
            return "refused"
        chance = random.Random(data)
        outcomes = {self._outcome(kind, data, container, chance) for kind in sorted(KINDS[container])}
        return min(outcomes, key=("refused namelessly", "expired", "answered", "refused").index)

    def _outcome(self, kind: MediaKind, data: bytes, container: str, chance: random.Random) -> str:
        read = {MediaKind.IMAGE: self._picture, MediaKind.VIDEO: self._video, MediaKind.AUDIO: self._sound}[kind]
        file = np.frombuffer(data, np.uint8)
        try:
            read(file, container, Deadline(self._deadline_s, "decode"), chance)
        except RequestError as error:
            return "refused" if error.param == "item" else "refused namelessly"
        except StageTimeout:
            return "expired"
        return "answered"

    def _picture(self, file: NDArray[np.uint8], container: str, deadline: Deadline, chance: random.Random) -> None:
        pixels = decode_picture(file, "item", MAX_PIXELS, deadline, chance.choice(_RULES))
        assert pixels.dtype == np.uint8, pixels.dtype
        assert pixels.ndim == 3, pixels.shape
        assert pixels.shape[2] == 3, pixels.shape
        assert 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS, pixels.shape
        assert pixels.flags.c_contiguous

    def _video(self, file: NDArray[np.uint8], container: str, deadline: Deadline, chance: random.Random) -> None:
        audio_rate_hz = chance.choice((None, SOUND_RATE_HZ))
        sampling, rule = chance.choice(_SAMPLINGS), chance.choice(_RULES)
        patches = chance.choice((None, rule and _CUTS.get(rule.factor)))
        task = VideoTask("item", sampling, rule, audio_rate_hz, patches)
        read = chance.choice(self._readers).read(task, file, deadline)
        meta = read.meta
        if meta.patch_grid is None:
            frames = read.payload["frames_THWC"]
        else:
            assert task.patches is not None
            frames = frames_of(read.payload["patches"], meta.patch_grid, task.patches, len(meta.indices))
        assert frames.dtype == np.uint8, frames.dtype
        assert frames.flags.c_contiguous
        assert frames.nbytes <= MAX_OUTPUT_BYTES, frames.shape
        assert 0 < len(frames) == len(meta.indices) == len(meta.timestamps_s) <= 32, meta
        assert all(a < b for a, b in zip(meta.indices, meta.indices[1:], strict=False)), meta
        assert all(a <= b for a, b in zip(meta.timestamps_s, meta.timestamps_s[1:], strict=False)), meta
        assert 0 <= meta.indices[0] <= meta.indices[-1] < meta.total_frames, meta
        assert all(map(math.isfinite, (meta.source_fps, meta.duration_s, *meta.timestamps_s))), meta
        assert meta.source_fps > 0, meta
        assert meta.timestamps_s[0] >= 0, meta
        if "audio" in read.payload:
            _check_sound(read.payload["audio"])

    def _sound(self, file: NDArray[np.uint8], container: str, deadline: Deadline, chance: random.Random) -> None:
        samples = decode_sound(file, container, SOUND_RATE_HZ, MAX_SOUND_S, "item", deadline)
        assert len(samples)
        _check_sound(samples)


def _check_sound(samples: NDArray[np.float32]) -> None:
    assert samples.dtype == np.float32, samples.dtype
    assert samples.ndim == 1, samples.shape
    assert len(samples) <= (MAX_SOUND_S + 1) * SOUND_RATE_HZ, samples.shape
    assert np.isfinite(samples).all()
