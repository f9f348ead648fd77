import io
import struct
import tracemalloc

import av
import numpy as np
import pytest
import soundfile

from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, StageTimeout, TooLarge
from deployments.media.mono import MonoTrack
from deployments.media.sound import decode_sound
from tests.support.media_files import loudest_hz, make_picture, make_sound, make_video

LABEL = "messages[0].content[0]"
CONTAINER_OF = {
    "wav": "wav",
    "flac": "flac",
    "ogg": "ogg",
    "mp3": "mp3",
    "aac": "aac",
    "m4a": "mp4",
    "opus": "ogg",
    "webm": "matroska",
}


def decode(data: bytes, container: str, rate_hz: int = 16_000, max_s: float = 60.0, time_s: float = 30.0) -> np.ndarray:
    return decode_sound(np.frombuffer(data, np.uint8), container, rate_hz, max_s, LABEL, Deadline(time_s, "preprocess"))


def energy_at(samples: np.ndarray, rate_hz: int, hz: int) -> float:
    """Amplitude of the sine of `hz` in one second from the middle of `samples`."""
    start = (len(samples) - rate_hz) // 2
    return float(np.abs(np.fft.rfft(samples[start : start + rate_hz]))[hz] * 2 / rate_hz)


@pytest.mark.parametrize("kind", CONTAINER_OF)
@pytest.mark.parametrize("rate_hz", [16_000, 24_000, 48_000])
def test_every_kind_of_sound_comes_mono_at_the_rate_asked_for(kind, rate_hz):
    samples = decode(make_sound(kind, seconds=2, rate=48_000, tones_hz=(440.0, 440.0)), CONTAINER_OF[kind], rate_hz)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert len(samples) / rate_hz == pytest.approx(2.0, abs=0.05)
    assert loudest_hz(samples, rate_hz) == pytest.approx(440, abs=2)
    assert energy_at(samples, rate_hz, 440) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "m4a", "opus"])
def test_channels_are_averaged_not_mixed_louder(kind):
    samples = decode(make_sound(kind, seconds=2, rate=48_000, tones_hz=(440.0, 1000.0)), CONTAINER_OF[kind])
    assert energy_at(samples, 16_000, 440) == pytest.approx(0.25, abs=0.02)
    assert energy_at(samples, 16_000, 1000) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("channels", [1, 2, 8, 9, 16])
@pytest.mark.parametrize("form", ["u8", "s16", "fltp", "s32p"])
def test_a_sound_shorter_than_the_resamplers_filter_is_heard_whatever_its_channels(form, channels):
    """More than eight of one plane each lie where PyAV does not look for them, and it looks where nothing lies."""
    source = av.AudioFrame("flt", f"{channels} channels", samples=480)
    source.sample_rate = 48_000
    source.planes[0].update(np.full(480 * channels, 0.25, np.float32).tobytes())
    track = MonoTrack(16_000, 60.0, LABEL)
    for frame in av.AudioResampler(format=form, layout=None, rate=48_000).resample(source):
        track.add(frame)
    samples = track.finish()
    assert len(samples) == 160
    assert samples[40:120] == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("kind", ["wav", "m4a"])
def test_what_the_new_rate_can_t_carry_is_filtered_out(kind):
    samples = decode(make_sound(kind, seconds=2, rate=48_000, tones_hz=(15_000.0,)), CONTAINER_OF[kind], 16_000)
    assert np.abs(samples[2000:-2000]).max() < 0.02  # without the filter it would be heard at 1000 Hz


def test_integer_and_float_samples_share_their_scale():
    tone = (0.5 * np.sin(np.arange(16_000) / 5)).astype(np.float32)
    decoded = []
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"):
        file = io.BytesIO()
        soundfile.write(file, tone, 16_000, subtype=subtype, format="WAV")
        decoded.append(decode(file.getvalue(), "wav"))
    for samples in decoded:
        assert np.abs(samples - tone).max() < 0.01


