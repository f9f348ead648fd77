"""A video given as a list of pictures: those that are wanted, decoded and brought to the size of the first."""

import dataclasses
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.decoder.limits import Limits
from deployments.decoder.reader import VideoRead, within
from deployments.decoder.sampling import sample
from deployments.decoder.stack import FrameStack
from deployments.errors import BadRequest
from deployments.media.pictures import decode_picture
from deployments.types import DecodedVideo, VideoTask

DEFAULT_RATE_HZ = 1.0
"""Pictures a second when the request doesn't say."""


class PictureListReader:
    """Keeps nothing of what it reads: `read` may run on several threads at once."""

    def __init__(self, config: DecoderConfig) -> None:
        self._config = config

    def read(self, task: VideoTask, pictures: tuple[NDArray[np.uint8], ...], deadline: Deadline) -> VideoRead:
        """Decode what `task` wants of `pictures`, the bytes of picture files, each uint8 of shape (size,).

        The list counts as sampled already: `fps` is its rate, and only a list of more than `num_frames` or `max_frames`
        is thinned out, evenly. Raises `BadRequest` for an empty list, `BadMedia` for a picture that can't be read,
        `TooLarge` beyond a limit, `StageTimeout` or `WorkCancelled` between pictures.
        """
        started = time.monotonic()
        if not pictures:
            raise BadRequest("a video needs at least one picture", param=task.label)
        rate_hz = task.sampling.fps or DEFAULT_RATE_HZ
        times_s = np.arange(len(pictures)) / rate_hz
        wanted = self._choose(times_s, task)
        limits = Limits(self._config, task.label)
        stack = FrameStack(len(wanted), task.resize if self._config.resize else None, limits, task.label, task.patches)
        for slot, number in enumerate(wanted):
            label = f"{task.label}.video[{number}]"
            picture = decode_picture(pictures[number], label, limits.max_source_pixels, deadline)
            size = stack.begin(*picture.shape[:2])
            stack.put(slot, _resized(picture, *size))
        stacked = stack.finish()
        payload: dict[str, NDArray[Any]] = {**stacked.payload}
        if task.audio_rate_hz is not None:
            payload["audio"] = np.empty(0, np.float32)
        meta = DecodedVideo(
            source_fps=rate_hz,
            duration_s=len(pictures) / rate_hz,
            total_frames=len(pictures),
            indices=tuple(int(number) for number in wanted),
            timestamps_s=tuple(float(times_s[number]) for number in wanted),
            source_height=stack.source_size[0],
            source_width=stack.source_size[1],
            rotation_deg=0,
            backend="pictures",
            lost_frames=0,
            decode_s=time.monotonic() - started,
            patch_grid=stacked.patch_grid,
        )
        return VideoRead(meta, payload, len(wanted))

    def _choose(self, times_s: NDArray[np.float64], task: VideoTask) -> NDArray[np.int64]:
        sampling = within(task.sampling, self._config.max_frames)
        count = sampling.max_frames if sampling.num_frames is None else sampling.num_frames
        return sample(times_s, dataclasses.replace(sampling, fps=None, num_frames=count), task.label)


def _resized(picture_HWC: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if picture_HWC.shape[:2] == (height, width):
        return picture_HWC
    image = Image.fromarray(picture_HWC).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)
