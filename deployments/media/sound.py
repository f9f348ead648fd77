"""Sound files to what models hear: mono float32 at the model's rate. Knows nothing of models.

WAV, FLAC, Vorbis and MP3 are decoded by libsndfile, which is the quicker one; AAC, Opus and the audio tracks of MP4 and
Matroska by FFmpeg. Both go through `MonoTrack`, a block at a time, so that no more is ever held than the limit allows.
"""

import io

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, InternalError
from deployments.media.container import check_decoder, frames_of, open_container, packets_of, prepare_decoder
from deployments.media.mono import MonoTrack, check_duration

SOUND_CONTAINERS = ("wav", "flac", "ogg", "mp3", "aac", "mp4", "matroska")

_SNDFILE_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3", "MPEG"})
_BLOCK_FRAMES = 1 << 16
_UNKNOWN_FRAMES = 2**62
"""libsndfile counts about 2^63 in streams that don't tell their length."""
_MAX_RATE_HZ = 768_000
_MAX_CHANNELS = 16
_MAX_PICTURE_PIXELS = 4096 * 4096
"""Of a cover or a video track beside the sound; nothing of it is delivered."""


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
    track = MonoTrack(rate_hz, max_s, label)
    quick = container in ("wav", "flac", "mp3") or (container == "ogg" and not _is_opus(data))
    if not quick or not _decode_with_sndfile(data, track, max_s, label, deadline):
        _decode_with_ffmpeg(data, container, track, max_s, label, deadline)
    samples = track.finish()
    if not len(samples):
        raise BadMedia("the file holds no sound", param=label)
    return samples


def _is_opus(data: NDArray[np.uint8]) -> bool:
    return b"OpusHead" in data[:512].tobytes()


def _decode_with_sndfile(
    data: NDArray[np.uint8], track: MonoTrack, max_s: float, label: str, deadline: Deadline
) -> bool:
    """False, and nothing done, for streams that don't tell their length: libsndfile gets lost in them."""
    try:
        with soundfile.SoundFile(io.BytesIO(data.data)) as file:
            if file.frames >= _UNKNOWN_FRAMES:
                return False
            _check_header(file, max_s, label)
            layout = av.AudioLayout("mono")
            while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                deadline.check()
                frame = av.AudioFrame.from_ndarray(block.mean(axis=1)[None, :], format="fltp", layout=layout)
                frame.sample_rate = file.samplerate
                track.add(frame)
        return True
    except soundfile.LibsndfileError as exc:
        raise BadMedia(f"the sound can't be read: {exc.error_string}", param=label) from exc
    except MemoryError as exc:
        raise InternalError("not enough memory to decode the sound", param=label) from exc


def _check_header(file: soundfile.SoundFile, max_s: float, label: str) -> None:
    if file.format not in _SNDFILE_FORMATS:
        raise BadMedia(f"sound of the format {file.format} is not read", param=label)
    if not 1 <= file.samplerate <= _MAX_RATE_HZ or not 1 <= file.channels <= _MAX_CHANNELS:
        raise BadMedia(
            f"{file.samplerate} Hz with {file.channels} channels is not read: "
            f"up to {_MAX_RATE_HZ} Hz and {_MAX_CHANNELS} channels are",
            param=label,
        )
    check_duration(file.frames / file.samplerate, max_s, label)


def _decode_with_ffmpeg(
    data: NDArray[np.uint8], container: str, track: MonoTrack, max_s: float, label: str, deadline: Deadline
) -> None:
    with open_container(data, container, label, _MAX_PICTURE_PIXELS, deadline) as file:
        if not file.streams.audio:
            raise BadMedia("the file holds no sound", param=label)
        stream = file.streams.audio[0]
        check_decoder(stream, data, label)
        prepare_decoder(stream, threads=1)
        if stream.duration is not None and stream.time_base is not None:
            check_duration(float(stream.duration * stream.time_base), max_s, label)
        for packet in packets_of(file, stream):
            deadline.check()
            for frame in frames_of(packet):
                track.add(frame)
        deadline.check()
