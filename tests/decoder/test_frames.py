"""The frames delivered are those of a full sequential decode, whatever the file; and what is said of them is true."""

import numpy as np
import pytest

from deployments.config import DecoderConfig
from tests.decoder.reading import decode_all, read, task
from tests.support.media_files import make_video, read_number, read_numbers

UNEVEN_S = [0, 0.01, 0.05, 0.2, 0.3, 0.31, 0.5, 1, 1.1, 1.3, 2, 2.05, 2.1, 3.5, 3.6, 4]
X264_INTERLACED = {"x264-params": "interlaced=1:keyint=12:threads=1"}
ALT_REF = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "4"}

FILES = {
    "H.264 MP4": {},
    "H.264 open GOP": {"open_gop": True, "b_frames": 3},
    "H.264 QuickTime": {"container": "mov"},
    "H.264 fragmented": {"seekable": False, "muxer_options": {"movflags": "frag_keyframe+empty_moov"}},
    "H.264 Matroska piped, no duration": {"container": "matroska", "seekable": False},
    "H.264 transport stream": {"container": "mpegts"},
    "H.264 Flash": {"container": "flv"},
    "H.264 AVI with B-frames, no times": {"container": "avi"},
    "H.264 interlaced": {"options": X264_INTERLACED},
    "H.264 gradual refresh": {"gop": 15, "b_frames": 0, "options": {"intra-refresh": "1"}},
    "H.264 every frame a keyframe": {"gop": 1, "b_frames": 0},
    "H.264 one keyframe": {"gop": 600},
    "H.264 edit list": {"hidden": 7},
    "H.264 turned": {"rotation": 90},
    "H.264 upside down": {"rotation": 180},
    "H.264 variable rate": {"times_s": UNEVEN_S, "gop": 5},
    "HEVC open GOP": {"codec": "libx265", "open_gop": True, "b_frames": 3},
    "HEVC 10 bit Matroska": {"codec": "libx265", "pix_fmt": "yuv420p10le", "container": "matroska"},
    "VP8 alt-ref": {"codec": "libvpx", "container": "webm", "options": ALT_REF},
    "VP9 alt-ref live": {"codec": "libvpx-vp9", "container": "webm", "seekable": False, "options": ALT_REF},
    "AV1": {"codec": "libsvtav1"},
    "AV1 WebM": {"codec": "libsvtav1", "container": "webm"},
    "MPEG-4 AVI": {"codec": "mpeg4", "container": "avi"},
    "MPEG-4 MP4": {"codec": "mpeg4"},
    "MPEG-2 transport stream": {"codec": "mpeg2video", "container": "mpegts"},
    "one frame": {"frames": 1},
}
OPENCV_CANNOT = {"AV1", "AV1 WebM", "H.264 interlaced", "HEVC 10 bit Matroska"}
"""Refused with a server error, or (10 bit) converted with another rounding."""


def video(name: str) -> bytes:
    return make_video(**{"frames": 50, **FILES[name]})


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "what", [task(7), task(50), task(3, start_s=0.4), task(fps=4)], ids=["7", "all", "late", "fps"]
)
def test_planned_frames_equal_a_full_sequential_decode(name, what):
    if name == "one frame" and what.sampling.start_s:
        pytest.skip("nothing is shown then")
    data = video(name)
    every = decode_all(data)
    result = read(data, what)
    assert result.meta.total_frames == len(every)
    assert result.meta.lost_frames == 0
    assert len(result.meta.indices) == len(result.payload["frames_THWC"])
    for frame, index in zip(result.payload["frames_THWC"], result.meta.indices, strict=True):
        assert np.array_equal(frame, every[index])


@pytest.mark.parametrize("name", sorted(set(FILES) - OPENCV_CANNOT))
def test_opencv_delivers_the_same_frames(name):
    data = video(name)
    every = decode_all(data)
    result = read(data, task(7), DecoderConfig(backend="opencv"))
    assert result.meta.backend == "opencv"
    assert result.meta.total_frames == len(every)
    for frame, index in zip(result.payload["frames_THWC"], result.meta.indices, strict=True):
        assert np.array_equal(frame, every[index])


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads):
    data = video("H.264 open GOP")
    result = read(data, task(9), DecoderConfig(threads=threads))
    assert read_numbers(result.payload["frames_THWC"]) == list(result.meta.indices)


def test_frames_are_contiguous_uint8_rgb_in_one_array():
    frames = read(video("H.264 MP4")).payload["frames_THWC"]
    assert frames.dtype == np.uint8
    assert frames.flags.c_contiguous
    assert frames.shape == (8, 96, 128, 3)
    assert read_number(frames[3]) != read_number(frames[3][..., ::-1])  # not blue, green, red


def test_fewer_packets_are_decoded_than_a_scan_would():
    result = read(make_video(120, gop=10, b_frames=2), task(2, start_s=2.0, end_s=3.9))
    assert result.frames_decoded < 25


def test_indices_are_true_with_variable_rate_and_so_are_the_times():
    result = read(video("H.264 variable rate"), task(5))
    assert read_numbers(result.payload["frames_THWC"]) == list(result.meta.indices)
    assert result.meta.timestamps_s == pytest.approx([UNEVEN_S[i] for i in result.meta.indices])
    assert result.meta.source_fps == pytest.approx(15 / 4.0)


def test_frames_before_an_edit_list_are_not_counted():
    result = read(video("H.264 edit list"), task(50))
    assert result.meta.total_frames == 43
    assert read_numbers(result.payload["frames_THWC"]) == list(range(7, 50))
    assert result.meta.timestamps_s[0] == 0.0


def test_rotation_is_applied_and_told():
    meta = (result := read(video("H.264 turned"))).meta
    assert (meta.rotation_deg, meta.source_height, meta.source_width) == (270, 128, 96)
    frames = result.payload["frames_THWC"]
    assert read_numbers(np.rot90(frames, 1, axes=(1, 2))) == list(meta.indices)


def test_a_lone_frame_has_a_rate_and_a_duration():
    meta = read(video("one frame")).meta
    assert (meta.total_frames, meta.indices, meta.source_fps, meta.duration_s) == (1, (0,), 1.0, 1.0)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_the_rate_and_duration_are_counted_not_believed(container):
    meta = read(make_video(60, fps=24, container=container, seekable=container != "matroska")).meta
    assert meta.source_fps == pytest.approx(24, rel=0.01)
    assert meta.duration_s == pytest.approx(2.5, rel=0.01)


def test_the_operator_s_ceiling_holds_whatever_is_asked_for():
    assert len(read(video("H.264 MP4"), task(50), DecoderConfig(max_frames=6)).meta.indices) == 6
    assert len(read(video("H.264 MP4"), task(fps=30), DecoderConfig(max_frames=6)).meta.indices) == 6