@pytest.mark.parametrize("kind", CONTAINER_OF)
def test_too_long_is_refused_with_the_limit_not_cut(kind):
    with pytest.raises(TooLarge, match=r"longer than 1\.5 s, the limit") as refused:
        decode(make_sound(kind, seconds=2, rate=48_000), CONTAINER_OF[kind], max_s=1.5)
    assert refused.value.param == LABEL
    assert len(decode(make_sound(kind, seconds=1.2, rate=48_000), CONTAINER_OF[kind], max_s=1.5))


def flac_of_unknown_length(seconds: float) -> bytes:
    data = bytearray(make_sound("flac", seconds=seconds, rate=48_000))
    data[21] &= 0xF0  # 36 bits that count the samples
    data[22:26] = bytes(4)
    return bytes(data)


def test_a_stream_that_doesn_t_tell_its_length_is_decoded_and_bounded():
    assert len(decode(flac_of_unknown_length(2), "flac")) == 32_000
    with pytest.raises(TooLarge):
        decode(flac_of_unknown_length(2), "flac", max_s=1)


def test_a_length_that_is_not_true_is_not_believed():
    streamed = bytearray(make_sound("wav", seconds=1, rate=16_000))
    streamed[4:8] = streamed[40:44] = b"\xff\xff\xff\xff"  # as programs write into a pipe
    assert len(decode(bytes(streamed), "wav")) == 16_000


def test_a_small_file_that_unpacks_to_hours_takes_no_memory():
    file = io.BytesIO()
    soundfile.write(file, np.zeros(40 * 60 * 8000, np.int16), 8000, format="FLAC")
    assert len(file.getvalue()) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            decode(file.getvalue(), "flac", max_s=60)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", CONTAINER_OF)
@pytest.mark.parametrize("damage", ["empty", "noise", "header"])
def test_what_is_no_sound_is_a_client_error(kind, damage):
    real = make_sound(kind, seconds=1, rate=48_000)
    noise = np.random.default_rng(0).integers(0, 256, 3000, np.uint8).tobytes()
    data = {"empty": b"", "noise": noise, "header": real[:40]}[damage]
    with pytest.raises(BadMedia) as refused:
        decode(data, CONTAINER_OF[kind])
    assert refused.value.param == LABEL
    assert "0x" not in refused.value.message


@pytest.mark.parametrize("kind", ["wav", "ogg", "aac", "opus", "webm"])
def test_a_truncated_sound_yields_its_beginning_or_a_client_error(kind):
    data = make_sound(kind, seconds=2, rate=48_000)
    try:
        samples = decode(data[: len(data) // 2], CONTAINER_OF[kind])
    except BadMedia:
        return
    assert 0 < len(samples) < 32_000


def test_numbers_that_are_not_finite_are_refused():
    file = io.BytesIO()
    soundfile.write(file, np.array([0.1, np.nan, 0.2] * 1000), 16_000, subtype="FLOAT", format="WAV")
    with pytest.raises(BadMedia, match="finite"):
        decode(file.getvalue(), "wav")


@pytest.mark.parametrize(("offset", "value"), [(22, struct.pack("<H", 500)), (24, struct.pack("<I", 2**31))])
def test_absurd_channels_and_rates_are_refused(offset, value):
    data = bytearray(make_sound("wav", rate=16_000))
    data[offset : offset + len(value)] = value
    with pytest.raises(BadMedia):
        decode(bytes(data), "wav")


def test_the_sound_of_a_video_can_be_taken_alone():
    samples = decode(make_video(30, tones_hz=(440.0,)), "mp4")
    assert loudest_hz(samples, 16_000) == pytest.approx(440, abs=3)


def test_a_video_without_sound_and_a_picture_are_refused():
    with pytest.raises(BadMedia, match="holds no sound"):
        decode(make_video(), "mp4")
    with pytest.raises(BadMedia, match="no sound can be read from jpeg"):
        decode(make_picture(), "jpeg")


@pytest.mark.parametrize("kind", ["wav", "m4a"])
def test_time_that_is_over_ends_the_work(kind):
    with pytest.raises(StageTimeout):
        decode(make_sound(kind), CONTAINER_OF[kind], time_s=0)
