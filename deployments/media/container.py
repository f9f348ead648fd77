"""Opening media files with FFmpeg, so that hostile bytes can make it read nothing but themselves.

FFmpeg guesses formats, and some formats name other files, URLs and sockets. Here the container is known from the bytes
before FFmpeg sees them, its demuxer is forced, every other demuxer and every protocol is refused, and pictures above a
pixel limit are refused inside the codecs. The only place that turns FFmpeg's errors into ours.
"""

import ctypes
import functools
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Discard
from numpy.typing import NDArray

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, InternalError, SluiceError, TooLarge, UnsupportedCodec
from deployments.media.codec_names import codec_names
from deployments.media.mp4 import check_sample_counts
from deployments.media.native import loaded_libraries
from deployments.media.transport_stream import is_scrambled

DEMUXERS = {
    "mp4": "mov",
    "matroska": "matroska",
    "avi": "avi",
    "mpegts": "mpegts",
    "flv": "flv",
    "wav": "wav",
    "flac": "flac",
    "ogg": "ogg",
    "mp3": "mp3",
    "aac": "aac",
}
"""Our names of containers (see `types.Fetched`) and FFmpeg's of the demuxers for them."""

VIDEO_CONTAINERS = ("mp4", "matroska", "avi", "mpegts", "flv")

