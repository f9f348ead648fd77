"""The work in a decoder's hands, by declared pixels, and that a real decode declares them."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.config import DecoderConfig
from deployments.deadline import Deadline
from deployments.decoder.backlog import RECENT, Backlog, VideoWork
from deployments.decoder.reader import VideoReader
from deployments.decoder.stage import DecodeStage
from deployments.metrics import RecordingSink
from tests.decoder.reading import task
from tests.media_files import make_picture, make_video

megapixels = st.floats(0.1, 1e5)


def test_nothing_is_said_before_the_first_video_is_known():
    backlog = Backlog(100)
    assert backlog.load() is None
    with backlog.video():
        assert backlog.load() is None  # its packets have not been read


@given(st.lists(megapixels, min_size=1, max_size=20), megapixels)
def test_a_video_counts_one_replica_at_most(costs, target):
    backlog = Backlog(target)
    works = [backlog.video() for _ in costs]
    for work, cost in zip(works, costs, strict=True):
        work.__enter__().megapixels = cost
    load = backlog.load()
    assert load.in_hand == pytest.approx(sum(min(1, cost / target) for cost in costs))
    assert load.of_next <= 1
    assert backlog.megapixels == pytest.approx(sum(costs))
    for work in works:
        work.__exit__(None, None, None)
    assert backlog.load().in_hand == 0
    assert backlog.megapixels == 0


def test_work_shrinks_as_frames_come_out():
    backlog = Backlog(100)
    with backlog.video() as work:
        work.megapixels, left = 80.0, [1.0]
        work.share_left = lambda: left[0]
        assert backlog.load().in_hand == pytest.approx(0.8)
        left[0] = 0.25
        assert backlog.load().in_hand == pytest.approx(0.2)
        assert backlog.load().of_next == pytest.approx(0.8)  # another one would begin at its beginning


def test_what_is_not_known_yet_is_taken_for_what_came_lately():
    backlog = Backlog(100)
    for cost in [100.0] * RECENT + [10.0] * RECENT:
        with backlog.video() as work:
            work.megapixels = cost
    with backlog.video(), backlog.video():
        assert backlog.load().in_hand == pytest.approx(0.2)


def test_a_video_that_fails_is_no_longer_in_hand():
    backlog = Backlog(100)
    with pytest.raises(ValueError, match="damaged"), backlog.video() as work:
        work.megapixels = 50.0
        raise ValueError("damaged")
    assert backlog.load().in_hand == 0


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
    stage = DecodeStage(DecoderConfig(workers=1, target_megapixels=1.0), sink)
    data = np.frombuffer(make_video(300, width=640, height=360), np.uint8)
    assert stage.load() is None
    decoding = [asyncio.create_task(stage.decode(60, task(100), data)) for _ in range(3)]
    async with asyncio.timeout(30):
        while (load := stage.load()) is None:
            await asyncio.sleep(0)
    assert load.of_next == 1
    assert 2 <= load.in_hand <= 3  # one on the thread, two that wait for it
    assert sink.values["sluice_load", ()] == load.in_hand
    assert sink.values["sluice_waiting_megapixels", ()] > 0
    await asyncio.gather(*decoding)
    assert stage.load().in_hand == 0
    assert sink.values["sluice_waiting_megapixels", ()] == 0
    stage.close()


async def test_lists_of_pictures_count_as_much_as_the_videos_before_them():
    stage = DecodeStage(DecoderConfig(workers=1, target_megapixels=1.0), RecordingSink())
    await stage.decode(60, task(4), np.frombuffer(make_video(60, width=640, height=360), np.uint8))
    pictures = tuple(np.frombuffer(make_picture(width=64), np.uint8) for _ in range(2))
    reading = asyncio.create_task(stage.decode_pictures(30, task(2), pictures))
    await asyncio.sleep(0)
    assert stage.load().in_hand == stage.load().of_next
    await reading
    stage.close()
