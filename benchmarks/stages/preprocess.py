"""From a video file to the model's tensors: decode, resize, processor. Ours against full-size frames into transformers.

    python -m benchmarks preprocess [--quick]

"Usual way": full-size frames by the same decoder, then the family's processor resizes and normalises them to float32.
Ours: the decoder delivers frames at the processor's own target size, cut into the model's patches, which stay uint8 and
go straight to the model; the processor sees frames without content. What is left to the model's device, the
normalisation, is nothing to a GPU; the last way does it on this CPU, so that it ends with the very floats of the first.
All use one thread, on the same machine, turn by turn. The processors have the sizes of the published checkpoints.
"""

import functools
import io
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.kit.clips import ClipSpec, clip
from benchmarks.kit.harness import Benchmark, compare
from benchmarks.kit.preparing import (
    FRAMES,
    OURS,
    PROCESSORS,
    USUAL,
    Way,
    deadline,
    picture_file,
    preparation,
    question,
    ways,
)
from deployments.media.geometry import target_size
from deployments.media.patches import frames_of
from deployments.media.pictures import decode_picture
from deployments.types import MediaInput, MediaKind, ResizeRule

_ACCURATE = 0x2000 | 0x40000 | 0x4
"""swscale's FULL_CHR_H_INT, ACCURATE_RND, BICUBIC."""
TARGET_TIMES, TARGET_BYTES = 2.0, 4.0
"""What 1080p has to gain: times less time, times fewer bytes between the stages."""


def video_tables(bench: Benchmark) -> dict[str, dict[str, float]]:
    cases = [(1080, 5, FRAMES)] if bench.quick else [(1080, 5, FRAMES), (1080, 60, 2 * FRAMES), (720, 5, FRAMES)]
    results: dict[str, dict[str, float]] = {}
    for processor in list(PROCESSORS)[:1] if bench.quick else PROCESSORS:
        for height, seconds, frames in cases:
            name = f"{processor}, {frames} frames of {height}p ({seconds} s, GOP 250)"
            data = clip(ClipSpec(height, seconds, 250), bench.seed)
            results[name] = video_table(bench, name, ways(processor, frames), data)
    return results


def video_table(bench: Benchmark, name: str, contenders: dict[str, Way], data: NDArray[np.uint8]) -> dict[str, float]:
    """Time and bytes of each way; our gains over the usual one, and those of the way that ends with its floats."""
    rounds = 2 if bench.quick else 5
    timings = compare({way: functools.partial(w.run, data) for way, w in contenders.items()}, rounds=rounds, label=name)
    reads = {way: w.decode(data) for way, w in contenders.items()}
    prepares = {way: functools.partial(w.prepare, reads[way]) for way, w in contenders.items()}
    processor = compare(prepares, rounds=rounds, label=f"{name}, processor")
    crossing = {way: w.crossing(data) for way, w in contenders.items()}
    rows: dict[str, list[Any]] = {}
    for way, timing in timings.items():
        gains = timings[USUAL].wall_ms / timing.wall_ms, timings[USUAL].cpu_ms / timing.cpu_ms
        bytes_ = crossing[way]
        sizes = [size / 1e6 for size in (bytes_.to_preprocessor, bytes_.from_preprocessor, bytes_.straight)]
        fewer = crossing[USUAL].total / bytes_.total
        rows[way] = [timing.wall_ms, gains[0], timing.cpu_ms, gains[1], processor[way].cpu_ms, *sizes, fewer]
    height, width = _target(reads[OURS].meta.patch_grid, contenders[OURS])
    bench.table(
        f"{name}, resized to {width} x {height}",
        ["way", "ms", "times less", "CPU ms", "times less", "of it processor", "MB decoder to processor",
         "MB processor to model", "MB decoder to model", "times fewer bytes"],
        [[way, *row] for way, row in rows.items()],
        f"Target on 1080p: {TARGET_TIMES:g} times less time, {TARGET_BYTES:g} times fewer bytes.",
    )  # fmt: skip
    ours, ended = rows[OURS], list(rows.values())[-1]
    return {
        "times_less_time": ours[1],
        "times_less_cpu": ours[3],
        "times_fewer_bytes": ours[8],
        "times_less_cpu_with_floats_on_this_cpu": ended[3],
    }


def _target(grid: tuple[int, int, int] | None, way: Way) -> tuple[int, int]:
    assert grid is not None
    assert way.patches is not None
    return grid[1] * way.patches.patch, grid[2] * way.patches.patch


