"""Codec x container x group of pictures x sampling: always the frames of a full sequential decode."""

import functools
import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.config import DecoderConfig
from deployments.errors import BadMedia
from tests.decoder.reading import LABEL, decode_all, read, task
from tests.support.media_files import make_video, numbered_frame, read_numbers

CASES = Path(__file__).parents[3] / "shared" / "cases"
CONTAINERS = {
    "libx264": ("mp4", "matroska", "mpegts", "flv", "avi"),
    "libx265": ("mp4", "matroska", "mpegts"),
    "libsvtav1": ("mp4", "webm"),
    "libvpx-vp9": ("webm", "mp4"),
    "libvpx": ("webm",),
    "mpeg4": ("mp4", "avi"),
    "mpeg2video": ("mpegts", "matroska"),
}
INTERLACED = {
    "H.264": {"codec": "libx264", "options": {"x264-params": "interlaced=1:bframes=2:keyint=12:threads=1"}},
    "MPEG-2": {"codec": "mpeg2video", "options": {"flags": "+ildct+ilme", "b": "4M"}},
}
SAMPLINGS = {
    "few": task(4),
    "all": task(99),
    "one": task(1),
    "by rate": task(fps=5),
    "a span": task(4, start_s=0.3, end_s=0.7),
    "late": task(3, start_s=0.9),
    "early, by rate": task(fps=8, end_s=0.5),
}


@functools.cache
def file_and_frames(codec: str, container: str, gop: int) -> tuple[bytes, list[NDArray[np.uint8]]]:
    data = make_video(36, codec=codec, container=container, gop=gop, open_gop=gop == 9, width=96, height=64)
    return data, decode_all(data)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("gop", [1, 9, 300])
@pytest.mark.parametrize("codec", CONTAINERS)
def test_planned_frames_are_those_of_a_full_decode(codec: str, gop: int, sampling: str) -> None:
    for container in CONTAINERS[codec]:
        b_frames_need_more = codec in ("mpeg2video", "mpeg4") and gop == 1
        data, every = file_and_frames(codec, container, 2 if b_frames_need_more else gop)
        assert_taken_from(every, data, sampling)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize("name", INTERLACED)
