"""Figures 1 and 2 of the media stages: frames out of a video, one at a time and by eight workers at once.

Everyone gets the file's bytes in memory and delivers the same 32 uniform frames at full resolution. One codec thread
each, CPU time counts, all contenders take turns in one process. "The old way" (a seek per frame, Pillow, float
tensors) is 1; larger is better. "Ceiling" is FFmpeg decoding exactly the packets that our plan names and converting
the frames to RGB, into memory that is kept: opening and parsing the file, sampling and planning cost it nothing.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import geometric_mean
from typing import Any

import av
import cv2
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from benchmarks.kit.clips import ClipSpec, clip
from benchmarks.kit.harness import Benchmark, compare
from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.decoder.codec import packet_index
from deployments.decoder.demux import demux
from deployments.decoder.limits import Limits
from deployments.decoder.plan import plan_runs
from deployments.decoder.reader import VideoReader
from deployments.media.container import open_container
from deployments.types import FrameSampling, VideoTask

FRAMES = 32
WORKERS = 8
TASK = VideoTask("clip", FrameSampling(FRAMES, None, FRAMES), None, None)
OLD_WAY, CEILING, OURS = "the old way", "ceiling", "Sluice"
TARGETS = {(5, 250): 19.0, (5, 30): 8.5, (60, 250): 3.8, (60, 30): 2.6}
"""Of H.264 clips by seconds and GOP: times the old way's speed."""
FRAME_RATIO_TARGET = 1.07
"""Most of our CPU time over the ceiling's."""

Contender = Callable[[NDArray[np.uint8]], object]


# ── contenders ───────────────────────────────────────────────────────────────────────────────────────────────────────


def capture(data: NDArray[np.uint8]) -> tuple[cv2.VideoCapture, io.BytesIO]:
    """The second must outlive the first: OpenCV crashes otherwise."""
    source = io.BytesIO(data.data)
    return cv2.VideoCapture(source, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]), source


def wanted(count: int) -> list[int]:
    return np.linspace(0, count - 1, FRAMES).round().astype(int).tolist()


def seek_each_frame(data: NDArray[np.uint8]) -> torch.Tensor:
    """(T, C, H, W) float32 in 0..1."""
    reader, source = capture(data)
    tensors = []
    for number in wanted(int(reader.get(cv2.CAP_PROP_FRAME_COUNT))):
        reader.set(cv2.CAP_PROP_POS_FRAMES, number)
        _, bgr = reader.read()
        picture = Image.fromarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
        tensors.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255)
    del reader, source
    return torch.stack(tensors)


def scan_to_float(data: NDArray[np.uint8]) -> torch.Tensor:
    """(T, C, H, W) float32 in 0..1."""
    return torch.stack([torch.from_numpy(rgb).permute(2, 0, 1).float() / 255 for rgb in _scan(data)])


