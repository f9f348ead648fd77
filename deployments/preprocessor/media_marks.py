"""Names of a request's media for the model's caches: over everything that decides what the model is shown of them.

SHA-256, made on this side, of bytes that were fetched: no client can say that its media are somebody else's.
"""

import functools
import hashlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from deployments.preprocessor.media import Media
from deployments.types import MediaInput, MediaKind, MediaMark

_CODE = ("sluice", "transformers", "torch", "torchvision", "av", "pillow", "simplejpeg", "pillow-heif", "soundfile")
"""Packages whose versions may change what becomes of a file."""


def media_marks(inputs: Sequence[MediaInput], media: Media, settings: object) -> tuple[MediaMark, ...]:
    """A mark for each picture, clip and sound of `media`, each kind in its order; media without a digest have none.

    `settings`: what the request and the checkpoint say of how media are read. Of what else is in a request a clip
    depends on whether the processor resizes all clips or none, a sound on whether clips are listened to; a picture on
    nothing: processors have a part of their own for pictures.
    """
    mode = (settings, all(clip.at_target for clip in media.clips), media.hears_clips)
    marks = []
    for item in inputs:
        own = settings if item.kind is MediaKind.IMAGE else mode
        marks.append(MediaMark(item.kind, item.label, _digest(item, own)))
        if item.label in media.sounding:
            marks.append(MediaMark(MediaKind.AUDIO, item.label, _digest(item, mode)))
    return tuple(marks)


def _digest(item: MediaInput, mode: object) -> str:
    if not item.digest:
        return ""
    video = item.video
    facts = video and (
        video.indices,
        video.timestamps_s,
        (video.source_height, video.source_width, video.rotation_deg, video.patch_grid, video.payload_bytes),
        (video.backend, video.lost_frames),
    )
    said = repr((_code_version(), item.digest, item.kind.value, item.container, facts, mode))
    return hashlib.sha256(said.encode()).hexdigest()


@functools.cache
def _code_version() -> tuple[str, ...]:
    return tuple(_version(package) for package in _CODE)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
