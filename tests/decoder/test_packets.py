"""Packets that are read from the file again give the same frames as those that are held."""

from functools import partial

import numpy as np
import pytest

from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.decoder.codec import decode_run
from deployments.decoder.demux import demux
from deployments.decoder.limits import Limits
from deployments.decoder.plan import Run
from deployments.errors import BadMedia, WorkCancelled
from deployments.media.container import open_container
from deployments.media.sniff import sniff
from tests.decoder.reading import LABEL, task
from tests.support.media_files import make_video, read_numbers

LIMITS = Limits(DecoderConfig(), LABEL)
PIXELS = DecoderConfig().max_source_pixels


def numbers_of(data: bytes, runs: list[Run], held_bytes: int, deadline: Deadline) -> list[int]:
    """What the frames of `runs` show."""
    file = np.frombuffer(data, np.uint8)
    reopen = partial(open_container, file, sniff(data[:4096]).container, LABEL, PIXELS, deadline)
    with reopen() as opened:
        video = demux(opened, reopen, file, task(), 1, LIMITS, deadline, held_bytes)
        frames = [frame for run in runs for frame in decode_run(video, run, None, deadline)]
        video.packets.close()
    return read_numbers(np.stack([frame.to_ndarray(format="rgb24") for frame in frames]))


FILES = {
    "mp4": {"container": "mp4"},
    "matroska": {"container": "matroska"},
    "webm": {"container": "webm", "codec": "libvpx-vp9"},
    "mpegts": {"container": "mpegts"},
    "flv": {"container": "flv", "b_frames": 0},
    "avi": {"container": "avi", "codec": "mpeg4", "b_frames": 0},
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("held_bytes", [0, 12_000])
def test_packets_that_are_not_held_give_the_same_frames(name: str, held_bytes: int) -> None:
    data = make_video(40, gop=10, **FILES[name])
    runs = [Run(10, 15), Run(20, 30), Run(0, 40)]  # ahead, and back to the beginning
    held = numbers_of(data, runs, 2**30, Deadline(60, "decode"))
    assert len(held) > 40
    assert numbers_of(data, runs, held_bytes, Deadline(60, "decode")) == held


def test_reading_again_stops_when_nobody_wants_it() -> None:
    data = np.frombuffer(make_video(40), np.uint8)
    deadline = Deadline(60, "decode")
    reopen = partial(open_container, data, "mp4", LABEL, PIXELS, deadline)
    with reopen() as opened:
        video = demux(opened, reopen, data, task(), 1, LIMITS, deadline, 0)
        video.packets[3]
        deadline.cancel()
        with pytest.raises(WorkCancelled):
            video.packets[30]


def test_a_file_that_is_another_one_when_it_is_read_again_is_refused() -> None:
    long, short = (np.frombuffer(make_video(count), np.uint8) for count in (40, 10))
    deadline = Deadline(60, "decode")
    reopen = partial(open_container, short, "mp4", LABEL, PIXELS, deadline)
    with open_container(long, "mp4", LABEL, PIXELS, deadline) as opened:
        video = demux(opened, reopen, long, task(), 1, LIMITS, deadline, 0)
        assert len(video.packets) == 40
        with pytest.raises(BadMedia, match="twice"):
            video.packets[30]
