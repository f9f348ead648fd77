"""Every codec in every container, whole and damaged, is what a full sequential decode by FFmpeg makes of the bytes."""

import io
from collections.abc import Callable

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia
from deployments.media.sniff import HEAD_BYTES, sniff
from deployments.media.sound import decode_sound
from tests.support.media_files import make_sound, make_track, make_video, tones

TRACKS = {
    "PCM of 8 bits": ("wav", "pcm_u8"),
    "PCM of 16 bits": ("wav", "pcm_s16le"),
    "PCM of 24 bits": ("wav", "pcm_s24le"),
    "floating point": ("wav", "pcm_f32le"),
    "µ-law": ("wav", "pcm_mulaw"),
    "ADPCM": ("wav", "adpcm_ima_wav"),
    "MP3 in WAV": ("wav", "libmp3lame"),
    "MP3": ("mp3", "libmp3lame"),
    "FLAC": ("flac", "flac"),
    "FLAC in Ogg": ("ogg", "flac"),
    "Opus": ("ogg", "libopus"),
    "AAC": ("adts", "aac"),
    "AAC in MP4": ("ipod", "aac"),
    "ALAC in MP4": ("ipod", "alac"),
    "Opus in WebM": ("webm", "libopus"),
    "FLAC in Matroska": ("matroska", "flac"),
    "MP3 in a transport stream": ("mpegts", "libmp3lame"),
    "AAC in a transport stream": ("mpegts", "aac"),
    "MP3 in AVI": ("avi", "libmp3lame"),
    "MP3 in Flash": ("flv", "libmp3lame"),
}
RATES_HZ = {"Opus": (16_000, 48_000), "Opus in WebM": (48_000,), "MP3 in Flash": (22_050, 44_100)}
ID3 = b"ID3\x04\0\0\0\0\1\x48" + bytes(200)

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "whole": lambda data: data,
    "cut short": lambda data: data[: len(data) * 3 // 5],
    "with a hole": lambda data: data[: len(data) // 2] + bytes(len(data) // 10) + data[len(data) * 3 // 5 :],
    "joined": lambda data: data + data,
    "with bytes behind": lambda data: data + b"\x55\xaa and so on" * 20,
    "in part": lambda data: data[:400] + data[len(data) // 2 :],
}


def decode(data: bytes, rate_hz: int) -> NDArray[np.float32]:
    container = sniff(data[:HEAD_BYTES]).container
    assert container is not None
    return decode_sound(np.frombuffer(data, np.uint8), container, rate_hz, 600.0, "item", Deadline(60, "test"))


def reference(data: bytes, rate_hz: int) -> NDArray[np.float32]:
    """The mean of the channels of all that FFmpeg decodes, one packet after the other; damaged ones give nothing."""
    chunks = [np.empty(0, np.float32)]
    with av.open(io.BytesIO(data)) as opened:
        resampler = av.AudioResampler(format="fltp", rate=rate_hz)
        try:
            for packet in opened.demux(audio=0):
                try:
                    frames = packet.decode()
                except (av.error.FFmpegError, ValueError):
                    continue
                for frame in frames:
                    chunks += [piece.to_ndarray().mean(axis=0) for piece in resampler.resample(frame)]
        except av.error.FFmpegError:
            pass
        chunks += [piece.to_ndarray().mean(axis=0) for piece in resampler.resample(None) if piece is not None]
    return np.concatenate(chunks)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", TRACKS)
def test_a_sound_is_what_a_full_sequential_decode_makes_of_it(name: str, channels: int, damage: str) -> None:
    for rate_hz in RATES_HZ.get(name, (22_050, 48_000)):
        muxer, codec = TRACKS[name]
        whole = make_track(muxer, codec, seconds=1.3, rate=rate_hz, tones_hz=(440.0, 700.0)[:channels])
        data = DAMAGES[damage](whole)
        try:
            expected = reference(data, rate_hz)
        except (av.error.FFmpegError, IndexError):
            expected = np.empty(0, np.float32)
        if not len(expected) or not np.isfinite(expected).all():
            with pytest.raises(BadMedia):
                decode(data, rate_hz)
            continue
        samples = decode(data, rate_hz)
        assert samples.shape == expected.shape
        assert np.abs(samples - expected).max() < 1e-4


@pytest.mark.parametrize("damage", ["cut short", "with a hole", "joined", "with bytes behind"])
def test_damaged_vorbis_is_what_ffmpeg_makes_of_it_and_whole_vorbis_what_was_encoded(damage: str) -> None:
    whole = make_sound("ogg", seconds=20.0, rate=22_050)
    assert len(decode(whole, 22_050)) == 20 * 22_050
    data = DAMAGES[damage](whole)
    expected = reference(data, 22_050)
    assert np.array_equal(decode(data, 22_050), expected)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100])
