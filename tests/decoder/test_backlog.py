"""The work in a decoder's hands, by declared pixels, and that a real decode declares them."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.decoder.backlog import RECENT, Backlog, VideoWork
from deployments.decoder.reader import VideoReader
from deployments.decoder.stage import DecodeStage
from deployments.observability.metrics import RecordingSink
from tests.decoder.reading import task
from tests.support.media_files import make_picture, make_video

megapixels = st.floats(0.1, 1e5)


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def decoded(backlog, clock, cost, seconds, share_left=0.0):
    """A video has been read, wholly or in part."""
    with backlog.video() as work:
        work.began, work.megapixels, work.share_left = clock.now, cost, lambda: share_left
        clock.now += seconds


def replica(target_s=1.0, workers=1, megapixels_per_s=100.0):
    """A backlog whose pace is known, and its clock."""
    clock = Clock()
    backlog = Backlog(target_s, workers, clock)
    decoded(backlog, clock, megapixels_per_s, 1.0)
    return backlog, clock


def test_nothing_is_said_before_the_first_video_is_done():
    clock = Clock()
    backlog = Backlog(1.0, 1, clock)
    with backlog.video() as work:
        work.began, work.megapixels = clock.now, 50.0
        assert backlog.load() is None  # nobody knows how long it takes
    assert backlog.load() is None  # it failed before its first frame
    decoded(backlog, clock, 50.0, 0.5)
    assert backlog.load().of_next == pytest.approx(0.5)


@given(st.lists(megapixels, min_size=1, max_size=20), st.floats(0.01, 10), st.integers(1, 4))
def test_a_video_counts_one_thread_at_most(costs, target_s, workers):
    backlog, _ = replica(target_s, workers)
    works = [backlog.video() for _ in costs]
    for work, cost in zip(works, costs, strict=True):
        work.__enter__().megapixels = cost
    load = backlog.load()
    assert load.in_hand == pytest.approx(sum(min(1, cost / 100 / target_s) for cost in costs) / workers)
    assert load.of_next <= 1 / workers
    assert backlog.megapixels == pytest.approx(sum(costs))
    for work in works:
        work.__exit__(None, None, None)
    assert backlog.load().in_hand == 0
    assert backlog.megapixels == 0


@given(st.lists(st.tuples(megapixels, st.floats(0.01, 100)), min_size=1, max_size=20))
def test_the_pace_lies_between_the_slowest_and_the_fastest(videos):
    clock = Clock()
    backlog = Backlog(1e9, 1, clock)
    for cost, seconds in videos:
        decoded(backlog, clock, cost, seconds)
    with backlog.video() as work:
        work.megapixels = 1.0
        paces = [seconds / cost for cost, seconds in videos]
        assert min(paces) * 0.999 <= backlog.load().in_hand * 1e9 <= max(paces) * 1.001


def test_a_slower_machine_has_more_before_it():
    loads = []
    for pace in (400.0, 100.0):
        backlog, _ = replica(megapixels_per_s=pace)
        with backlog.video() as work:
            work.megapixels = 80.0
            loads.append(backlog.load().in_hand)
    assert loads == pytest.approx([0.2, 0.8])


def test_work_shrinks_as_frames_come_out():
    backlog, _ = replica()
    with backlog.video() as work:
        work.megapixels, left = 80.0, [1.0]
        work.share_left = lambda: left[0]
        assert backlog.load().in_hand == pytest.approx(0.8)
        left[0] = 0.25
        assert backlog.load().in_hand == pytest.approx(0.2)


def test_what_is_not_known_yet_is_taken_for_what_came_lately():
    backlog, clock = replica()
    for cost in [100.0] * RECENT + [10.0] * RECENT:
        decoded(backlog, clock, cost, cost / 100)
    with backlog.video(), backlog.video():
        assert backlog.load().in_hand == pytest.approx(0.2)


def test_a_video_that_fails_is_no_longer_in_hand_and_counts_for_what_was_decoded():
    backlog, clock = replica()
    with pytest.raises(ValueError, match="damaged"), backlog.video() as work:
        work.began, work.megapixels, work.share_left = clock.now, 50.0, lambda: 0.5
        clock.now += 0.25
        raise ValueError("damaged")
    assert backlog.load().in_hand == 0
    with backlog.video() as work:
        work.megapixels = 100.0
        assert backlog.load().in_hand == pytest.approx(1.0)


@pytest.mark.parametrize("backend", ["pyav", "opencv"])
def test_a_decode_declares_the_pixels_that_its_frames_take(backend):
    work = VideoWork()
    data = np.frombuffer(make_video(60, width=320, height=192, gop=15), np.uint8)
    reader = VideoReader(DecoderConfig(backend=backend))
    read = reader.read(task(4), data, Deadline(30, "decode"), work)
    assert work.megapixels >= read.frames_decoded * 320 * 192 / 1e6 > 0
    assert work.share_left() == 0


async def test_the_stage_tells_its_load_while_it_decodes_and_after():
    sink = RecordingSink()
    stage = DecodeStage(DecoderConfig(workers=1, target_backlog_s=1e-4), sink)
    data = np.frombuffer(make_video(120, width=320, height=180), np.uint8)
    assert stage.load() is None
    await stage.decode(60, task(4), data)
    decoding = [asyncio.create_task(stage.decode(60, task(100), data)) for _ in range(3)]
    await asyncio.sleep(0)
    load = stage.load()
    assert load.of_next == 1
    assert load.in_hand == 3  # one on the thread, two that wait for it
    assert sink.values["sluice_load", ()] == load.in_hand
    async with asyncio.timeout(30):
        while not sink.values["sluice_waiting_megapixels", ()]:
            await asyncio.sleep(0)
            stage.load()
    await asyncio.gather(*decoding)
    assert stage.load().in_hand == 0
    assert sink.values["sluice_waiting_megapixels", ()] == 0
    stage.close()


async def test_lists_of_pictures_count_as_much_as_the_videos_before_them():
    stage = DecodeStage(DecoderConfig(workers=1, target_backlog_s=1e-4), RecordingSink())
    await stage.decode(60, task(4), np.frombuffer(make_video(60, width=320, height=180), np.uint8))
    pictures = tuple(np.frombuffer(make_picture(width=64), np.uint8) for _ in range(2))
    reading = asyncio.create_task(stage.decode_pictures(30, task(2), pictures))
    await asyncio.sleep(0)
    assert stage.load().in_hand == stage.load().of_next
    await reading
    stage.close()
