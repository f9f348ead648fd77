"""Videos that stay with their host: the same frames as of the whole file, for a part of its bytes."""

import asyncio
import functools
import io
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from aiohttp import web
from numpy.typing import NDArray

from deployments.config import DecoderConfig, MediaConfig
from deployments.core.deadline import Deadline
from deployments.decoder.reader import VideoRead, VideoReader
from deployments.decoder.remote import Ranges
from deployments.decoder.stage import DecodeStage
from deployments.errors import BadMedia, MediaHostError, SluiceError, TooLarge
from deployments.fetcher.fetcher import Fetcher
from deployments.observability.metrics import RecordingSink
from deployments.types import CacheUse, FrameSampling, MediaItem, MediaKind, RemoteFile, VideoTask, WholeNeeded
from tests.support.media_files import make_video, read_numbers
from tests.support.media_server import Behaviour, MediaServer, Ranged, redirect, stalled

LOOPBACK = {"allowed_networks": ("127.0.0.0/8",), "sparse_from_bytes": 5_000}
PLAIN = FrameSampling(8, None, 64)


@dataclass(frozen=True, slots=True)
class Door:
    """The decoder's way to the fetcher, without processes between them."""

    fetcher: Fetcher

    async def read(self, file: RemoteFile, ranges: Ranges, deadline: Deadline) -> NDArray[np.uint8] | None:
        read, data = await self.fetcher.read_ranges(file, ranges, deadline)
        return None if read.refused else data


@asynccontextmanager
async def stages(**media: Any) -> AsyncIterator[tuple[Fetcher, DecodeStage]]:
    fetcher = Fetcher(MediaConfig(**{**LOOPBACK, **media}), RecordingSink())
    decoder = DecodeStage(DecoderConfig(), RecordingSink(), Door(fetcher))
    try:
        yield fetcher, decoder
    finally:
        decoder.close()
        await fetcher.close()


def minute() -> Deadline:
    return Deadline(60.0, "request")


async def read(behaviour: Behaviour, sampling: FrameSampling = PLAIN, **media: Any) -> VideoRead | WholeNeeded:
    """What the decoder makes of the file at a host that behaves so, from the first request on."""
    with MediaServer() as server:
        async with stages(**media) as (fetcher, decoder):
            item = MediaItem(MediaKind.VIDEO, "clip", server.add("/clip", behaviour), in_parts=True)
            fetched, head = await fetcher.fetch(item, minute())
            assert fetched.remote is not None
            return await decoder.decode_remote(60.0, VideoTask("clip", sampling, None, None), fetched.remote, head)


def whole(data: bytes, sampling: FrameSampling) -> VideoRead:
    return VideoReader(DecoderConfig()).read(VideoTask("clip", sampling, None, None), array(data), minute())


