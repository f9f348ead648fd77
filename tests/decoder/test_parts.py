"""Videos decoded in parts: the frames of the plain way bit for bit, whatever becomes of the parts."""

import asyncio
import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.decoder.backlog import VideoWork
from deployments.decoder.parts import Helpers, Payload
from deployments.decoder.reader import VideoRead, VideoReader
from deployments.decoder.stage import DecodeStage
from deployments.errors import StageTimeout, StageUnavailable
from deployments.observability.metrics import RecordingSink
from deployments.types import DecodedPart, PartTask, PatchRule, ResizeRule, VideoTask
from tests.decoder.reading import task
from tests.support.media_files import make_video

ANY = 0.001
"""Megapixels: of these small videos, all but the smallest parts are worth giving away."""
FILES: dict[str, dict[str, Any]] = {
    "H.264, MP4": {},
    "H.264, Matroska": {"container": "matroska"},
    "H.264, MPEG-TS": {"container": "mpegts"},
    "H.264, Flash": {"container": "flv", "b_frames": 0},
    "H.264, every frame a keyframe": {"gop": 1},
    "H.264, one group": {"gop": 300},
    "HEVC, open groups, MP4": {"codec": "libx265"},
    "AV1, WebM": {"codec": "libsvtav1", "container": "webm"},
    "VP9, WebM": {"codec": "libvpx-vp9", "container": "webm"},
    "VP8, WebM": {"codec": "libvpx", "container": "webm"},
    "MPEG-4, AVI": {"codec": "mpeg4", "container": "avi"},
    "MPEG-2, MPEG-TS": {"codec": "mpeg2video", "container": "mpegts"},
    "variable rate": {"times_s": [n / 30 + (n // 7) * 0.2 for n in range(120)]},
    "hidden frames": {"hidden": 17},
    "rotated, with sound": {"rotation": 90, "tones_hz": (440.0,)},
    "interlaced": {"options": {"x264-params": "interlaced=1:bframes=2:keyint=6:min-keyint=6:threads=1"}},
    "intra refresh": {"gop": 20, "options": {"x264-params": "intra-refresh=1:keyint=20:bframes=0:threads=1"}},
}
FRAMES = 13
SAMPLINGS = {"few": task(FRAMES), "many": task(60), "by rate": task(fps=4), "a span": task(9, start_s=0.4, end_s=3.5)}
RESIZE = ResizeRule("clip", factor=32, temporal_factor=2, min_pixels=32 * 32, max_pixels=64 * 96 * 8)
RULE = PatchRule(patch=16, merge=2, temporal=2)


@functools.cache
def video(name: str) -> bytes:
    return make_video(120, **{"gop": 6, "open_gop": True, **FILES[name]})


@dataclass
class Others:
    """Decoders of the same video in this process, which may be told to do something else in their place."""

    task: VideoTask
    data: NDArray[np.uint8]
    instead: Callable[[int], Any] = lambda number: None
    """Called with the number of each part before it is decoded; `False` refuses it."""
    parts: list[PartTask] = field(default_factory=list)
    running: int = 0
    most: int = 0
    cancelled: int = 0
    work: list[VideoWork] = field(default_factory=list)

    async def decode(
        self, part: PartTask, deadline: Deadline, taken: Callable[[], None]
    ) -> tuple[DecodedPart, Payload] | None:
        self.parts.append(part)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            done = self.instead(len(self.parts))
            if done is False:
                return None
            if asyncio.iscoroutine(done):
                await done
            taken()
            self.work.append(VideoWork())
            reader = VideoReader(DecoderConfig())
            read = await asyncio.to_thread(reader.read_part, self.task, self.data, deadline, part, self.work[-1])
            return read.meta, read.payload
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


def array(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def whole(data: bytes, what: VideoTask) -> VideoRead:
    return VideoReader(DecoderConfig()).read(what, array(data), Deadline(30, "decode"))


def in_parts(
    others: Others, *, most: int = 3, least: float = ANY, work: VideoWork | None = None, seconds: float = 30.0
) -> tuple[VideoRead, Helpers]:
    """What a decoder makes of a video with `others` at hand."""

    async def read() -> tuple[VideoRead, Helpers]:
        helpers = Helpers(others, asyncio.get_running_loop(), most, least)
        reader, deadline = VideoReader(DecoderConfig()), Deadline(seconds, "decode")
        return await asyncio.to_thread(reader.read, others.task, others.data, deadline, work, helpers), helpers

    return asyncio.run(read())


def assert_same(parts: VideoRead, plain: VideoRead) -> None:
    assert dataclasses.replace(parts.meta, decode_s=0.0) == dataclasses.replace(plain.meta, decode_s=0.0)
    assert parts.payload.keys() == plain.payload.keys()
    for name, values in plain.payload.items():
        np.testing.assert_array_equal(parts.payload[name], values)


# ── the same frames ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_of_the_plain_way(name: str, sampling: str) -> None:
    others = Others(SAMPLINGS[sampling], array(video(name)))
    parts, helpers = in_parts(others)
    assert_same(parts, whole(video(name), others.task))
    assert helpers.decoded + helpers.returned == len(others.parts)


def test_what_is_worth_it_is_given_away() -> None:
    others = Others(task(FRAMES), array(video("H.264, MP4")))
    assert in_parts(others)[1].decoded
    alone = Others(task(FRAMES), array(video("H.264, MP4")))
    assert in_parts(alone, least=100.0)[1].decoded == 0
    assert not alone.parts


@pytest.mark.parametrize("name", ["H.264, MP4", "rotated, with sound"])
@pytest.mark.parametrize("frames", [7, 14])
def test_frames_for_the_model_are_those_of_the_plain_way(name: str, frames: int) -> None:
    for patches in (RULE, None):
        what = dataclasses.replace(task(frames, resize=RESIZE), patches=patches)
        others = Others(what, array(video(name)))
        parts, helpers = in_parts(others)
        assert (helpers.decoded > 0, parts.meta.patch_grid is not None) == (True, patches is not None)
        assert_same(parts, whole(video(name), what))


def test_sound_comes_once() -> None:
    others = Others(task(FRAMES, audio_rate_hz=16_000), array(video("rotated, with sound")))
    parts, helpers = in_parts(others)
    assert helpers.decoded
    assert len(parts.payload["audio"]) > 16_000
    assert_same(parts, whole(video("rotated, with sound"), others.task))


def test_a_size_that_changes_in_a_part_is_brought_to_the_first() -> None:
    ways = ((128, 96, 0.0), (256, 192, 4.0))
    small, large = (
        make_video(60, container="mpegts", gop=6, width=w, height=h, times_s=[since + n / 30 for n in range(60)])
        for w, h, since in ways
    )
    others = Others(task(FRAMES), array(small + large))
    parts, helpers = in_parts(others)
    assert helpers.returned
    assert_same(parts, whole(small + large, others.task))


def test_frames_that_are_lost_are_lost_in_parts_too() -> None:
    data = bytearray(video("H.264, Matroska"))
    rubbish = np.random.default_rng(0).integers(0, 256, len(data) // 4, np.uint8).tobytes()
    data[len(data) // 2 : len(data) // 2 + len(rubbish)] = rubbish
    others = Others(task(FRAMES), array(bytes(data)))
    assert_same(in_parts(others)[0], whole(bytes(data), others.task))


# ── what may become of a part ────────────────────────────────────────────────────────────────────────────────────────


async def hanging() -> None:
    await asyncio.sleep(60)


def lost(number: int) -> None:
    raise StageUnavailable(f"part {number}")


@pytest.mark.parametrize(
    "instead",
    [lambda number: False, lost, lambda number: lost(number) if number == 1 else None, lambda number: hanging()],
    ids=["refused", "all lost", "one lost", "never answered"],
)
def test_a_part_that_does_not_come_is_decoded_all_the_same(instead: Callable[[int], Any]) -> None:
    others = Others(task(FRAMES), array(video("H.264, MP4")), instead)
    parts, helpers = in_parts(others)
    assert_same(parts, whole(video("H.264, MP4"), others.task))
    assert helpers.returned >= 1
    assert helpers.decoded + helpers.returned == len(others.parts)
    assert others.running == 0


def test_no_more_parts_are_under_way_than_may_be() -> None:
    others = Others(task(40), array(video("H.264, every frame a keyframe")))
    assert in_parts(others, most=2)[1].decoded
    assert others.most == 2


class Endless(Others):
    """Take parts, and give nothing back."""

    async def decode(self, part: PartTask, deadline: Deadline, taken: Callable[[], None]) -> None:  # type: ignore[override]
        self.parts.append(part)
        taken()
        try:
            await hanging()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def test_the_end_of_the_time_ends_all_parts() -> None:
    others = Endless(task(FRAMES), array(video("H.264, MP4")))
    with pytest.raises(StageTimeout):
        in_parts(others, seconds=0.5)
    assert others.cancelled == len(others.parts) == 3


# ── the stage ────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def stage(**settings: Any) -> Iterator[tuple[DecodeStage, RecordingSink]]:
    sink = RecordingSink()
    stage = DecodeStage(DecoderConfig(**settings), sink, part_megapixels=ANY)
    try:
        yield stage, sink
    finally:
        stage.close()


async def test_a_cancelled_video_ends_its_parts_and_frees_its_thread() -> None:
    others = Endless(task(FRAMES), array(video("H.264, MP4")))
    with stage() as (decoder, _):
        decoding = asyncio.create_task(decoder.decode(30, others.task, others.data, others))
        async with asyncio.timeout(10):
            while len(others.parts) < 3:
                await asyncio.sleep(0.01)
            decoding.cancel()
            while decoder.running or others.cancelled < 3:
                await asyncio.sleep(0.01)


async def test_one_part_is_no_parts() -> None:
    others = Others(task(FRAMES), array(video("H.264, MP4")))
    with stage(max_parts=1) as (decoder, _):
        await decoder.decode(30, others.task, others.data, others)
    assert not others.parts


async def test_work_counts_where_it_is_done() -> None:
    others = Others(task(FRAMES), array(video("H.264, MP4")))
    plain, work = whole(video("H.264, MP4"), others.task), VideoWork()
    with stage() as (decoder, sink):
        await decoder.decode(30, others.task, others.data, others)
        assert sink.values["sluice_video_parts", ("decoded",)] == len(others.parts)
        assert sink.values["sluice_frames_delivered", ()] == FRAMES
        assert 0 < sink.values["sluice_frames_decoded", ()] < plain.frames_decoded
    others = Others(task(FRAMES), array(video("H.264, MP4")))
    alone = VideoWork()
    VideoReader(DecoderConfig()).read(others.task, others.data, Deadline(30, "decode"), alone)
    await asyncio.to_thread(in_parts, others, work=work)
    every = [work, *others.work]
    assert sum(one.megapixels or 0.0 for one in every) == pytest.approx(alone.megapixels)
    assert [one.share_left() for one in every] == [0.0] * len(every)


async def test_only_a_decoder_with_nothing_to_do_has_a_place_for_a_part() -> None:
    data = array(video("H.264, MP4"))
    with stage(workers=1) as (decoder, _):
        with decoder.place_for_part() as work:
            assert work is not None
            with decoder.place_for_part() as second:
                assert second is None
        decoding = asyncio.create_task(decoder.decode(60, task(FRAMES), data))
        await asyncio.sleep(0)
        with decoder.place_for_part() as work:
            assert work is None
        decoding.cancel()
