"""From a video file to the model's tensors: decode, resize, processor. Ours against full-size frames into transformers.

    python -m benchmarks.preprocess [--quick]

"Usual way": full-size frames by the same decoder, then the family's processor resizes and normalises them to float32.
Ours: frames at the processor's own target size out of the decoder, pixels left as uint8 for the model's device.
Both use one thread, on the same machine, turn by turn. The processors have the sizes of the published checkpoints.
"""

import functools
import io
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import (
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from benchmarks.clips import ClipSpec, clip
from benchmarks.harness import Benchmark, compare, in_subprocess
from deployments.config import AppConfig, DecoderConfig, PreprocessorConfig
from deployments.deadline import Deadline
from deployments.decoder.reader import VideoRead, VideoReader
from deployments.media.geometry import target_size
from deployments.media.pictures import decode_picture
from deployments.preprocessor.preparation import Preparation, Tensors
from deployments.types import (
    Chat,
    ChatMessage,
    ChatPart,
    FrameSampling,
    MediaInput,
    MediaKind,
    Prepared,
    ResizeRule,
    VideoTask,
)
from tests.preprocessor.tiny_processors import QWEN_TEMPLATE, QWEN_TOKENS, byte_tokenizer, tiny_checkpoint

TARGET_TIMES, TARGET_BYTES = 2.0, 4.0
"""What 1080p has to gain: times less time, times fewer bytes between the stages."""
CONTEXT_LENGTH = 1 << 20
FRAMES = 32
KEEPING = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20)}
"""glibc maps large arrays anew each time, unless it is told to keep what was freed; read at a process's start."""


