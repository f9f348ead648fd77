"""Sound files to what models hear: mono float32 at the model's rate. Knows nothing of models.

What libsndfile reads whole and exactly stays with it (see `whole_sounds`); everything else is decoded by FFmpeg, which
takes streams as they are (joined, cut, damaged, miscounted), where libsndfile believes headers, and seeks in MP3 until
samples are lost. Both go through `MonoTrack`, a block at a time, so that no more is ever held than the limit allows.
"""

import functools
import io

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, InternalError
from deployments.media.container import (
    check_clear,
    check_clear_track,
    check_decoder,
    frames_of,
    open_container,
    packets_of,
    prepare_decoder,
)
from deployments.media.mono import MonoTrack, check_duration
from deployments.media.sniff import HEAD_BYTES, sniff
from deployments.media.whole_sounds import WholeSound, whole_sound

SOUND_CONTAINERS = ("wav", "flac", "ogg", "mp3", "aac", "mp4", "matroska", "avi", "mpegts", "flv")

_BLOCK_FRAMES = 1 << 16
_MAX_PICTURE_PIXELS = 4096 * 4096
"""Of a cover or a video track beside the sound; nothing of it is delivered."""
_GUESSED_LENGTH = frozenset({"mp3", "aac", "mpegts", "flv"})
"""Containers that don't tell their length: FFmpeg makes one up from the first packets' bit rate."""
_ID3_HEAD_BYTES = 10
_MAX_PADDING_BYTES = 2**20
_MAX_TAGS = 8
"""Before one sound; tools that add a tag without looking for one leave two or three."""


def decode_sound(
    data: NDArray[np.uint8], container: str, rate_hz: int, max_s: float, label: str, deadline: Deadline
) -> NDArray[np.float32]:
    """The sound in the bytes `data` of shape (size,), mono, shape (samples,), at `rate_hz`; full scale is +-1.

    container: one of `SOUND_CONTAINERS`, as known from the bytes. Looks at `deadline` for each block.
    Raises `BadMedia` for bytes without sound that can be read, `TooLarge` beyond `max_s` seconds, by the header or
    while decoding, `UnsupportedCodec` without a decoder for it, `InternalError` when this machine lacks memory.
    """
    if container not in SOUND_CONTAINERS:
        raise BadMedia(f"no sound can be read from {container}", param=label)
    if container == "mp3":
        data, container = _behind_tags(data)
    whole = whole_sound(data, container)
    samples = None
    if whole is not None:
        samples = _read_whole(data, whole, MonoTrack(rate_hz, max_s, label), label, deadline)
    if samples is None:
        track = MonoTrack(rate_hz, max_s, label)
        _decode_with_ffmpeg(data, container, track, max_s, label, deadline)
        samples = track.finish()
    if not len(samples):
        raise BadMedia("the file holds no sound", param=label)
    return samples


def _behind_tags(data: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], str]:
    """The sound behind ID3 tags and zeros, and its container: tags stand before AAC and FLAC, too.

    What is skipped is not looked at: pictures among it can't be bombs.
    """
    rest = data
    for _ in range(_MAX_TAGS):
        padding = np.flatnonzero(rest[:_MAX_PADDING_BYTES])[:1]
        rest = rest[int(padding[0]) if len(padding) else 0 :]
        if rest[:3].tobytes() != b"ID3":
            break
        size = functools.reduce(lambda size, byte: size << 7 | int(byte) & 0x7F, rest[6:_ID3_HEAD_BYTES], 0)
        rest = rest[_ID3_HEAD_BYTES + size :]
    found = sniff(rest[:HEAD_BYTES].tobytes()).container
    return (rest, found) if found in ("mp3", "aac", "flac", "ogg", "wav") else (data, "mp3")


def _read_whole(
    data: NDArray[np.uint8], whole: WholeSound, track: MonoTrack, label: str, deadline: Deadline
) -> NDArray[np.float32] | None:
    """None when libsndfile makes anything else of it than the header says."""
    check_duration(whole.frames / whole.rate_hz, track.max_s, label)
    read = 0
    try:
        with soundfile.SoundFile(io.BytesIO(data.data)) as file:
            if (file.frames, file.samplerate) != (whole.frames, whole.rate_hz):
                return None
            layout = av.AudioLayout("mono")
            while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                deadline.check()
                read += len(block)
                frame = av.AudioFrame.from_ndarray(block.mean(axis=1)[None, :], format="fltp", layout=layout)
                frame.sample_rate = file.samplerate
                track.add(frame)
    except soundfile.LibsndfileError:
        return None
    except MemoryError as exc:
        raise InternalError("not enough memory to decode the sound", param=label) from exc
    return track.finish() if read == whole.frames else None


def _decode_with_ffmpeg(
    data: NDArray[np.uint8], container: str, track: MonoTrack, max_s: float, label: str, deadline: Deadline
) -> None:
    with open_container(data, container, label, _MAX_PICTURE_PIXELS, deadline) as file:
        if not file.streams.audio:
            raise BadMedia("the file holds no sound", param=label)
        stream = file.streams.audio[0]
        check_clear_track(file, stream, data, label)
        check_decoder(stream, data, label)
        prepare_decoder(stream, threads=1)
        if container not in _GUESSED_LENGTH and stream.duration is not None and stream.time_base is not None:
            check_duration(float(stream.duration * stream.time_base), max_s, label)
        for packet in packets_of(file, stream):
            deadline.check()
            check_clear(packet, label)
            for frame in frames_of(packet):
                track.add(frame)
        deadline.check()
