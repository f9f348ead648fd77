"""The stage behind its thread pool, and lists of pictures."""

import asyncio
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from deployments.config import DecoderConfig
from deployments.decoder.stage import STAGE, DecodeStage
from deployments.errors import BadMedia, BadRequest, StageTimeout, TooLarge
from deployments.observability.metrics import RecordingSink
from deployments.types import DecodedVideo, ResizeRule
from tests.decoder.reading import LABEL, task
from tests.support.media_files import make_picture, make_video, read_numbers


@pytest.fixture
def sink():
    return RecordingSink()


@pytest.fixture
def stage(sink):
    stage = DecodeStage(DecoderConfig(workers=2), sink)
    yield stage
    stage.close()


def array(data: bytes) -> np.ndarray:
    """As the stage gets it: read-only, since it is mapped from shared memory."""
    return np.frombuffer(data, np.uint8)


def pictures(count: int, **options) -> tuple[np.ndarray, ...]:
    return tuple(array(make_picture(number=number, **options)) for number in range(count))


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.01)


# ── the stage ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_video_is_decoded_off_the_event_loop(stage):
    data = array(make_video(60, width=640, height=360))
    decoding = [asyncio.create_task(stage.decode(60, task(5), data)) for _ in range(8)]
    seen = set()
    while not all(work.done() for work in decoding):
        seen.add(stage.running)
        await asyncio.sleep(0)
    assert max(seen) > 0, "the loop goes round while videos are decoded"
    for work in decoding:
        read = await work
        assert read_numbers(read.payload["frames_THWC"]) == list(read.meta.indices)


async def test_videos_at_once_don_t_disturb_each_other(stage):
    files = [make_video(frames, gop=8, open_gop=True) for frames in (20, 30, 40, 50)] * 3
    reads = await asyncio.gather(*(stage.decode(60, task(6), array(data)) for data in files))
    for read in reads:
        assert read_numbers(read.payload["frames_THWC"]) == list(read.meta.indices)
    assert [read.meta.total_frames for read in reads] == [20, 30, 40, 50] * 3


async def test_the_time_that_is_left_ends_the_work_and_frees_its_thread(stage, sink):
    data = array(make_video(200, width=320, height=192))
    with pytest.raises(StageTimeout):
        await stage.decode(0.01, task(200), data)
    async with asyncio.timeout(10):
        await until(lambda: not stage.running)
    assert (await stage.decode(30, task(2, end_s=0.2), data)).meta.lost_frames == 0


async def test_the_stage_s_own_limit_caps_the_time(sink):
    stage = DecodeStage(DecoderConfig(timeout_s=0.01), sink)
    with pytest.raises(StageTimeout):
        await stage.decode(600, task(300), array(make_video(200, width=320, height=192)))
    stage.close()


async def test_a_cancelled_decode_stops_its_thread(stage):
    data = array(make_video(300, width=320, height=192))
    decoding = asyncio.create_task(stage.decode(60, task(300), data))
    async with asyncio.timeout(10):
        await until(lambda: stage.running)
        decoding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await decoding
        await until(lambda: not stage.running)
    stage.check_health()


async def test_errors_cross_processes_unchanged(stage):
    with pytest.raises(BadMedia) as refused:
        await stage.decode(30, task(), array(b"no video" * 100))
    copy = pickle.loads(pickle.dumps(refused.value))
    assert (copy.message, copy.param, copy.status) == (refused.value.message, LABEL, 400)


async def test_what_was_done_is_measured(stage, sink):
    read = await stage.decode(30, task(4), array(make_video(60, gop=60)))
    assert sink.values["sluice_frames_delivered", ()] == 4
    assert sink.values["sluice_frames_decoded", ()] == read.frames_decoded
    assert sink.values["sluice_decoded_megapixels", ()] == pytest.approx(read.frames_decoded * 96 * 128 / 1e6)
    assert sink.values["sluice_threads_busy", (STAGE,)] == 0