def qwen2_5_vl() -> Any:
    images = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384})
    videos = Qwen2VLVideoProcessor(
        size={"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}, cap_pixels_per_frame=False
    )
    return Qwen2_5_VLProcessor(images, byte_tokenizer(*QWEN_TOKENS), videos, chat_template=QWEN_TEMPLATE)


def qwen3_vl() -> Any:
    half = [0.5, 0.5, 0.5]
    size = {"shortest_edge": 65536, "longest_edge": 16777216}
    images = Qwen2VLImageProcessor(patch_size=16, size=size, image_mean=half, image_std=half)
    videos = Qwen3VLVideoProcessor(
        size={"shortest_edge": 4096, "longest_edge": 25165824}, image_mean=half, image_std=half,
        cap_pixels_per_frame=False,
    )  # fmt: skip
    return Qwen3VLProcessor(images, byte_tokenizer(*QWEN_TOKENS), videos, chat_template=QWEN_TEMPLATE)


PROCESSORS: dict[str, Callable[[], Any]] = {"Qwen3-VL": qwen3_vl, "Qwen2.5-VL": qwen2_5_vl}


def deadline() -> Deadline:
    return Deadline(3600, "benchmark")


def preparation(processor: str, uint8: bool, workers: int = 1) -> Preparation:
    config = AppConfig(preprocessor=PreprocessorConfig(uint8_handoff=uint8, workers=workers))
    return Preparation(tiny_checkpoint(PROCESSORS[processor](), CONTEXT_LENGTH), config)


@dataclass(frozen=True, slots=True)
class Path:
    """One way from a file to tensors."""

    decoder: VideoReader
    stage: Preparation
    resize: ResizeRule | None
    frames: int = FRAMES

    def decode(self, data: NDArray[np.uint8]) -> VideoRead:
        sampling = FrameSampling(num_frames=self.frames, fps=None, max_frames=self.frames)
        return self.decoder.read(VideoTask("clip", sampling, self.resize, None), data, deadline())

    def prepare(self, read: VideoRead) -> tuple[Prepared, Tensors]:
        item = MediaInput(MediaKind.VIDEO, "clip", "0" * 64, "mp4", read.meta)
        prepared, tensors = self.stage.prepare(deadline(), question(1), (item,), [read.payload])
        assert tensors is not None
        return prepared, tensors

    def run(self, data: NDArray[np.uint8]) -> tuple[Prepared, Tensors]:
        return self.prepare(self.decode(data))


def question(items: int) -> Chat:
    parts = (*(ChatPart(None, number) for number in range(items)), ChatPart("What happens here?"))
    return Chat((ChatMessage("user", parts),))


def paths(processor: str) -> dict[str, Path]:
    decoder = VideoReader(DecoderConfig())
    floats, bytes_ = preparation(processor, uint8=False), preparation(processor, uint8=True)
    rule = bytes_.profile.resize
    return {
        "full-size frames, HF to float32": Path(decoder, floats, None),
        "full-size frames, HF to uint8": Path(decoder, bytes_, None),
        "resized in the decode, HF to float32": Path(decoder, floats, rule),
        "ours: resized in the decode, uint8": Path(decoder, bytes_, rule),
    }


def video_tables(bench: Benchmark) -> dict[str, Any]:
    cases = [(1080, 5, FRAMES)] if bench.quick else [(1080, 5, FRAMES), (1080, 60, 2 * FRAMES), (720, 5, FRAMES)]
    results: dict[str, Any] = {}
    for processor in PROCESSORS:
        for height, seconds, frames in cases:
            name = f"{processor}, {frames} frames of {height}p ({seconds} s, GOP 250)"
            contenders = {way: replace(path, frames=frames) for way, path in paths(processor).items()}
            data = clip(ClipSpec(height, seconds, 250), bench.seed)
            results[name] = video_table(bench, name, contenders, data)
    return results


def video_table(bench: Benchmark, name: str, contenders: dict[str, Path], data: NDArray[np.uint8]) -> dict[str, float]:
    """Time and bytes of each way; the last one's gains over the first one's."""
    rounds = 3 if bench.quick else 5
    runs = {way: functools.partial(path.run, data) for way, path in contenders.items()}
    timings = compare(runs, rounds=rounds, label=name)
    reads = {way: path.decode(data) for way, path in contenders.items()}
    prepares = {way: functools.partial(path.prepare, reads[way]) for way, path in contenders.items()}
    processor = compare(prepares, rounds=rounds, label=f"{name}, processor")
    crossing = {way: (_bytes(reads[way].payload), _bytes(prepares[way]()[1])) for way in contenders}
    usual = next(iter(contenders))
    rows: list[list[Any]] = []
    for way, timing in timings.items():
        gain, cpu_gain = timings[usual].wall_ms / timing.wall_ms, timings[usual].cpu_ms / timing.cpu_ms
        sizes = [size / 1e6 for size in crossing[way]]
        fewer = sum(crossing[usual]) / sum(crossing[way])
        rows.append([way, timing.wall_ms, gain, timing.cpu_ms, cpu_gain, processor[way].cpu_ms, *sizes, fewer])
    shape = reads[way].payload["frames_THWC"].shape
    bench.table(
        f"{name}, resized to {shape[2]} x {shape[1]}",
        ["way", "ms", "times less", "CPU ms", "times less", "of it processor", "MB out of decoder", "MB to model",
         "times fewer bytes"],
        rows,
        f"Target on 1080p: {TARGET_TIMES:g} times less time, {TARGET_BYTES:g} times fewer bytes.",
    )  # fmt: skip
    return {"times_less_time": rows[-1][2], "times_less_cpu": rows[-1][4], "times_fewer_bytes": rows[-1][8]}


def _bytes(payload: dict[str, NDArray[Any]]) -> int:
    return sum(array.nbytes for array in payload.values())


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def memory_table(bench: Benchmark) -> dict[str, Any]:
    """What the stage's processes gain by keeping freed memory, in processes of their own."""
    rounds = 4 if bench.quick else 10
    ways = list(paths("Qwen3-VL"))
    rows, results = [], {}
    for way in bench.progress((ways[0], ways[-1]), "freed memory"):
        for kept, variables in (("nothing", {}), ("512 MiB", KEEPING)):
            with environment(variables):
                milliseconds, peak = in_subprocess(prepare_again, way, rounds, bench.seed)
            rows.append([way, kept, milliseconds, peak / 1e6])
            results[f"{way}, {kept} kept"] = milliseconds
    bench.table(
        "Freed memory kept by the process, Qwen3-VL, the same 32 frames of 1080p",
        ["way", "kept", "processor, CPU ms", "peak MB"],
        rows,
        f"Kept by {' '.join(f'{name}={value}' for name, value in KEEPING.items())}; all other tables keep nothing.",
    )
    return results


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """What the C library of a new process reads when it starts."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def prepare_again(way: str, rounds: int, seed: int) -> float:
    """Median CPU milliseconds of a preparation after the first one."""
    path = paths("Qwen3-VL")[way]
    read = path.decode(clip(ClipSpec(1080, 5, 250), seed))
    path.prepare(read)
    return compare({"again": functools.partial(path.prepare, read)}, rounds=rounds)["again"].cpu_ms


# ── likeness ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def likeness_table(bench: Benchmark) -> dict[str, float]:
    """How near the decoder's frames come to the processor's, and both to the exact result."""
    data = clip(ClipSpec(1080, 5, 250), bench.seed)
    contenders = paths("Qwen3-VL")
    full = contenders["full-size frames, HF to uint8"].decode(data)
    ours = contenders["ours: resized in the decode, uint8"].decode(data).payload["frames_THWC"]
    height, width = ours.shape[1:3]
    frames = torch.from_numpy(full.payload["frames_THWC"][:: FRAMES // 4]).permute(0, 3, 1, 2)
    sides = {"size": (height, width), "mode": "bicubic", "antialias": True, "align_corners": False}
    exact = torch.nn.functional.interpolate(frames.double(), **sides).clamp(0, 255)
    theirs = torch.nn.functional.interpolate(frames, **sides)
    mine = torch.from_numpy(np.ascontiguousarray(ours[:: FRAMES // 4])).permute(0, 3, 1, 2)
    found = {
        "HF's own resize to the exact one": _psnr(theirs, exact),
        "resized in the decode to the exact one": _psnr(mine, exact),
        "resized in the decode to HF's own": _psnr(mine, theirs),
    }
    bench.table(
        f"PSNR of frames, 1080p to {width} x {height}",
        ["of, to", "dB"],
        [list(row) for row in found.items()],
        "Exact: bicubic with antialiasing in float64 on the full-size RGB frames.",
    )
    return found


def _psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    error = torch.mean((one.double() - other.double()) ** 2).item()
    return float(10 * np.log10(255**2 / error))


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def picture_table(bench: Benchmark) -> dict[str, float]:
    """A phone's picture at the server's usual budget: decoded whole, and at a fraction of its size."""
    buffer = io.BytesIO()
    frame = paths("Qwen3-VL")["full-size frames, HF to uint8"].decode(clip(ClipSpec(1080, 5, 250), bench.seed))
    source = Image.fromarray(frame.payload["frames_THWC"][0]).resize((4032, 3024), Image.Resampling.LANCZOS)
    source.save(buffer, "JPEG", quality=90)
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    rule = ResizeRule("frame", 32, 1, 65536, 1024 * 32 * 32)
    whole = functools.partial(decode_picture, data, "picture", 10**8, deadline())
    timings = compare({"whole": whole, "fraction": functools.partial(whole, rule)}, rounds=3 if bench.quick else 9)
    side = target_size(rule, 1, 3024, 4032)
    resized = [
        torch.nn.functional.interpolate(
            torch.from_numpy(pixels).permute(2, 0, 1)[None], size=side, mode="bicubic", antialias=True
        )
        for pixels in (whole(), whole(rule))
    ]
    likeness = _psnr(*resized)
    rows = [["whole", timings["whole"].wall_ms, 1.0], ["a fraction", timings["fraction"].wall_ms, _gain(timings)]]
    bench.table(
        f"12-megapixel JPEG on its way to {side[1]} x {side[0]}", ["decoded", "ms", "times less"], rows,
        f"After the processor's resize the two are {likeness:.1f} dB alike.",
    )  # fmt: skip
    return {"times_less_time": _gain(timings), "psnr_db": likeness}


def _gain(timings: Any) -> float:
    return float(timings["whole"].wall_ms / timings["fraction"].wall_ms)


# ── threads or processes ─────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def _work(kind: str) -> Callable[[], object]:
    """One preparation of a kind, in this process."""
    stage = preparation("Qwen3-VL", uint8=True, workers=2)
    if kind == "text":
        chat = Chat((ChatMessage("user", (ChatPart("What is the capital of France? " * 20),)),))
        return lambda: stage.prepare(deadline(), chat, (), ())
    if kind == "picture":
        buffer = io.BytesIO()
        pixels = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
        Image.fromarray(pixels).resize((1600, 1200)).save(buffer, "JPEG")
        file = np.frombuffer(buffer.getvalue(), np.uint8)
        picture = MediaInput(MediaKind.IMAGE, "picture", "0" * 64, "jpeg")
        return lambda: stage.prepare(deadline(), question(1), (picture,), [file])
    path = Path(VideoReader(DecoderConfig()), stage, stage.profile.resize)
    read = path.decode(clip(ClipSpec(1080, 5, 250)))
    return lambda: path.prepare(read)


def _serve(connection: Any) -> None:
    """A process that measures on demand: (kind, threads, seconds) in, preparations a second out."""
    torch.set_num_threads(1)
    for kind, threads, seconds in iter(connection.recv, None):
        once = _work(kind)
        once()
        began = time.monotonic()
        with ThreadPoolExecutor(threads) as pool:
            counts = [pool.submit(_count, once, began + seconds) for _ in range(threads)]
            total = sum(count.result() for count in counts)
        connection.send(total / (time.monotonic() - began))


def _count(once: Callable[[], object], ends_at: float) -> int:
    count = 0
    while time.monotonic() < ends_at:
        once()
        count += 1
    return count


class Processes:
    """Two processes that prepare, told what by pipes."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(2)]
        self._pipes = [ours for ours, _ in pipes]
        self._processes = [context.Process(target=_serve, args=(theirs,), daemon=True) for _, theirs in pipes]
        for process in self._processes:
            process.start()

    def rate(self, kind: str, seconds: float, processes: int, threads: int) -> float:
        """Preparations a second of all of them together."""
        for pipe in self._pipes[:processes]:
            pipe.send((kind, threads, seconds))
        return float(sum(pipe.recv() for pipe in self._pipes[:processes]))

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()


def gil_share(kind: str, seconds: float, rounds: int) -> float:
    """Share of a preparation's time in which it holds the interpreter, by what is left to a thread that counts."""
    once = _work(kind)
    once()
    speeds = [(_counting_beside(once, seconds), _counting_beside(functools.partial(time.sleep, 0.01), seconds))
              for _ in range(rounds)]  # fmt: skip
    return max(0.0, 1 - statistics.median(beside / alone for beside, alone in speeds))


def _counting_beside(work: Callable[[], object], seconds: float) -> float:
    """Counts a second of a thread while this one works."""
    stop, counted = threading.Event(), [0]

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1

    counter = threading.Thread(target=count)
    began = time.monotonic()
    counter.start()
    while time.monotonic() - began < seconds:
        work()
    ended = time.monotonic()
    stop.set()
    counter.join()
    return counted[0] / (ended - began)


def threads_table(bench: Benchmark) -> dict[str, Any]:
    seconds, rounds = (1.0, 3) if bench.quick else (3.0, 5)
    shapes = ((1, 1), (1, 2), (2, 1))
    kinds = ("text", "picture", "video")
    processes = Processes()
    rows, results = [], {}
    for kind in kinds:
        for shape in shapes:
            processes.rate(kind, 0.1, *shape)
        turns = bench.progress(range(rounds), f"threads or processes: {kind}")
        measured = [[processes.rate(kind, seconds, *shape) for shape in shapes] for _ in turns]
        one, threads, apart = (statistics.median(column) for column in zip(*measured, strict=True))
        share = gil_share(kind, seconds, rounds)
        rows.append([kind, one, threads, apart, threads / apart, share])
        results[kind] = {"threads_to_processes": threads / apart, "gil_share": share}
    processes.close()
    bench.table(
        "Preparations a second: two threads of one process, or two processes",
        ["request", "one thread", "two threads", "two processes", "threads / processes", "share holding the GIL"],
        rows,
        "Each of them with one thread of torch. A process costs its own copy of the libraries, about 0.5 GB.",
    )
    return results


def main(argv: Sequence[str] | None = None) -> None:
    bench = Benchmark("preprocess", "What does it cost to turn a video file into the model's tensors?", argv)
    torch.set_num_threads(1)
    videos = video_tables(bench)
    found: dict[str, Any] = {"video": videos, "psnr_db": likeness_table(bench), "picture": picture_table(bench)}
    found["memory"] = memory_table(bench)
    found["workers"] = threads_table(bench)
    full = [gain for name, gain in videos.items() if "1080p" in name]
    least = {key: min(gain[key] for gain in full) for key in full[0]}
    bench.finish(
        f"On 1080p at least {least['times_less_time']:.1f} times less time (CPU: {least['times_less_cpu']:.1f}) and "
        f"{least['times_fewer_bytes']:.1f} times fewer bytes; targets {TARGET_TIMES:g} and {TARGET_BYTES:g}.",
        found,
    )


if __name__ == "__main__":
    main()