_WHITELIST = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,flv,wav,flac,ogg,mp3,aac"
_FATAL = (av.error.DecoderNotFoundError, MemoryError)
_DAMAGE = (av.error.FFmpegError, ValueError)
"""What FFmpeg says of single packets that are damaged or of a kind that it doesn't know; and PyAV 19, with a plain
`ValueError`, of each one after the first that a decoder could not be set up for."""
_PLAIN_CODECS = frozenset({"hevc", "vp8", "vp9", "av1", "libdav1d"})
"""FFmpeg's names of decoders that need to know nothing beyond a file's header."""
_READ_BYTES = 256 * 1024
_MAX_ALLOCATION_BYTES = 256 * 2**20
"""The largest frames, and the tables of the longest files, take a quarter of it."""
_TOLERANT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Metadata in another encoding is no reason to refuse a file; PyAV 19 knows that without being told."""


@contextmanager
def open_container(
    data: NDArray[np.uint8],
    container: str,
    label: str,
    max_pixels: int,
    deadline: Deadline,
    hwaccel: HWAccel | None = None,
) -> Iterator[InputContainer]:
    """`data`, uint8 of shape (size,), opened for demuxing as `container`, a key of `DEMUXERS`; closed at the end.
    `hwaccel`: what its decoders may use of a device.

    No decoder runs before the sizes of all video tracks are known; one above `max_pixels` (height x width) raises
    `TooLarge`. At `deadline` the file seems to end: check it after the last packet. Raises as `ffmpeg_errors` does,
    also from the body of the `with`.
    """
    limit_allocations()
    if container == "mp4":
        check_sample_counts(data, label)
    with ffmpeg_errors(label):
        with _open(data, container, deadline, {"codec_whitelist": "none"}, max_pixels, hwaccel) as opened:
            deadline.check()
            _refuse_large(opened, max_pixels, label)
            if _tells_enough(opened, container):
                yield opened
                return
        with _open(data, container, deadline, {}, max_pixels, hwaccel) as opened:
            deadline.check()
            yield opened


@functools.cache
def limit_allocations() -> None:
    """No header may make FFmpeg take more in one piece, in this process: tags of two gigabytes, tables of billions."""
    for library in loaded_libraries("libavutil"):
        library.av_max_alloc.argtypes, library.av_max_alloc.restype = [ctypes.c_size_t], None
        library.av_max_alloc(_MAX_ALLOCATION_BYTES)


def _tells_enough(opened: InputContainer, container: str) -> bool:
    """Whether the header alone says how to decode the video; that saves up to a tenth of a short clip's time.

    The order of display of H.264 may have to be learnt by decoding some frames, unless an MP4 file's tables tell it.
    """
    return bool(opened.streams.video) and all(
        stream.codec_context is not None
        and stream.width * stream.height > 0
        and (
            stream.codec_context.name in _PLAIN_CODECS
            or (stream.codec_context.name == "h264" and container == "mp4" and stream.frames > 0)
        )
        for stream in opened.streams.video
    )


def _open(
    data: NDArray[np.uint8],
    container: str,
    deadline: Deadline,
    options: dict[str, str],
    max_pixels: int,
    hwaccel: HWAccel | None,
) -> InputContainer:
    try:
        opened: InputContainer = av.open(
            _Reader(data, deadline),
            format=DEMUXERS[container],
            buffer_size=_READ_BYTES,
            options={"max_pixels": str(max_pixels)},
            container_options={"protocol_whitelist": "", "format_whitelist": _WHITELIST, **options},
            hwaccel=hwaccel,
            **_TOLERANT,
        )
        return opened
    except av.error.FFmpegError:
        deadline.check()
        raise


def _refuse_large(opened: InputContainer, max_pixels: int, label: str) -> None:
    for stream in opened.streams.video:
        if stream.codec_context is not None and stream.width * stream.height > max_pixels:
            raise TooLarge(
                f"frames of {stream.width} x {stream.height} pixels are too large, the limit is {max_pixels} in all",
                param=label,
            )


@contextmanager
def ffmpeg_errors(label: str) -> Iterator[None]:
    """FFmpeg's errors as ours: `BadMedia` for what the bytes cause, `InternalError` for lack of memory.

    FFmpeg refuses at once what a damaged file asks of it in one piece, gigabytes mostly, and calls that lack of memory.
    """
    try:
        yield
    except SluiceError:
        raise
    except (av.error.DecoderNotFoundError, av.error.DemuxerNotFoundError) as exc:
        raise UnsupportedCodec("this server has no decoder for the file's codec", param=label) from exc
    except MemoryError as exc:
        if isinstance(exc, av.error.FFmpegError):
            raise BadMedia("the file is damaged: it asks for more memory than it may have", param=label) from exc
        raise InternalError("not enough memory to decode the file", param=label) from exc
    except av.error.FFmpegError as exc:
        raise BadMedia(f"the file can't be read: {exc.strerror or 'invalid data'}", param=label) from exc


def check_decoder(stream: Any, data: NDArray[np.uint8], label: str) -> None:
    """Raise `UnsupportedCodec` when there is no decoder for `stream`, a track of the file `data`."""
    if stream.codec_context is None:
        names = ", ".join(codec_names(data))
        told = f"; its tracks are coded as {names}" if names else ""
        raise UnsupportedCodec(f"this server has no decoder for the file's {stream.type} track{told}", param=label)


def check_clear(packet: Any, label: str) -> None:
    """Raise `BadMedia` for a packet that only the holder of a key can decode: what came out would be noise."""
    if packet.has_sidedata("encryption_info"):
        raise BadMedia(f"the {packet.stream.type} is encrypted", param=label)


def check_clear_track(opened: InputContainer, stream: Any, data: NDArray[np.uint8], label: str) -> None:
    """Raise `BadMedia` for a scrambled track, `stream`, of a broadcast in the file `data`."""
    if opened.format.name == "mpegts" and is_scrambled(data, stream.id):
        raise BadMedia(f"the {stream.type} is encrypted", param=label)


def prepare_decoder(stream: Any, threads: int) -> None:
    """Set up how `stream`, which `check_decoder` let pass, will be decoded."""
    stream.codec_context.thread_count = threads
    stream.codec_context.thread_type = "AUTO" if threads > 1 else "NONE"


def packets_of(opened: InputContainer, *streams: Any) -> Iterator[Any]:
    """The packets of `streams` as they lie in the file, then an empty one a stream, which ends its decoding.

    Ends quietly where a truncated or damaged file does.
    """
    for other in opened.streams:
        if other not in streams:
            other.discard = Discard.all
    try:
        yield from opened.demux(*streams)
    except _FATAL:
        raise
    except _DAMAGE:
        return
    except IndexError:  # PyAV at the end of a file in which streams appeared on the way
        return


def frames_of(packet: Any, context: Any = None) -> list[Any]:
    """What a packet decodes to; nothing when it is damaged. `context`: another decoder than its stream's own."""
    try:
        return list(packet.decode() if context is None else context.decode(packet))
    except _FATAL:
        raise
    except _DAMAGE:
        return []


def drained(context: Any) -> list[Any]:
    """The frames that a decoder still holds; it must be flushed before it decodes again."""
    try:
        return list(context.decode(None))
    except _FATAL:
        raise
    except _DAMAGE:
        return []


class _Reader(io.RawIOBase):
    """A file over an array: seekable, nothing copied but what is read."""

    def __init__(self, data: NDArray[np.uint8], deadline: Deadline) -> None:
        self._view = data.data
        self._position = 0
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._deadline.overdue_s(time.monotonic()) >= 0:
            return b""  # an exception here would be printed and replaced by FFmpeg's; the caller looks again
        end = len(self._view) if size < 0 else self._position + size
        chunk = bytes(self._view[self._position : end])
        self._position += len(chunk)
        return chunk

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._view)}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position
