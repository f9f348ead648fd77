"""What comes beside the plain frames: their size as the model wants it, and the audio track."""

import numpy as np
import pytest
from PIL import Image

from deployments.config import DecoderConfig
from deployments.errors import TooLarge
from deployments.media.geometry import target_size
from deployments.types import ResizeRule
from tests.decoder.reading import read, task
from tests.support.media_files import loudest_hz, make_video, numbered_frame, read_numbers

BACKENDS = pytest.mark.parametrize("backend", ["pyav", "opencv"])
CLIP = ResizeRule("clip", factor=32, temporal_factor=2, min_pixels=32 * 32, max_pixels=8 * 192 * 320)
EXACT = ResizeRule("exact", height=64, width=96)


@BACKENDS
def test_frames_come_at_the_size_that_the_processor_would_make(backend):
    data = make_video(30, width=640, height=360)
    result = read(data, task(8, resize=CLIP), DecoderConfig(backend=backend))
    frames = result.payload["frames_THWC"]
    assert frames.shape[1:3] == target_size(CLIP, 8, 360, 640) != (360, 640)
    assert (result.meta.source_height, result.meta.source_width) == (360, 640)
    assert read_numbers(frames) == list(result.meta.indices)
    assert target_size(CLIP, 8, *frames.shape[1:3]) == frames.shape[1:3]  # a second resize has nothing to do


def test_resized_frames_are_close_to_an_exact_resize_and_as_bright():
    data = make_video(10, width=640, height=480)
    frames = read(data, task(3, resize=ResizeRule("exact", height=200, width=300))).payload["frames_THWC"]
    for frame, index in zip(frames, (0, 4, 9), strict=True):
        full = Image.fromarray(numbered_frame(index, 480, 640))
        exact = np.asarray(full.resize((300, 200), Image.Resampling.BOX), np.float32)
        assert np.abs(frame - exact).mean() < 3  # coding loss included
        assert abs(float(frame.mean()) - float(exact.mean())) < 0.7


def test_rotation_comes_before_the_size():
    data = make_video(10, width=192, height=96, rotation=90)
    result = read(data, task(2, resize=ResizeRule("exact", height=120, width=64)))
    assert result.payload["frames_THWC"].shape == (2, 120, 64, 3)
    assert (result.meta.source_height, result.meta.source_width) == (192, 96)


@pytest.mark.parametrize(
    "rule", [ResizeRule("exact", height=500, width=500), ResizeRule("exact", height=90, width=500)]
)
def test_frames_are_never_enlarged(rule):
    assert read(make_video(), task(resize=rule)).payload["frames_THWC"].shape[1:3] == (96, 128)


def test_the_operator_can_switch_resizing_off():
    result = read(make_video(), task(resize=EXACT), DecoderConfig(resize=False))
    assert result.payload["frames_THWC"].shape[1:3] == (96, 128)


def test_the_output_limit_counts_what_is_delivered():
    limit = DecoderConfig(max_output_bytes=8 * 64 * 96 * 3)
    assert len(read(make_video(), task(8, resize=EXACT), limit).meta.indices) == 8


# ── the audio track ──────────────────────────────────────────────────────────────────────────────────────────────────


@BACKENDS
@pytest.mark.parametrize(
    "file",
    [
        {},
        {"container": "matroska"},
        {"container": "mpegts"},
        {"codec": "libvpx-vp9", "container": "webm", "audio_codec": "libopus", "audio_rate": 48_000},
        {"container": "avi", "audio_codec": "libmp3lame"},
    ],
    ids=["AAC in MP4", "AAC in Matroska", "AAC in a transport stream", "Opus in WebM", "MP3 in AVI"],
)
def test_the_track_comes_mono_at_the_rate_asked_for(backend, file):
    data = make_video(60, tones_hz=(440.0, 440.0), **file)
    result = read(data, task(2, audio_rate_hz=16_000), DecoderConfig(backend=backend))
    audio = result.payload["audio"]
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    assert len(audio) / 16_000 == pytest.approx(2.0, abs=0.08)
    assert loudest_hz(audio, 16_000) == pytest.approx(440, abs=3)
    assert np.abs(audio[4000:-4000]).max() == pytest.approx(0.5, abs=0.05)  # the mean of equal channels is either


def test_the_channels_are_averaged():
    audio = read(make_video(60, tones_hz=(440.0, 1000.0)), task(2, audio_rate_hz=16_000)).payload["audio"]
    spectrum = np.abs(np.fft.rfft(audio[8000:24000])) / 8000
    assert spectrum[440] == pytest.approx(0.25, abs=0.03)
    assert spectrum[1000] == pytest.approx(0.25, abs=0.03)


def test_a_track_that_is_not_wanted_is_not_delivered():
    assert set(read(make_video(tones_hz=(440.0,))).payload) == {"frames_THWC"}


def test_a_video_without_a_track_delivers_an_empty_one():
    audio = read(make_video(), task(audio_rate_hz=16_000)).payload["audio"]
    assert audio.shape == (0,)
    assert audio.dtype == np.float32


def test_a_track_that_is_too_long_is_refused_with_the_limit():
    data = make_video(30, tones_hz=(440.0,), audio_s=5.0)
    with pytest.raises(TooLarge, match="longer than 3 s, the limit"):
        read(data, task(audio_rate_hz=16_000), DecoderConfig(max_audio_s=3))


def test_sound_and_frames_of_a_span_begin_at_the_same_moment():
    data = make_video(90, tones_hz=(440.0,))
    audio = read(data, task(3, start_s=1.0, end_s=2.0, audio_rate_hz=16_000)).payload["audio"]
    assert len(audio) / 16_000 == pytest.approx(1.0, abs=0.05)


def test_a_track_behind_an_edit_list_starts_with_the_first_frame_shown():
    data = make_video(60, hidden=15, tones_hz=(440.0,))
    audio = read(data, task(2, audio_rate_hz=16_000)).payload["audio"]
    assert loudest_hz(audio, 16_000) == pytest.approx(440, abs=3)