@pytest.mark.parametrize("seconds", [0.0005, 0.003, 0.02, 0.4])
@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_the_shortest_sounds_are_heard_whole_at_every_rate(kind: str, seconds: float, rate_hz: int) -> None:
    for source_hz in (8_000, 44_100):
        samples = decode(make_sound(kind, seconds=seconds, rate=source_hz), rate_hz)
        assert len(samples) / rate_hz == pytest.approx(seconds, abs=2 / min(rate_hz, source_hz))


@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
@pytest.mark.parametrize("mode", ["VARIABLE", "AVERAGE", "CONSTANT"])
def test_an_mp3_has_no_holes(mode: str, rate_hz: int) -> None:
    sink = io.BytesIO()
    with soundfile.SoundFile(sink, "w", rate_hz, 1, format="MP3", compression_level=0.9, bitrate_mode=mode) as file:
        file.write(tones((440.0,), 8.0, rate_hz))
    samples = decode(sink.getvalue(), rate_hz)
    assert 8 * rate_hz <= len(samples) < 8.2 * rate_hz  # only the header of variable rates tells where it ends
    loudness = np.sqrt((samples[: 8 * rate_hz].reshape(-1, rate_hz // 100) ** 2).mean(axis=1))
    assert loudness[10:-20].min() > 0.3


@pytest.mark.parametrize("tag", [ID3, ID3 + bytes(500), ID3 + ID3, bytes(200)], ids=["ID3", "padded", "two", "zeros"])
@pytest.mark.parametrize("kind", ["mp3", "aac", "flac"])
def test_tags_and_padding_before_a_sound_are_no_part_of_it(kind: str, tag: bytes) -> None:
    if kind != "mp3" and not tag.startswith(b"ID3"):
        pytest.skip("only MP3 is padded so")
    sound = make_sound(kind, seconds=1.0)
    alone = sound[sound.index(b"\xff\xfb") :] if kind == "mp3" else sound
    assert np.array_equal(decode(tag + alone, 16_000), decode(alone, 16_000))


@pytest.mark.parametrize("size", [0, 100, 2**32 - 1])
def test_a_wav_whose_size_was_never_written_is_heard_whole(size: int) -> None:
    data = bytearray(make_sound("wav", seconds=1.0, rate=16_000))
    data[40:44] = size.to_bytes(4, "little")
    expected = 50 if size == 100 else 16_000  # a size that is possible is believed, as FFmpeg does
    assert len(decode(bytes(data), 16_000)) == expected


@pytest.mark.parametrize("container", ["avi", "mpegts", "flv", "mp4", "matroska"])
def test_the_sound_of_a_video_can_be_sent_alone(container: str) -> None:
    codec = "libmp3lame" if container == "avi" else "aac"
    samples = decode(make_video(30, container=container, tones_hz=(440.0,), audio_codec=codec), 16_000)
    assert len(samples) / 16_000 == pytest.approx(1.0, abs=0.1)
