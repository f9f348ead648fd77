"""32 frames of a long remote video: the index and what the frames lean on by HTTP ranges, against the whole file.

    python -m benchmarks sparse [--quick]

Both sides are the fetch stage and the decode stage in one process, and the media host is a process of its own that
counts what it hands to the kernel. The file is made by repeating real encoded groups of pictures; it is removed
afterwards. The frames of both sides are compared bit for bit.
"""

import asyncio
import io
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import av
import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from benchmarks.kit.harness import Benchmark
from deployments.config import DecoderConfig, MediaConfig
from deployments.core.deadline import Deadline
from deployments.decoder.reader import VideoRead
from deployments.decoder.remote import Ranges
from deployments.decoder.stage import DecodeStage
from deployments.fetcher.fetcher import Fetcher
from deployments.observability.metrics import RecordingSink
from deployments.types import FrameSampling, MediaItem, MediaKind, RemoteFile, VideoTask, WholeNeeded

FRAMES = 32
CLIP_S, RATE, GOP, WIDTH, HEIGHT = 8, 25, 50, 1280, 720
BYTES_A_SECOND = 4 * 10**9 / 7200
GIB = 2**30
LIMIT_S = 600.0
PIECE_BYTES = 2**18


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _clip(seed: int) -> io.BytesIO:
    """An MP4 of closed groups of pictures, at the film's rate of bytes."""
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH + 4 * CLIP_S * RATE, 3), np.uint8)
    smooth = noise[: HEIGHT // 8].repeat(8, axis=0)
    made = io.BytesIO()
    with av.open(made, "w", format="mp4") as sink:
        stream = sink.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        rate = f"{int(BYTES_A_SECOND * 8 // 1000)}k"
        stream.options = {"preset": "ultrafast", "b": rate, "maxrate": rate, "bufsize": rate, "bf": "2"}
        stream.options |= {"x264-params": f"keyint={GOP}:min-keyint={GOP}:scenecut=0:open-gop=0:nal-hrd=cbr"}
        for number in range(CLIP_S * RATE):
            shown = np.ascontiguousarray(smooth[:, 4 * number : 4 * number + WIDTH])
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        sink.mux(stream.encode(None))
    return made


def make_film(path: Path, seconds: int, first: bool, seed: int) -> None:
    """`seconds` of video; its index first or last."""
    clip = _clip(seed)
    options = {"movflags": "faststart"} if first else {}
    with av.open(io.BytesIO(clip.getvalue())) as source, av.open(str(path), "w", options=options) as sink:
        stream = source.streams.video[0]
        track = sink.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        ticks = round(CLIP_S / stream.time_base)
        told = [(bytes(packet), packet.pts, packet.dts, packet.is_keyframe) for packet in packets]
        for turn in range(seconds // CLIP_S):
            for data, pts, dts, is_key in told:
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = track, stream.time_base, is_key
                packet.pts, packet.dts = pts + turn * ticks, dts + turn * ticks
                sink.mux(packet)


# ── the host ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _serve(pipe: Connection, path: str) -> None:
    sent = requests = 0
    size = Path(path).stat().st_size
    film_bytes = np.memmap(path, np.uint8, "r")

    async def film(request: web.Request) -> web.StreamResponse:
        nonlocal sent, requests
        asked = request.http_range
        start, stop = asked.start or 0, min(asked.stop or size, size)
        headers = {"Accept-Ranges": "bytes", "ETag": '"film"', "Content-Length": str(stop - start)}
        if asked.start is not None:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        response = web.StreamResponse(status=200 if asked.start is None else 206, headers=headers)
        requests += 1
        await response.prepare(request)
        with suppress(ConnectionError):  # whoever wanted the beginning only has left
            for at in range(start, stop, PIECE_BYTES):
                piece = film_bytes[at : min(at + PIECE_BYTES, stop)].tobytes()
                await response.write(piece)
                sent += len(piece)
        return response

    async def count(request: web.Request) -> web.Response:
        return web.json_response([sent, requests])

    async def run() -> None:
        app = web.Application()
        app.add_routes([web.get("/film.mp4", film), web.get("/count", count)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


@contextmanager
def host(path: Path) -> Iterator[int]:
    """The port of a host of that file."""
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_serve, args=(theirs, str(path)), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


# ── the sides ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Door:
    fetcher: Fetcher

    async def read(self, file: RemoteFile, ranges: Ranges, deadline: Deadline) -> NDArray[np.uint8] | None:
        read, data = await self.fetcher.read_ranges(file, ranges, deadline)
        return None if read.refused else data


@dataclass(frozen=True, slots=True)
class Taken:
    frames_THWC: NDArray[np.uint8]
    seconds: float
    sent_bytes: int
    requests: int


async def take(port: int, in_parts: bool) -> Taken:
    """The frames, by ranges or of the whole file."""
    media = MediaConfig.model_validate(
        {
            "allowed_networks": ["127.0.0.0/8"],
            "max_video_bytes": 8 * GIB,
            "max_buffered_bytes": 16 * GIB,
            "total_timeout_s": LIMIT_S,
        }
    )
    fetcher = Fetcher(media, RecordingSink())
    decoder = DecodeStage(DecoderConfig(timeout_s=LIMIT_S), RecordingSink(), _Door(fetcher))
    task = VideoTask("film", FrameSampling(FRAMES, None, FRAMES), None, None)

    async def counted() -> tuple[int, int]:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/count") as response:
            sent, requests = await response.json()
            return sent, requests

    try:
        before, started = await counted(), time.monotonic()
        item = MediaItem(MediaKind.VIDEO, "film", f"http://127.0.0.1:{port}/film.mp4", in_parts=in_parts)
        fetched, data = await fetcher.fetch(item, Deadline(LIMIT_S, "benchmark"))
        read: VideoRead | WholeNeeded
        if fetched.remote is None:
            read = await decoder.decode(LIMIT_S, task, data)
        else:
            read = await decoder.decode_remote(LIMIT_S, task, fetched.remote, data)
        seconds = time.monotonic() - started
        assert isinstance(read, VideoRead)
        after = await counted()
        return Taken(read.payload["frames_THWC"], seconds, after[0] - before[0], after[1] - before[1])
    finally:
        decoder.close()
        await fetcher.close()


def main() -> None:
    bench = Benchmark("sparse", "What do 32 frames of a long remote video take?")
    seconds = 600 if bench.quick else 7200
    rows: list[list[object]] = []
    shares: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="sluice-sparse-") as folder:
        for name, first in (("index last", False), ("index first", True)):
            path = Path(folder) / "film.mp4"
            make_film(path, seconds, first, bench.seed)
            size = path.stat().st_size
            with host(path) as port:
                sparse = asyncio.run(take(port, in_parts=True))
                whole = asyncio.run(take(port, in_parts=False))
            path.unlink()
            assert np.array_equal(sparse.frames_THWC, whole.frames_THWC), "the frames are not the same"
            for side, taken in (("ranges", sparse), ("whole file", whole)):
                share = 100 * taken.sent_bytes / size
                sent_mb = round(taken.sent_bytes / 1e6, 1)
                rows.append([name, side, round(taken.seconds, 2), sent_mb, share, taken.requests])
            shares[f"{name}: bytes"] = sparse.sent_bytes / size
            shares[f"{name}: time"] = sparse.seconds / whole.seconds
    bench.table(
        f"{FRAMES} frames of {seconds} s, {size / 1e9:.2f} GB, H.264 720p, groups of {GOP} pictures",
        ["MP4", "side", "seconds", "MB sent", "% of the file", "requests"],
        rows,
    )
    most_bytes = max(value for name, value in shares.items() if name.endswith("bytes"))
    most_time = max(value for name, value in shares.items() if name.endswith("time"))
    bench.finish(
        f"At most {100 * most_bytes:.1f} % of the bytes and {100 * most_time:.1f} % of the time, for the same frames.",
        shares,
    )


if __name__ == "__main__":
    main()
