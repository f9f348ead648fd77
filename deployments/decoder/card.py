"""Decoding on a card's own decoder (NVDEC), through FFmpeg: the same packets, and the same frames where file and card
keep to the standard. What a card leaves out, for it has no decoder for it or the file is damaged, the CPU decodes.

Frames come back to main memory and go the way of all others. AV1 stays on the CPU: FFmpeg chooses dav1d for it, which
knows no cards.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import av
from av import VideoFrame
from av.codec import Codec
from av.codec.hwaccel import HWAccel
from av.video.reformatter import VideoReformatter

from deployments.decoder.demux import VideoFile
from deployments.errors import BadMedia, InternalError
from deployments.media.container import prepare_decoder

_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "mpeg2video", "mpeg4"})
"""FFmpeg's names of decoders that a card can stand in for."""
_PLANAR = {"nv12": "yuv420p", "p010le": "yuv420p10le"}
"""The layouts in which cards give frames, and those that hold the same numbers on the CPU: to RGB, each layout has a
converter of its own in swscale, with results of its own."""

logger = logging.getLogger(__name__)


class Card(Protocol):
    """Where other decoders than the CPU's are to be had."""

    def decoder_of(self, video: VideoFile) -> Any:
        """A context manager: a decoder of the packets of `video`, None where there is none for it."""
        ...


class NvidiaCard:
    """One for a process, used by all of its threads."""

    def __init__(self) -> None:
        """Raises `OSError` where there is no card or none that decodes."""
        try:
            # Kept: what all decoders share of a card is taken down with the last one of them.
            self._kept = _accelerator().create(Codec("h264", "r"))
        except (av.error.FFmpegError, NotImplementedError) as error:
            raise OSError(f"{error}") from error

    @contextmanager
    def decoder_of(self, video: VideoFile) -> Iterator[Any]:
        """See `Card.decoder_of`. Raises `StageTimeout` or `WorkCancelled`."""
        with ExitStack() as reopened:
            yield self._decoder(video, reopened) if video.stream.codec_context.name in _CODECS else None

    def _decoder(self, video: VideoFile, reopened: ExitStack) -> Any:
        try:
            opened = reopened.enter_context(video.reopen(hwaccel=_accelerator()))
        except (BadMedia, InternalError) as error:  # of the card: the file itself has been opened before
            logger.warning("the card has no decoder for a video now, the CPU decodes it: %s", error.__cause__)
            return None
        stream = opened.streams[video.stream.index]
        prepare_decoder(stream, threads=1)
        return stream.codec_context if stream.codec_context.is_hwaccel else None


def find_card() -> NvidiaCard | None:
    """Where there is none, the log says so, and the CPU decodes."""
    try:
        return NvidiaCard()
    except OSError as error:
        logger.warning("decoder.backend is cuda, and there is no card to decode on here, the CPU decodes: %s", error)
        return None


def planar(frame: VideoFrame, reformatter: VideoReformatter) -> VideoFrame:
    """`frame` as the CPU's decoder would have laid it out, the same numbers in other places."""
    layout = _PLANAR.get(frame.format.name)
    return frame if layout is None else reformatter.reformat(frame, format=layout)


def _accelerator() -> HWAccel:
    """All of a process share the card's primary context: one for each video would cost more than a short one."""
    return HWAccel("cuda", allow_software_fallback=False, options={"primary_ctx": "1"})
