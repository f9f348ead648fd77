"""What a media item is expected to hold in shared memory at its peak: guessed before the fetch, counted after it.

The guess goes by the very frames that the decoder will be asked for (`frames.frame_sampling`): what is admitted is what
is decoded. Of a picture the fetcher tells what its header says, before anything is made of it. What a picture takes
while it is decoded is no shared memory: the preprocessor bounds that by the same header
(`preprocessor.max_decode_bytes`), and what comes out is never larger than what is counted here.
"""

import math

from deployments.config import AppConfig
from deployments.ingress.request import ItemPlan, Source
from deployments.media.geometry import MAX_KEPT_PIXELS
from deployments.types import DecodedVideo, FrameSampling, MediaKind, ResizeRule, VideoTask

DEFAULT_FRAME_PIXELS = 1280 * 720
"""Of a decoded frame where the model's processor leaves the size open."""
ASSUMED_VIDEO_S = 16.0
"""How long a video is taken to be where frames are asked for by the second and no span is given."""
PICTURE_PIXELS = 2_000_000
"""Of one whose header nobody has seen yet."""
CHANNELS = 3
COPIES = 2
"""Decoded pixels, and the processor's tensors made of them."""


def pixel_bytes(item: ItemPlan, video: VideoTask | None, picture: ResizeRule | None) -> int:
    """Pixels of one item, by what is asked of the decoder or what pictures are brought to; none of a sound."""
    if item.embeds:
        return COPIES * sum(len(source.data or b"") for source in item.sources)
    if item.declared is not None:
        return 0
    if video is not None:
        frames = len(item.sources) if item.is_list else _frames(video.sampling)
        return _copies(video) * CHANNELS * frames * _frame_pixels(video.resize, frames)
    return picture_bytes(PICTURE_PIXELS, picture) if item.kind == MediaKind.IMAGE else 0


def picture_bytes(pixels: int, rule: ResizeRule | None) -> int:
    """Of a picture of `pixels`: as many are kept as the model looks at. Small ones may be enlarged by `rule`."""
    if rule is not None and rule.kind == "exact":
        pixels = rule.height * rule.width
    elif rule is not None:
        pixels = min(max(pixels, rule.min_pixels), rule.max_pixels or pixels)
    return COPIES * CHANNELS * min(pixels, MAX_KEPT_PIXELS)


def decoded_bytes(video: VideoTask, decoded: DecodedVideo) -> int:
    """The same once a video has been decoded, its sound included."""
    return _copies(video) * decoded.payload_bytes


def source_bytes(source: Source, config: AppConfig) -> int:
    """A file, and the text of its `data:` URL beside it."""
    if source.data is not None:
        return 2 * len(source.data)
    return {
        MediaKind.IMAGE: config.ingress.assumed_image_bytes,
        MediaKind.VIDEO: config.ingress.assumed_video_bytes,
        MediaKind.AUDIO: config.ingress.assumed_audio_bytes,
    }[source.item.kind]


def _copies(video: VideoTask) -> int:
    return COPIES if video.patches is None else 1  # the decoder's patches are the model's tensor


def _frames(sampling: FrameSampling) -> int:
    """Frames of a video of which nothing is known but what is asked of it."""
    if sampling.num_frames is not None:
        return sampling.num_frames
    seconds = ASSUMED_VIDEO_S
    if sampling.end_s is not None:
        seconds = sampling.end_s - (sampling.start_s or 0.0)
    wanted = math.ceil(seconds * (sampling.fps or 1.0))
    return min(max(wanted, sampling.min_frames), sampling.max_frames)


def _frame_pixels(rule: ResizeRule | None, frames: int) -> int:
    """Pixels of one frame as the decoder will deliver it, at most."""
    if rule is None:
        return DEFAULT_FRAME_PIXELS
    if rule.kind == "exact":
        return rule.height * rule.width
    per_frame = rule.max_pixels if rule.kind == "frame" else math.ceil(rule.max_pixels / max(frames, 1))
    return min(per_frame or DEFAULT_FRAME_PIXELS, DEFAULT_FRAME_PIXELS)