def test_interlaced_frames_are_those_of_a_full_decode(name: str, container: str, sampling: str) -> None:
    data = make_video(36, container=container, **INTERLACED[name])
    assert_taken_from(decode_all(data), data, sampling)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_transport_stream_that_starts_between_keyframes_starts_at_the_first(sampling: str) -> None:
    whole = make_video(72, container="mpegts", gop=18, width=256, height=192)
    data = whole[188 * (len(whole) // 188 // 10) :]
    every = decode_all(data)
    assert 36 < len(every) < 72
    assert_taken_from(every, data, sampling)


def test_the_sound_of_such_a_stream_starts_there_too() -> None:
    whole = make_video(90, container="mpegts", gop=45, b_frames=0, tones_hz=(440.0,))
    data = whole[188 * (len(whole) // 188 // 8) :]
    result = read(data, task(99, audio_rate_hz=16_000))
    assert len(result.payload["audio"]) / 16_000 == pytest.approx(result.meta.duration_s, abs=0.1)


def assert_taken_from(every: list[NDArray[np.uint8]], data: bytes, sampling: str) -> None:
    result = read(data, SAMPLINGS[sampling])
    meta = result.meta
    assert meta.total_frames == len(every)
    assert meta.lost_frames == 0
    assert len(meta.indices) == len(result.payload["frames_THWC"]) > 0
    for frame, index in zip(result.payload["frames_THWC"], meta.indices, strict=True):
        assert np.array_equal(frame, every[index])
    span = SAMPLINGS[sampling].sampling
    for time_s in meta.timestamps_s:
        assert (span.start_s or 0.0) - 0.04 <= time_s <= (span.end_s or 9.0) + 0.001


@pytest.mark.parametrize("rate", [24, 25, 30, 30_000 / 1001, 60])
@pytest.mark.parametrize("seconds", [1, 2, 3])
def test_a_clip_gives_as_many_frames_whatever_its_container_s_clock(rate: float, seconds: int) -> None:
    counts = set()
    for container in ("mp4", "matroska", "flv", "mpegts"):
        data = make_video(round(rate * seconds), fps=rate, container=container, width=64, height=48, b_frames=0)
        counts.add(len(read(data, task(fps=2)).meta.indices))
    assert counts == {2 * seconds}


# ── what players show ────────────────────────────────────────────────────────────────────────────────────────────────

MATRICES = {
    "as it is": ((1, 0, 0, 1), lambda frame: frame),
    "mirrored": ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
    "upside down, mirrored": ((1, 0, 0, -1), lambda frame: frame[::-1]),
    "upside down": ((-1, 0, 0, -1), lambda frame: frame[::-1, ::-1]),
    "turned clockwise": ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
    "turned counterclockwise": ((0, -1, 1, 0), lambda frame: np.rot90(frame, 1)),
    "along one diagonal": ((0, 1, 1, 0), lambda frame: frame.swapaxes(0, 1)),
    "along the other": ((0, -1, -1, 0), lambda frame: frame[::-1, ::-1].swapaxes(0, 1)),
}


@pytest.mark.parametrize("backend", ["pyav", "opencv"])
@pytest.mark.parametrize("name", MATRICES)
def test_frames_are_turned_and_mirrored_as_the_matrix_says(name: str, backend: str) -> None:
    (a, b, c, d), seen = MATRICES[name]
    plain = make_video(6)
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = plain.index(identity, plain.index(b"tkhd"))
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    data = plain[:at] + matrix + plain[at + len(matrix) :]
    result = read(data, task(6), DecoderConfig(backend=backend))
    expected = read(plain, task(6), DecoderConfig(backend=backend)).payload["frames_THWC"]
    for frame, upright in zip(result.payload["frames_THWC"], expected, strict=True):
        assert np.array_equal(frame, seen(upright))


@pytest.mark.parametrize(("height", "matrix"), [(720, "ITU709"), (360, "ITU601")])
def test_colours_that_no_tag_explains_are_those_that_browsers_show(height: int, matrix: str) -> None:
    """Encoded with the matrix that browsers take for this size, the colours come back."""
    colours = np.broadcast_to(
        numbered_frame(5, 3, 4).repeat(height // 3, 0).repeat(height // 3, 1), (height, height // 3 * 4, 3)
    )
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(colours), format="rgb24")
    yuv = frame.reformat(format="yuv420p", dst_colorspace=getattr(av.video.reformatter.Colorspace, matrix))
    planes = [np.frombuffer(plane, np.uint8) for plane in yuv.planes]
    data = encoded_untagged(planes, yuv.width, yuv.height)
    (shown,) = read(data, task(1)).payload["frames_THWC"]
    assert np.abs(shown.astype(int) - colours).mean() < 4


def encoded_untagged(planes: list[NDArray[np.uint8]], width: int, height: int) -> bytes:
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "10", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane, content in zip(frame.planes, planes, strict=True):
            plane.update(content.tobytes())
        output.mux([*stream.encode(frame), *stream.encode()])
    return sink.getvalue()


def test_an_encrypted_video_made_here_is_called_that() -> None:
    keys = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "11" * 16}
    with pytest.raises(BadMedia, match="the video is encrypted") as refused:
        read(make_video(10, muxer_options=keys))
    assert refused.value.param == LABEL


# ── real files ───────────────────────────────────────────────────────────────────────────────────────────────────────


def case(name: str) -> bytes:
    if not (CASES / name).exists():
        pytest.skip("the files are not here")
    return (CASES / name).read_bytes()


@pytest.mark.parametrize("frames", [1, 8, 100])
def test_field_coded_video_of_a_camera_is_told_in_frames(frames: int) -> None:
    data = case("video-paff-sony-a7m3.mts")
    every = decode_all(data)
    result = read(data, task(frames))
    assert (result.meta.total_frames, result.meta.lost_frames) == (len(every), 0) == (13, 0)
    assert result.meta.source_fps == pytest.approx(25)
    for frame, index in zip(result.payload["frames_THWC"], result.meta.indices, strict=True):
        assert np.abs(frame.astype(int) - every[index]).mean() < 3  # untagged HD has the colours of browsers


def test_an_encrypted_video_is_called_that() -> None:
    with pytest.raises(BadMedia, match="the video is encrypted"):
        read(case("video-encrypted-cbcs.mp4"))


def test_a_broadcast_cut_anywhere_begins_with_its_first_keyframe() -> None:
    meta = read(case("video-no-initial-keyframe.ts"), task(100)).meta
    assert (meta.total_frames, meta.lost_frames, meta.timestamps_s[0]) == (15, 0, 0.0)


def test_numbers_are_read_right_in_a_mirror() -> None:
    frames = read(make_video(4)).payload["frames_THWC"]
    assert read_numbers(frames) != read_numbers(frames[:, :, ::-1])