# ── likeness ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def likeness_table(bench: Benchmark) -> dict[str, float]:
    """How near the decoder's frames come to the processor's, and both to the exact result."""
    data = clip(ClipSpec(1080, 5, 250), bench.seed)
    contenders = ways("Qwen3-VL")
    usual = contenders[USUAL].decode(data)
    ours = contenders[OURS].decode(data)
    height, width = _target(ours.meta.patch_grid, contenders[OURS])
    assert ours.meta.patch_grid is not None
    assert contenders[OURS].patches is not None
    resized = frames_of(ours.payload["patches"], ours.meta.patch_grid, contenders[OURS].patches, FRAMES)
    whole = torch.from_numpy(usual.payload["frames_THWC"][:: FRAMES // 4]).permute(0, 3, 1, 2)
    true = torch.from_numpy(_true_colours(data, usual.meta.indices[:: FRAMES // 4])).permute(0, 3, 1, 2)
    sides = {"size": (height, width), "mode": "bicubic", "antialias": True, "align_corners": False}
    exact = torch.nn.functional.interpolate(true.double(), **sides).clamp(0, 255)
    theirs = torch.nn.functional.interpolate(whole, **sides)
    mine = torch.from_numpy(np.ascontiguousarray(resized[:: FRAMES // 4])).permute(0, 3, 1, 2)
    found = {
        "HF's own resize to the exact one": _psnr(theirs, exact),
        "resized in the decode to the exact one": _psnr(mine, exact),
        "resized in the decode to HF's own": _psnr(mine, theirs),
    }
    bench.table(
        f"PSNR of frames, 1080p to {width} x {height}",
        ["of, to", "dB"],
        [list(row) for row in found.items()],
        "Exact: full-size frames converted to RGB with full chroma and accurate rounding, then bicubic with "
        "antialiasing in float64. HF's own resize gets the frames of FFmpeg's usual converter, which are a level too "
        "dark. What the difference does to answers: "
        "`python -m benchmarks resize`.",
    )
    return found


def _true_colours(data: NDArray[np.uint8], numbers: Sequence[int]) -> NDArray[np.uint8]:
    """(T, H, W, C) frames of these numbers, by the converter that is slow and right."""
    with av.open(io.BytesIO(data.data)) as opened:
        frames = [frame for number, frame in enumerate(opened.decode(video=0)) if number in numbers]
        return np.stack([frame.to_ndarray(format="rgb24", interpolation=_ACCURATE) for frame in frames])


def _psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    error = torch.mean((one.double() - other.double()) ** 2).item()
    return float(10 * np.log10(255**2 / error))


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


REQUESTS = {"four 720p JPEGs": (4, 1280, 720, "JPEG"), "a PNG page of 1275x1650": (1, 1275, 1650, "PNG")}
"""(how many, width, height, format)"""


def pictures_table(bench: Benchmark, processor: str) -> dict[str, dict[str, float]]:
    """Files to the model's tensors, by the family's processor as it is usually called and by our stage."""
    stage, tool = preparation(processor), PROCESSORS[processor]()
    results, rows = {}, []
    for name, (count, width, height, fmt) in REQUESTS.items():
        files = [picture_file(width, height, fmt, seed) for seed in range(count)]
        inputs = tuple(MediaInput(MediaKind.IMAGE, f"picture {number}", fmt.lower()) for number in range(count))
        content = [{"type": "image"}] * count + [{"type": "text", "text": "What happens here?"}]
        prompt = tool.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

        def usual(prompt: str = prompt, files: Sequence[NDArray[np.uint8]] = files) -> Any:
            pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
            return tool(text=[prompt], images=pictures, return_tensors="pt")

        ours = functools.partial(stage.prepare, deadline(), question(count), inputs, files)
        timings = compare({"usual": usual, "ours": ours}, rounds=3 if bench.quick else 15, label=name)
        results[name] = {way: timing.cpu_ms for way, timing in timings.items()}
        gain = timings["usual"].cpu_ms / timings["ours"].cpu_ms
        rows.append([name, *(timing.cpu_ms for timing in timings.values()), gain])
    bench.table(
        f"{processor}, pictures: CPU ms a request, from the files to the model's tensors",
        ["request", "Pillow and the family's processor, float32", "ours, uint8", "times less"], rows,
    )  # fmt: skip
    return results


def picture_table(bench: Benchmark) -> dict[str, float]:
    """A phone's picture at the server's usual budget: decoded whole, and as a draft."""
    buffer = io.BytesIO()
    frame = ways("Qwen3-VL")[USUAL].decode(clip(ClipSpec(1080, 5, 250), bench.seed))
    source = Image.fromarray(frame.payload["frames_THWC"][0]).resize((4032, 3024), Image.Resampling.LANCZOS)
    source.save(buffer, "JPEG", quality=90)
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    rule = ResizeRule("frame", 32, 1, 65536, 1024 * 32 * 32)
    whole = functools.partial(decode_picture, data, "picture", 10**8, deadline())
    drafted = functools.partial(whole, rule, draft=True)
    timings = compare({"whole": whole, "draft": drafted}, rounds=3 if bench.quick else 9)
    side = target_size(rule, 1, 3024, 4032)
    resized = [
        torch.nn.functional.interpolate(
            torch.from_numpy(pixels).permute(2, 0, 1)[None], size=side, mode="bicubic", antialias=True
        )
        for pixels in (whole(), drafted())
    ]
    likeness, gain = _psnr(*resized), timings["whole"].wall_ms / timings["draft"].wall_ms
    rows = [["whole", timings["whole"].wall_ms, 1.0], ["a draft", timings["draft"].wall_ms, gain]]
    bench.table(
        f"12-megapixel JPEG on its way to {side[1]} x {side[0]}", ["decoded", "ms", "times less"], rows,
        f"After the processor's resize the two are {likeness:.1f} dB alike.",
    )  # fmt: skip
    return {"times_less_time": gain, "psnr_db": likeness}


def main(argv: Sequence[str] | None = None) -> None:
    bench = Benchmark("preprocess", "What does it cost to turn files into the model's tensors?", argv)
    torch.set_num_threads(1)
    videos = video_tables(bench)
    found: dict[str, Any] = {"video": videos, "psnr_db": likeness_table(bench), "picture": picture_table(bench)}
    found["pictures"] = {processor: pictures_table(bench, processor) for processor in PROCESSORS}
    full = [gain for name, gain in videos.items() if "1080p" in name]
    least = {key: min(gain[key] for gain in full) for key in full[0]}
    bench.finish(
        f"On 1080p at least {least['times_less_time']:.1f} times less time (CPU: {least['times_less_cpu']:.1f}, and "
        f"{least['times_less_cpu_with_floats_on_this_cpu']:.1f} with the model's normalisation on the same CPU) and "
        f"{least['times_fewer_bytes']:.1f} times fewer bytes; targets {TARGET_TIMES:g} and {TARGET_BYTES:g}.",
        found,
    )


if __name__ == "__main__":
    main()
