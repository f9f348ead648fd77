"""Does it change answers that frames are resized while they are decoded, and not by the model's processor?

    python -m benchmarks resize [--quick]

The demo model is asked the same questions about the same fresh clips, plainly and with its own limit of pixels as the
request's: then the processor resizes, since the decoder knows the model's own limits only. Its frames are small and its
scenes plain: what the resize does to fine detail is told by the PSNR that `python -m benchmarks preprocess` measures.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.kit.harness import Benchmark
from benchmarks.kit.servers import sluice
from deployments.config import AppConfig
from deployments.demo.evaluation.cases import Case, make_cases
from deployments.demo.evaluation.served import Served
from deployments.preprocessor.loading import load_checkpoint

QUICK_FILES, FILES = 2, 30
"""Of each kind of request that has a clip."""


def clips(seed: int, files: int) -> list[Case]:
    cases = make_cases(seed, files)
    return [case for case in cases if any(file.part == "video" for file in case.files)]


def ways() -> dict[str, dict[str, Any]]:
    """What the requests of each way say."""
    limit = load_checkpoint(AppConfig()).processor.video_processor.size["longest_edge"]
    return {"in the decode": {}, "by the processor": {"mm_processor_kwargs": {"max_pixels": limit}}}


def answers(bench: Benchmark, url: str, cases: Sequence[Case], way: str, options: dict[str, Any]) -> list[str]:
    """To all questions about `cases`, in their order."""
    served = Served(url, together=4, options=options)
    return [text for case in bench.progress(cases, f"resized {way}") for text in served.answers(case)]


def main(argv: Sequence[str] | None = None) -> None:
    bench = Benchmark("resize", "Do answers change when frames are resized while they are decoded?", argv)
    cases = clips(31 + bench.seed, QUICK_FILES if bench.quick else FILES)
    truths = [ask.truth for case in cases for ask in case.asks]
    with sluice() as server:
        given = {way: answers(bench, server.url, cases, way, options) for way, options in ways().items()}
    right = {way: sum(map(str.__eq__, truths, texts)) / len(truths) for way, texts in given.items()}
    same = sum(map(str.__eq__, *given.values())) / len(truths)
    bench.table(
        f"{len(truths)} questions about {len(cases)} requests with clips",
        ["frames resized", "right answers"],
        [[way, f"{share:.1%}"] for way, share in right.items()],
        f"The same answer, right or wrong, both ways: {same:.1%}.",
    )
    ours, theirs = right.values()
    bench.finish(
        f"{ours:.1%} right with frames resized in the decode, {theirs:.1%} by the processor; {same:.1%} of the answers "
        "are the same.",
        {"right": right, "same": same, "questions": len(truths)},
    )


if __name__ == "__main__":
    main()