def test_opencv_is_loaded_only_when_it_is_chosen():
    script = (
        "import sys; from deployments.config import DecoderConfig; from deployments.decoder.stage import DecodeStage; "
        "from deployments.observability.metrics import RecordingSink; "
        "DecodeStage(DecoderConfig(), RecordingSink()); assert 'cv2' not in sys.modules; "
        "DecodeStage(DecoderConfig(backend='opencv'), RecordingSink()); assert 'cv2' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# ── lists of pictures ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_list_of_pictures_is_a_video(stage):
    read = await stage.decode_pictures(30, task(8), pictures(5))
    assert read_numbers(read.payload["frames_THWC"]) == [0, 1, 2, 3, 4]
    assert read.payload["frames_THWC"].flags.c_contiguous
    assert read.meta.payload_bytes == read.payload["frames_THWC"].nbytes
    assert replace(read.meta, payload_bytes=0) == DecodedVideo(
        source_fps=1.0,
        duration_s=5.0,
        total_frames=5,
        indices=(0, 1, 2, 3, 4),
        timestamps_s=(0.0, 1.0, 2.0, 3.0, 4.0),
        source_height=96,
        source_width=128,
        rotation_deg=0,
        backend="pictures",
        lost_frames=0,
        decode_s=read.meta.decode_s,
    )


@pytest.mark.parametrize("what", [task(4), task(fps=2.0, max_frames=4)])
async def test_a_longer_list_is_thinned_out_evenly(stage, what):
    read = await stage.decode_pictures(30, what, pictures(10, fmt="PNG"))
    assert read_numbers(read.payload["frames_THWC"]) == [0, 3, 6, 9]
    assert read.meta.indices == (0, 3, 6, 9)


async def test_the_operator_s_ceiling_holds_for_lists(sink):
    stage = DecodeStage(DecoderConfig(max_frames=2), sink)
    assert (await stage.decode_pictures(30, task(8), pictures(10))).meta.indices == (0, 9)
    stage.close()


async def test_fps_is_the_rate_of_a_list(stage):
    meta = (await stage.decode_pictures(30, task(fps=4.0), pictures(6))).meta
    assert (meta.source_fps, meta.duration_s, meta.timestamps_s[-1]) == (4.0, 1.5, 1.25)


async def test_pictures_of_another_size_are_brought_to_the_first(stage):
    mixed = (*pictures(1), *pictures(3, width=200, height=300)[1:])
    read = await stage.decode_pictures(30, task(8), mixed)
    assert read.payload["frames_THWC"].shape == (3, 96, 128, 3)
    assert read_numbers(read.payload["frames_THWC"]) == [0, 1, 2]


async def test_pictures_come_at_the_size_that_the_processor_would_make(stage):
    rule = ResizeRule("exact", height=60, width=80)
    read = await stage.decode_pictures(30, task(8, resize=rule), pictures(3))
    assert read.payload["frames_THWC"].shape == (3, 60, 80, 3)
    assert read_numbers(read.payload["frames_THWC"]) == [0, 1, 2]


async def test_a_list_has_an_empty_audio_track_when_one_is_asked_for(stage):
    assert (await stage.decode_pictures(30, task(audio_rate_hz=16_000), pictures(2))).payload["audio"].shape == (0,)


async def test_a_broken_picture_is_named(stage):
    broken = (*pictures(2), array(make_picture()[:200]))
    with pytest.raises(BadMedia) as refused:
        await stage.decode_pictures(30, task(), broken)
    assert refused.value.param == f"{LABEL}.video[2]"


async def test_an_empty_list_and_a_count_of_none_are_refused(stage):
    with pytest.raises(BadRequest, match="at least one picture"):
        await stage.decode_pictures(30, task(), ())
    with pytest.raises(BadRequest, match="num_frames"):
        await stage.decode_pictures(30, task(0), pictures(2))


async def test_lists_keep_to_the_limits(sink):
    stage = DecodeStage(DecoderConfig(max_source_pixels=100, max_output_bytes=10_000), sink)
    with pytest.raises(TooLarge):
        await stage.decode_pictures(30, task(), pictures(1))
    stage.close()
    stage = DecodeStage(DecoderConfig(max_output_bytes=96 * 128 * 3), sink)
    with pytest.raises(TooLarge, match="2 frames"):
        await stage.decode_pictures(30, task(), pictures(2))
    stage.close()
