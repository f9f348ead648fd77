"""Bytes that are damaged, lie, or mean harm."""

import os
import socket
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest

from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.errors import BadMedia, StageTimeout, TooLarge, UnsupportedCodec, WorkCancelled
from tests.decoder.reading import LABEL, decode_all, read, task
from tests.support.media_files import make_picture, make_sound, make_video, read_numbers

BACKENDS = [DecoderConfig(), DecoderConfig(backend="opencv")]
BY_BACKEND = pytest.mark.parametrize("config", BACKENDS, ids=lambda config: config.backend)
FRAGMENTED = {"seekable": False, "muxer_options": {"movflags": "frag_keyframe+empty_moov"}}


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@BY_BACKEND
@pytest.mark.parametrize("container", [FRAGMENTED, {"container": "matroska"}, {"container": "mpegts"}])
def test_a_truncated_video_yields_the_frames_that_are_there(config, container):
    data = make_video(60, **container)
    result = read(data[: len(data) // 2], task(60), config)
    meta, numbers = result.meta, read_numbers(result.payload["frames_THWC"])
    assert len(meta.indices) == len(meta.timestamps_s) == len(numbers)
    assert 10 < len(numbers) < 60
    assert meta.total_frames == len(meta.indices) + meta.lost_frames
    assert numbers == sorted(numbers)


def test_lost_frames_are_left_out_and_counted():
    data = bytearray(make_video(60, gop=12, b_frames=0, container="matroska"))
    third, fourth = len(data) // 3, len(data) // 2
    data[third:fourth] = bytes(fourth - third)
    result = read(bytes(data), task(60))
    assert 0 < len(result.meta.indices) < 60
    assert result.payload["frames_THWC"].shape[0] == len(result.meta.indices)
    assert result.payload["frames_THWC"].flags.c_contiguous
    assert list(result.meta.indices) == sorted(result.meta.indices)


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_never_do_worse_than_a_client_error(seed):
    random = np.random.default_rng(seed)
    data = bytearray(make_video(30, container=["mp4", "matroska", "avi", "mpegts"][seed % 4], tones_hz=(440.0,)))
    for position in random.integers(0, len(data), 80):
        data[position] = int(random.integers(0, 256))
    result = None
    with suppress(BadMedia, TooLarge):
        result = read(bytes(data), task(8, audio_rate_hz=16_000))
    assert result is None or len(result.payload["frames_THWC"]) == len(result.meta.indices) > 0


@BY_BACKEND
def test_a_video_of_noise_is_refused(config):
    data = bytearray(make_video(30))
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = np.random.default_rng(0).integers(0, 256, end - start, np.uint8).tobytes()
    with pytest.raises(BadMedia, match="no frame of the video could be decoded") as refused:
        read(bytes(data), config=config)
    assert refused.value.param == LABEL


@BY_BACKEND
@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"hello, this is a text " * 40, bytes(5000), make_picture(), make_sound("wav")],
    ids=["empty", "one byte", "text", "zeros", "JPEG", "WAV"],
)
def test_what_is_no_video_is_refused_naming_the_item(config, data):
    with pytest.raises(BadMedia, match="not a video") as refused:
        read(data, config=config)
    assert refused.value.param == LABEL


@pytest.mark.parametrize("data", [make_video()[:60], make_video()[:-900], make_video(container="matroska")[:200]])
def test_a_header_alone_is_refused(data):
    with pytest.raises(BadMedia):
        read(data)


def test_a_container_with_sound_only_is_refused():
    with pytest.raises(BadMedia, match="holds no video"):
        read(make_sound("m4a"))


def test_metadata_in_another_encoding_does_no_harm():
    data = make_video(5, container="matroska")
    assert b"Lavf" in data
    assert read(data.replace(b"Lavf", b"L\xff\xfef")).meta.total_frames == 5


# ── harm ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@BY_BACKEND
def test_scripts_playlists_and_session_descriptions_open_nothing(config, tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(make_video())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    payloads = [
        f"ffconcat version 1.0\nfile {secret}\n",
        f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n",
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        f'<?xml version="1.0"?><MPD><Period><BaseURL>file://{secret}</BaseURL></Period></MPD>',
    ]
    files_before = set(os.listdir("/proc/self/fd"))
    for payload in payloads:
        with pytest.raises(BadMedia, match="not a video"):
            read(payload.encode().ljust(600), config=config)
    assert set(os.listdir("/proc/self/fd")) == files_before


@BY_BACKEND
@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "flv", "avi"])
def test_frames_above_the_pixel_limit_are_refused_with_the_limit(config, container):
    limited = config.model_copy(update={"max_source_pixels": 128 * 96 - 1})
    with pytest.raises(TooLarge, match=r"128 x 96 pixels.*12287") as refused:
        read(make_video(container=container), config=limited)
    assert refused.value.param == LABEL


