"""Videos delivered in groups: put together, the frames of the plain way bit for bit; told before they are there."""

import asyncio
import dataclasses
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.decoder.backlog import VideoWork
from deployments.decoder.groups import GroupRule, plan_groups
from deployments.decoder.plan import PacketTable
from deployments.decoder.reader import VideoReader
from deployments.decoder.stage import DecodeStage
from deployments.errors import MediaLost
from deployments.observability.metrics import RecordingSink
from deployments.types import DecodedVideo, VideoTask
from tests.decoder.reading import task
from tests.decoder.test_parts import FILES, RESIZE, RULE, array, video, whole
from tests.support.media_files import make_video

ANY = GroupRule(least_megapixels=0.001)
LARGE = dataclasses.replace(RESIZE, min_pixels=10**9, max_pixels=10**9)
CONTENT = {"interlaced", "intra refresh"}
"""Whose packets promise other frames than come out."""


def clip(frames: int, **options: Any) -> VideoTask:
    return dataclasses.replace(task(frames, resize=RESIZE, **options), patches=RULE)


def early(
    data: NDArray[np.uint8], what: VideoTask, rule: GroupRule = ANY, config: DecoderConfig | None = None
) -> tuple[DecodedVideo, dict[str, Any]]:
    """What a stage tells of a video, and all groups of it."""

    async def decode() -> tuple[DecodedVideo, dict[str, Any]]:
        stage = DecodeStage(config or DecoderConfig(), RecordingSink(), groups=rule)
        try:
            meta, payload = [value async for value in stage.decode_early(30.0, what, data)]
            assert isinstance(meta, DecodedVideo)
            asked = (stage.decode_group(30.0, what, group, data) for group in meta.later)
            groups = [payload, *await asyncio.gather(*asked)]
            return meta, {name: np.concatenate([group[name] for group in groups]) for name in payload}
        finally:
            stage.close()

    return asyncio.run(decode())


def assert_same(found: tuple[DecodedVideo, dict[str, Any]], data: NDArray[np.uint8], what: VideoTask) -> None:
    plain = whole(data.tobytes(), what)
    size = sum(values.nbytes for values in plain.payload.values())
    told = dataclasses.replace(found[0], later=(), decode_s=0.0)
    assert told == dataclasses.replace(plain.meta, decode_s=0.0, payload_bytes=size)
    assert found[1].keys() == plain.payload.keys()
    for name, values in plain.payload.items():
        np.testing.assert_array_equal(found[1][name], values)


@pytest.mark.parametrize(
    ("name", "frames"),
    [(name, 13) for name in sorted(set(FILES) - CONTENT)] + [("H.264, MP4", 60), ("rotated, with sound", 14)],
)
def test_groups_together_are_the_video(name: str, frames: int) -> None:
    data, what = array(video(name)), clip(frames)
    found = early(data, what)
    assert_same(found, data, what)
    if frames == 13 and name in ("H.264, MP4", "H.264, Matroska", "VP9, WebM"):
        assert len(found[0].later) == 3


@pytest.mark.parametrize("name", sorted(CONTENT))
def test_frames_that_do_not_come_out_as_promised_are_lost(name: str) -> None:
    data, what = array(video(name)), clip(13)
    try:
        found = early(data, what)
    except MediaLost:
        return  # and is asked for whole
    assert_same(found, data, what)


