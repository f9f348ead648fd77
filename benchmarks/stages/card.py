"""How many videos a second does a card's decoder give, beside the CPU's? Needs a card of NVIDIA's that decodes.

    python -m benchmarks card [--quick]

32 uniform frames of each clip at full resolution, from bytes in memory, by `decoder.backend: cuda` and `pyav` in turn.
The frames are compared: an H.264, HEVC or VP9 stream has one right answer.
"""

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.kit.clips import ClipSpec, clip
from benchmarks.kit.harness import Benchmark, compare
from deployments.config import DecoderConfig
from deployments.core.deadline import Deadline
from deployments.decoder.reader import VideoRead, VideoReader
from deployments.types import FrameSampling, VideoTask

QUESTION = "How many videos a second does a card's decoder give, beside the CPU's?"
FRAMES = 32
TASK = VideoTask("clip", FrameSampling(FRAMES, None, FRAMES), None, None)
CARD, CPU = "card", "CPU"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("card", QUESTION, argv)
    readers = {CARD: VideoReader(DecoderConfig(backend="cuda")), CPU: VideoReader(DecoderConfig())}
    codecs = ("libx264",) if bench.quick else ("libx264", "libx265", "libvpx-vp9")
    specs = [ClipSpec(height, 5, 250, codec) for codec in codecs for height in (360, 1080)]
    if _read(readers[CARD], clip(specs[0], bench.seed)).meta.backend != "cuda":
        sys.exit("no card decodes here")
    return measure(bench, readers, specs)


def measure(bench: Benchmark, readers: Mapping[str, VideoReader], specs: Sequence[ClipSpec]) -> dict[str, Any]:
    """Videos a second by `readers`, by one thread and by more."""
    rows, gains = [], []
    for spec in bench.progress(specs, "clips"):
        data = clip(spec, bench.seed)
        frames = {name: _read(reader, data).payload["frames_THWC"] for name, reader in readers.items()}
        apart = int(np.abs(frames[CARD].astype(np.int16) - frames[CPU]).max())
        for workers in (1, 8):
            with ThreadPoolExecutor(workers) as pool:
                turns = {name: partial(_all_at_once, pool, reader, data, workers) for name, reader in readers.items()}
                timings = compare(turns, rounds=3 if bench.quick else 9, label=f"{spec.name}, {workers} at once")
            rate = {name: workers * 1e3 / timing.wall_ms for name, timing in timings.items()}
            gains.append(rate[CARD] / rate[CPU])
            cpu_ms = [timings[name].cpu_ms / workers for name in (CARD, CPU)]
            rows.append([spec.name, workers, rate[CARD], rate[CPU], gains[-1], *cpu_ms, apart])
    columns = ["clip", "at once", "videos /s, card", "CPU", "times", "CPU ms a video, card", "CPU's", "furthest apart"]
    note = f"{FRAMES} frames of each. Furthest apart: the largest difference of a value of 0 to 255."
    bench.table("A card's decoder and the CPU's", columns, rows, note)
    answer = f"A card gives {min(gains):.2g} to {max(gains):.2g} times the CPU's videos a second."
    return bench.finish(answer, {"rows": rows})


def _read(reader: VideoReader, data: NDArray[np.uint8]) -> VideoRead:
    return reader.read(TASK, data, Deadline(3600, "decode"))


def _all_at_once(pool: ThreadPoolExecutor, reader: VideoReader, data: NDArray[np.uint8], times: int) -> None:
    for _ in pool.map(partial(_read, reader), [data] * times):
        pass


if __name__ == "__main__":
    main()