def test_a_file_that_grows_in_the_middle_stays_within_the_pixel_limit():
    small, large = (make_video(12, container="mpegts", width=w, height=h) for w, h in ((128, 96), (640, 480)))
    result = read(small + large, task(100), DecoderConfig(max_source_pixels=128 * 96))
    assert result.payload["frames_THWC"].shape[1:] == (96, 128, 3)
    assert len(result.meta.indices) <= 12


def test_a_size_that_changes_within_the_limit_is_brought_to_the_first():
    small, large = (make_video(12, container="mpegts", width=w, height=h) for w, h in ((128, 96), (256, 192)))
    result = read(small + large, task(100))
    assert result.payload["frames_THWC"].shape[1:] == (96, 128, 3)


# ── bounds before cost ───────────────────────────────────────────────────────────────────────────────────────────────


def test_work_beyond_the_budget_is_refused_before_it_is_done():
    data = make_video(120, gop=250)
    budget = DecoderConfig(max_decode_megapixels=1)
    with pytest.raises(TooLarge, match="megapixels of decoding, the limit is 1"):
        read(data, task(2), budget)
    assert read(data, task(2, end_s=1.0), budget).meta.lost_frames == 0


@pytest.mark.parametrize("config", [DecoderConfig(max_decode_megapixels=1)])
def test_a_full_scan_counts_as_work(config):
    with pytest.raises(TooLarge, match="megapixels"):
        read(make_video(100, container="avi"), task(1), config)


@BY_BACKEND
def test_output_beyond_the_limit_is_refused_before_it_is_allocated(config):
    limited = config.model_copy(update={"max_output_bytes": 10 * 128 * 96 * 3})
    data = make_video(30)
    assert len(read(data, task(10), limited).meta.indices) == 10
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match=r"11 frames of 128 x 96 pixels are 405504 bytes, the limit is 368640"):
            read(data, task(11), limited)
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()


def test_a_long_video_is_refused_by_its_frames_not_by_its_header():
    with pytest.raises(TooLarge, match="the limit is 2 s"):
        read(make_video(90), config=DecoderConfig(max_duration_s=2))
    data = make_video(30)
    lying = bytearray(data)
    for box, offset in ((b"mvhd", 20), (b"mdhd", 20)):
        position = lying.index(box) + offset
        lying[position : position + 4] = b"\x7f\xff\xff\xff"
    assert read(bytes(lying), config=DecoderConfig(max_duration_s=2)).meta.total_frames == 30


def test_a_codec_without_decoder_is_refused_by_its_name():
    with pytest.raises(UnsupportedCodec, match="av1"):
        read(make_video(codec="libsvtav1"), config=DecoderConfig(backend="opencv"))
    with pytest.raises(UnsupportedCodec, match="video track; its tracks are coded as zzz1, mp4a") as refused:
        read(make_video(tones_hz=(440.0,)).replace(b"avc1", b"zzz1"))
    assert refused.value.param == LABEL
    with pytest.raises(UnsupportedCodec, match="V_MPEG4/ISO/ZZZ"):
        read(make_video(container="matroska").replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/ZZZ"))
    with pytest.raises(UnsupportedCodec, match=r"audio track; its tracks are coded as .*A_ZZZ"):
        heard = make_video(container="matroska", tones_hz=(440.0,))
        read(heard.replace(b"A_AAC", b"A_ZZZ"), task(audio_rate_hz=16_000))


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Countdown(Deadline):
    """Over, or cancelled, from the nth look on."""

    __slots__ = ("cancels", "looks")

    def __init__(self, looks: int, cancels: bool) -> None:
        super().__init__(60, "decode")
        self.looks, self.cancels = looks, cancels

    def check(self) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise WorkCancelled("cancelled") if self.cancels else StageTimeout("decode")
        super().check()

    def overdue_s(self, now: float) -> float:
        self.looks -= 1
        return 1.0 if self.looks < 0 else -1.0


@BY_BACKEND
@pytest.mark.parametrize("cancels", [True, False])
@pytest.mark.parametrize("looks", [0, 1, 10, 60, 90])
def test_a_decode_that_must_stop_stops_at_its_next_look(config, cancels, looks):
    deadline = _Countdown(looks, cancels)
    with pytest.raises(WorkCancelled if cancels else StageTimeout):
        read(make_video(60), task(60), config, deadline)
    assert deadline.looks >= -9  # while it unwinds


def test_reading_twice_gives_the_same_and_leaves_nothing_behind():
    data = make_video(30, tones_hz=(440.0,))
    first, second = (read(data, task(5, audio_rate_hz=8000)) for _ in range(2))
    assert np.array_equal(first.payload["frames_THWC"], second.payload["frames_THWC"])
    assert np.array_equal(first.payload["audio"], second.payload["audio"])
    assert len(decode_all(data)) == first.meta.total_frames