def test_a_damaged_file_is_a_lost_group_and_not_another_clip() -> None:
    data, what = array(video("H.264, MP4")).copy(), clip(13)
    meta, _ = early(data, what)
    half = len(data) // 2
    data[half : half + len(data) // 4] = 0
    with pytest.raises(MediaLost):
        early(data, what)
    assert whole(data.tobytes(), what).meta.total_frames < meta.total_frames  # chosen anew among those that come out
    assert meta.lost_frames == 0


def test_a_size_that_changes_between_groups_is_no_promise_kept() -> None:
    ways = ((128, 96, 0.0), (256, 192, 4.0))
    small, large = (
        make_video(60, container="mpegts", gop=6, width=w, height=h, times_s=[since + n / 30 for n in range(60)])
        for w, h, since in ways
    )
    with pytest.raises(MediaLost):
        early(array(small + large), clip(14))


@pytest.mark.parametrize(
    ("what", "rule", "config"),
    [
        (clip(14), GroupRule(), None),
        (task(14, resize=RESIZE), ANY, None),
        (clip(14), ANY, DecoderConfig(resize=False)),
        (
            dataclasses.replace(clip(14), resize=dataclasses.replace(RESIZE, min_pixels=10**9, max_pixels=10**9)),
            ANY,
            None,
        ),
    ],
    ids=["small", "no patches", "frames as they are", "too small for the model"],
)
def test_others_come_whole(what: VideoTask, rule: GroupRule, config: DecoderConfig | None) -> None:
    data = array(video("H.264, MP4"))
    meta, payload = early(data, what, rule, config)
    assert not meta.later
    assert meta.payload_bytes == sum(values.nbytes for values in payload.values())
    plain = VideoReader(config or DecoderConfig()).read(what, data, Deadline(30, "decode"))
    for name, values in plain.payload.items():
        np.testing.assert_array_equal(payload[name], values)


def test_the_video_is_told_before_its_first_group_is_there() -> None:
    async def decode() -> list[object]:
        stage = DecodeStage(DecoderConfig(), RecordingSink(), groups=ANY)
        values = stage.decode_early(30.0, clip(13), array(video("H.264, MP4")))
        heard = [await anext(values)]
        heard += [stage.running]
        heard += [value async for value in values]
        stage.close()
        return heard

    told, running, payload = asyncio.run(decode())
    assert isinstance(told, DecodedVideo)
    assert told.later
    assert running in (0, 1)  # a small video may be done by then
    assert isinstance(payload, dict)


class Counting(DecodeStage):
    """Notes how many of its runs are under way when one begins."""

    def __init__(self) -> None:
        super().__init__(DecoderConfig(workers=4), RecordingSink(), groups=ANY)
        self.now, self.seen = 0, list[int]()

    async def _run(self, *args: Any) -> Any:
        self.now += 1
        self.seen.append(self.now)
        try:
            return await super()._run(*args)
        finally:
            self.now -= 1


def test_groups_of_one_clip_take_one_thread() -> None:
    async def turns() -> list[int]:
        stage, data = Counting(), array(video("H.264, MP4"))
        async with aclosing(stage.decode_early(30.0, clip(13), data)) as early:
            meta = await anext(early)
            assert isinstance(meta, DecodedVideo)
            groups = [stage.decode_group(30.0, clip(13), group, data) for group in meta.later]
            await asyncio.gather(anext(early), *groups)
        stage.close()
        return stage.seen

    seen = asyncio.run(turns())
    assert len(seen) > 2
    assert set(seen) == {1}


def test_groups_are_cut_where_decoding_begins_anew_and_the_outer_ones_are_small() -> None:
    keys = np.arange(240) % 10 == 0
    table = PacketTable(np.arange(240), keys, np.zeros(240, np.bool_))
    for second in (5, 9):  # runs that lie apart, and that touch
        targets = np.sort(np.concatenate([np.flatnonzero(keys), np.flatnonzero(keys) + second]))
        groups = plan_groups(table, targets, 1.0, 2, GroupRule(30.0, 4))
        sizes = [sum(stop - start for start, stop in group.runs) for group in groups]
        assert sizes == [4 * (second + 1), 8 * (second + 1), 8 * (second + 1), 4 * (second + 1)]
        assert [number for group in groups for number in group.packets] == targets.tolist()
        assert all(group.packets[0] % 10 == 0 for group in groups)
        assert plan_groups(table, targets, 0.1, 2, GroupRule(60.0, 4)) == ()
        assert len(plan_groups(table, targets[:6], 1.0, 2, GroupRule(1.0, 4))) == 3
        assert plan_groups(table, targets, 1.0, 100, GroupRule(60.0, 4)) == ()


def test_a_group_counts_as_its_own_work() -> None:
    data, what = array(video("H.264, MP4")), clip(13)
    meta, _ = early(data, what)
    work = VideoWork()
    reader = VideoReader(DecoderConfig())
    reader.read_group(what, data, Deadline(30, "decode"), meta.later[0], work)
    packets = sum(stop - start for start, stop in meta.later[0].part.runs)
    assert work.megapixels == pytest.approx(packets * meta.source_height * meta.source_width / 1e6)
    assert work.share_left() == 0.0