def array(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def index_first(data: bytes) -> bytes:
    """The same MP4 with its index before its media."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as moved:
        with av.open(io.BytesIO(data)) as source, av.open(moved.name, "w", options={"movflags": "faststart"}) as sink:
            tracks = {stream.index: sink.add_stream_from_template(stream) for stream in source.streams}
            for packet in source.demux():
                if packet.size:
                    packet.stream = tracks[packet.stream.index]
                    sink.mux(packet)
        return Path(moved.name).read_bytes()


FILES: dict[str, Callable[[], bytes]] = {
    "index last": lambda: make_video(240),
    "index first": lambda: index_first(make_video(240)),
    "QuickTime": lambda: make_video(240, container="mov"),
    "open groups": lambda: make_video(240, open_gop=True),
    "no B-frames": lambda: make_video(240, b_frames=0),
    "HEVC": lambda: make_video(120, codec="libx265", open_gop=True),
    "VP9": lambda: make_video(120, codec="libvpx-vp9"),
    "AV1": lambda: make_video(60, codec="libsvtav1", gop=10),
    "variable rate": lambda: make_video(120, times_s=[n / 30 + (n // 7) * 0.2 for n in range(120)]),
    "hidden frames": lambda: make_video(240, hidden=17),
    "negative offsets": lambda: make_video(240, muxer_options={"movflags": "negative_cts_offsets"}),
    "rotated, with sound": lambda: make_video(240, rotation=90, tones_hz=(440.0,)),
}
SAMPLINGS = {
    "few": FrameSampling(4, None, 64),
    "by time": FrameSampling(None, 5.0, 64),
    "a span": FrameSampling(6, None, 64, start_s=1.1, end_s=1.9),
}


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_of_the_whole_file_bit_for_bit(name: str) -> None:
    data = FILES[name]()
    for sampling in SAMPLINGS.values():
        sparse, plain = asyncio.run(read(Ranged(data), sampling)), whole(data, sampling)
        assert isinstance(sparse, VideoRead)
        assert sparse.meta.timestamps_s == plain.meta.timestamps_s
        assert sparse.meta.indices == plain.meta.indices
        assert (sparse.meta.duration_s, sparse.meta.rotation_deg) == (plain.meta.duration_s, plain.meta.rotation_deg)
        np.testing.assert_array_equal(sparse.payload["frames_THWC"], plain.payload["frames_THWC"])


@functools.cache
def padded(frames: int = 240, **options: Any) -> bytes:
    """A clip of large frames: few of its bytes are its index."""
    return make_video(frames, width=320, height=240, options={"crf": "1"}, **options)


@pytest.mark.parametrize("first", [False, True], ids=["index last", "index first"])
def test_few_frames_take_few_bytes_and_few_requests(first: bool) -> None:
    host = Ranged(index_first(padded()) if first else padded())
    answer = asyncio.run(read(host, FrameSampling(4, None, 64)))
    assert isinstance(answer, VideoRead)
    assert read_numbers(answer.payload["frames_THWC"]) == [0, 80, 159, 239]
    assert host.sent_bytes < 0.2 * len(host.data)
    assert len(host.ranges) <= 8
    assert host.whole == 1  # the first request, left after its beginning


class Changing(Ranged):
    """Has another version from the second range on."""

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if len(self.ranges) >= 1:
            self.etag = '"2"'
        return await super().__call__(request)


class Deaf(Ranged):
    """Offers ranges and then answers with the whole file."""

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self.data, headers={"ETag": self.etag, "Accept-Ranges": "bytes"})


def then(first: Behaviour, later: Behaviour) -> Behaviour:
    """`first` for whole files, `later` for ranges."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await (later if "Range" in request.headers else first)(request)

    return answer


@pytest.mark.parametrize(
    ("behaviour", "error", "said"),
    [
        (Changing(padded(120)), MediaHostError, "changed while it was read"),
        (then(Ranged(padded(120)), Ranged(padded(120)[:-1])), MediaHostError, "changed while it was read"),
        (then(Ranged(padded(120)), stalled(declared=100)), MediaHostError, "went silent"),
    ],
    ids=["another version", "another length", "silence"],
)
def test_what_a_host_does_wrong_is_an_error(behaviour: Behaviour, error: type[SluiceError], said: str) -> None:
    if said == "went silent":
        behaviour = then(Ranged(padded(120)), then(behaviour, _promising))
    with pytest.raises(error, match=said):
        asyncio.run(read(behaviour, read_timeout_s=0.3, max_retries=0))


async def _promising(request: web.Request) -> web.StreamResponse:
    """The headers of the range that was asked for, and nothing behind them."""
    asked = request.http_range
    size = len(padded(120))
    place = f"bytes {asked.start}-{asked.stop - 1}/{size}"
    headers = {"Content-Range": place, "Content-Length": str(asked.stop - asked.start), "ETag": '"1"'}
    response = web.StreamResponse(status=206, headers=headers)
    await response.prepare(request)
    await asyncio.sleep(3600)
    return response


@pytest.mark.parametrize(
    "behaviour",
    [
        Deaf(padded(120)),
        then(Ranged(padded(120)), Ranged(padded(120), lie={"Content-Range": f"bytes 0-9/{len(padded(120))}"})),
        then(Ranged(padded(120)), redirect("http://127.0.0.1/elsewhere")),
        Ranged(make_video(60, muxer_options={"movflags": "frag_keyframe+empty_moov"}, gop=6, options={"crf": "1"})),
    ],
    ids=["no ranges", "another range", "a redirect", "fragmented"],
)
def test_what_cannot_be_read_in_parts_is_asked_for_whole(behaviour: Behaviour) -> None:
    assert isinstance(asyncio.run(read(behaviour)), WholeNeeded)


def test_the_ceiling_is_on_what_is_read() -> None:
    data = padded()
    answer = asyncio.run(read(Ranged(data), FrameSampling(2, None, 64), max_video_bytes=len(data) // 2))
    assert isinstance(answer, VideoRead)
    with pytest.raises(TooLarge, match="would have to be read"):
        asyncio.run(read(Ranged(data), FrameSampling(64, None, 64), max_video_bytes=len(data) // 2))


def test_an_index_that_names_bytes_behind_the_end_is_refused() -> None:
    data = index_first(padded())
    with pytest.raises(BadMedia, match="behind its end"):
        asyncio.run(read(Ranged(data[: len(data) // 2])))


def test_a_fetch_stays_whole_where_ranges_are_not_offered_or_not_wanted() -> None:
    data = padded(120)

    async def sizes() -> list[int]:
        with MediaServer() as server:
            async with stages() as (fetcher, _):
                unnamed = server.add("/unnamed", Ranged(data, etag='W/"1"'))
                unoffered = server.add("/unoffered", data)
                matroska = server.add("/matroska", Ranged(make_video(120, container="matroska", options={"crf": "1"})))
                offered = server.add("/offered", Ranged(data))
                items = [MediaItem(MediaKind.VIDEO, "x", url, in_parts=True) for url in (unnamed, unoffered, matroska)]
                fetched = [await fetcher.fetch(item, minute()) for item in items]
                fetched.append(await fetcher.fetch(MediaItem(MediaKind.VIDEO, "x", offered), minute()))
                assert all(meta.remote is None for meta, _ in fetched)
                return [len(found) for _, found in fetched]

    first, second, _, last = asyncio.run(sizes())
    assert first == second == last == len(data)


def test_the_beginning_of_a_file_is_never_kept_as_the_file() -> None:
    data = padded(120)
    host = Ranged(data, lie={"Cache-Control": "max-age=60"})

    async def fetches() -> list[tuple[bool, int, CacheUse]]:
        with MediaServer() as server:
            async with stages() as (fetcher, _):
                url, told = server.add("/clip", host), []
                for in_parts in (True, True, False, True):
                    item = MediaItem(MediaKind.VIDEO, "x", url, in_parts=in_parts)
                    meta, found = await fetcher.fetch(item, minute())
                    assert found is not None
                    assert (meta.remote is None) == bool(meta.digest) == (len(found) == len(data))
                    told.append((meta.remote is None, meta.file_bytes, meta.cache))
                return told

    begun, whole_file = (False, len(data), CacheUse.OFF), (True, len(data), CacheUse.MISS)
    assert asyncio.run(fetches()) == [begun, begun, whole_file, (True, len(data), CacheUse.HIT)]