def scan_to_uint8(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(T, H, W, C)"""
    return np.stack(list(_scan(data)))


def _scan(data: NDArray[np.uint8]) -> Any:
    reader, source = capture(data)
    numbers = wanted(int(reader.get(cv2.CAP_PROP_FRAME_COUNT)))
    for number in range(numbers[-1] + 1):
        reader.grab()
        if number in numbers:
            yield cv2.cvtColor(reader.retrieve()[1], cv2.COLOR_BGR2RGB)
    del reader, source


def ours(config: DecoderConfig) -> Contender:
    reader = VideoReader(config)
    return lambda data: reader.read(TASK, data, Deadline(3600, "decode"))


class Ceiling:
    """Decodes the planned packets of one file; everything else was done when it was made."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        config, deadline = DecoderConfig(), Deadline(3600, "decode")
        self._container = open_container(data, "mp4", "clip", config.max_source_pixels, deadline)
        video = demux(self._container.__enter__(), data, TASK, 1, Limits(config, "clip"), deadline)
        index = packet_index(video)
        assert index is not None
        assert video.table is not None
        targets = index.packets[wanted(len(index.packets))]
        self._video, self._runs = video, plan_runs(video.table, targets)
        self._needed = set(targets.tolist())
        self._times = {int(video.table.pts[target]) for target in targets}

    def __call__(self) -> list[av.VideoFrame]:
        reformatter = VideoReformatter()
        return [
            reformatter.reformat(frame, format="rgb24", threads=1)
            for frame in self._decoded()
            if frame.pts in self._times
        ]

    def _decoded(self) -> Iterator[av.VideoFrame]:
        codec = self._video.stream.codec_context
        for run in self._runs:
            codec.flush_buffers()
            for number in range(run.start, run.stop):
                codec.skip_frame = "DEFAULT" if number in self._needed else "NONREF"
                yield from self._video.packets[number].decode()
            yield from codec.decode(None)


def others(probe: NDArray[np.uint8]) -> dict[str, Contender]:
    """The libraries that are installed beside us and can read `probe`: some find out only then what they lack."""
    found: dict[str, Contender] = {}
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as missing:
        print(f"torchcodec: not here ({str(missing).splitlines()[0][:80]})")
    else:

        def by_torchcodec(data: NDArray[np.uint8]) -> object:
            decoder = VideoDecoder(
                torch.from_numpy(data), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="approximate"
            )
            return decoder.get_frames_at(wanted(len(decoder))).data

        found["torchcodec"] = by_torchcodec
    try:
        import decord
    except ImportError:
        print("decord: not here")
    else:

        def by_decord(data: NDArray[np.uint8]) -> object:
            reader = decord.VideoReader(io.BytesIO(data.data), num_threads=1)
            return reader.get_batch(wanted(len(reader))).asnumpy()

        found["decord"] = by_decord
    return {name: read for name, read in found.items() if _can(read, probe)}


# ── the two figures ──────────────────────────────────────────────────────────────────────────────────────────────────


def one_at_a_time(bench: Benchmark, specs: Sequence[ClipSpec], rounds: int) -> dict[str, dict[str, float | None]]:
    """Figure 1: speed by clip and contender, the old way being 1."""
    contenders: dict[str, Contender] = {
        OLD_WAY: seek_each_frame,
        "scan to float": scan_to_float,
        "scan to uint8": scan_to_uint8,
        **others(clip(specs[0], bench.seed)),
        OURS: ours(DecoderConfig()),
    }
    speeds: dict[str, dict[str, float | None]] = {}
    rows = []
    for spec in bench.progress(specs, "clips"):
        data = clip(spec, bench.seed)
        able = [name for name in contenders if spec.codec == "libx264" or _can(contenders[name], data)]
        turns: dict[str, Callable[[], object]] = {name: partial(contenders[name], data) for name in able}
        turns[CEILING] = Ceiling(data)
        timings = compare(turns, rounds=rounds, label=spec.name)
        base = timings[OLD_WAY if OLD_WAY in timings else CEILING].cpu_ms
        speed = {name: base / timings[name].cpu_ms if name in timings else None for name in [*contenders, CEILING]}
        speeds[spec.name] = speed
        to_ceiling = timings[OURS].cpu_ms / timings[CEILING].cpu_ms
        target = TARGETS[spec.seconds, spec.gop] if spec.codec == "libx264" else None
        rows.append([spec.name, *speed.values(), target, timings[OURS].cpu_ms, to_ceiling])
    bench.table(
        f"{FRAMES} frames, one thread: speed, the old way being 1",
        ["clip", *contenders, CEILING, "target", "Sluice CPU ms", "Sluice / ceiling"],
        rows,
        "Medians of CPU time. Clips that OpenCV can't decode (AV1): the ceiling is 1. "
        f"Target of the last column: at most {FRAME_RATIO_TARGET}.",
    )
    names = [name for name in contenders if name != OLD_WAY]
    bench.plot(
        "bars",
        "Speed against a seek per frame",
        x=[spec.name for spec in specs],
        series={name: [speeds[spec.name][name] for spec in specs] for name in names},
        y_label="times the old way",
    )
    return speeds


def _can(read: Contender, data: NDArray[np.uint8]) -> bool:
    try:
        read(data)
    except Exception as refused:  # of five libraries, each with its own errors
        said, *_ = [*str(refused).splitlines(), ""]
        print(f"{getattr(read, '__name__', read)}: {type(refused).__name__}: {said[:60]}")
        return False
    return True


def eight_workers(bench: Benchmark, specs: Sequence[ClipSpec], rounds: int) -> dict[str, float]:
    """Figure 2: clips a second by eight threads at once, each on its own clip."""
    contenders = {OLD_WAY: seek_each_frame, "scan to float": scan_to_float, OURS: ours(DecoderConfig())}
    rows, gains = [], {name: [] for name in contenders if name != OURS}
    for spec in bench.progress(specs, "workers"):
        data = clip(spec, bench.seed)
        with ThreadPoolExecutor(WORKERS) as pool:
            turns = {name: partial(_all_at_once, pool, read, data) for name, read in contenders.items()}
            timings = compare(turns, rounds=rounds, label=f"{spec.name}, {WORKERS} workers")
        rate = {name: WORKERS / (timings[name].wall_ms / 1e3) for name in contenders}
        for name in gains:
            gains[name].append(rate[OURS] / rate[name])
        rows.append([spec.name, *rate.values(), rate[OURS] / rate[OLD_WAY], rate[OURS] / rate["scan to float"]])
    bench.table(
        f"{WORKERS} workers at once: clips a second",
        ["clip", *contenders, "over the old way", "over the scan"],
        rows,
        "Wall time, threads of one process. Published gains of a forward scan over the old way: 2.9, 3.0 and 1.3.",
    )
    return {f"gain over {name}": geometric_mean(values) for name, values in gains.items()}


def _all_at_once(pool: ThreadPoolExecutor, read: Contender, data: NDArray[np.uint8]) -> None:
    for _ in pool.map(read, [data] * WORKERS):
        pass


def main(argv: Sequence[str] | None = None) -> None:
    bench = Benchmark("media", "How fast are the wanted frames of a video decoded?", argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    heights, seconds = ((360, 720), (5,)) if bench.quick else ((360, 720, 1080), (5, 60))
    specs = [ClipSpec(height, length, gop) for length in seconds for height in heights for gop in (250, 30)]
    codecs = [] if bench.quick else ["libx265", "libvpx-vp9", "libsvtav1"]
    speeds = one_at_a_time(bench, specs + [ClipSpec(720, 5, 60, codec) for codec in codecs], 1 if bench.quick else 3)
    crowd = [ClipSpec(360, 5, 250), *([] if bench.quick else [ClipSpec(720, 5, 250), ClipSpec(1080, 5, 30)])]
    gains = eight_workers(bench, crowd, 1 if bench.quick else 3)
    missed = [spec.name for spec in specs if (speeds[spec.name][OURS] or 0) < TARGETS[spec.seconds, spec.gop]]
    beaten = [
        f"{name} on {clip_name}"
        for clip_name, speed in speeds.items()
        for name, value in speed.items()
        if name not in (OURS, CEILING) and value is not None and value > (speed[OURS] or 0)
    ]
    low, high = min(speeds[s.name][OURS] or 0 for s in specs), max(speeds[s.name][OURS] or 0 for s in specs)
    bench.finish(
        f"{low:.1f} to {high:.1f} times as fast as a seek per frame; targets missed on: {', '.join(missed) or 'none'}; "
        f"slower than: {', '.join(beaten) or 'no other'}.",
        {"speeds": speeds, "missed": missed, "beaten_by": beaten, **gains},
    )


if __name__ == "__main__":
    main()
