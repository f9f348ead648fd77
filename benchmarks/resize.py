"""Does it change answers that frames are resized while they are decoded, and not by the model's processor?

    python -m benchmarks.resize [--quick]

The demo model is served twice, with `decoder.resize` on and off, and asked the same questions about the same fresh
clips. Its frames are small and its scenes plain: what the resize does to fine detail is told by the PSNR that
`python -m benchmarks.preprocess` measures.
"""

from collections.abc import Sequence

from benchmarks.harness import Benchmark
from benchmarks.servers import sluice
from deployments.demo.evaluation.cases import Case, make_cases
from deployments.demo.evaluation.served import Served

WAYS = {"in the decode": True, "by the processor": False}
QUICK_FILES, FILES = 1, 30
"""Of each kind of request that has a clip."""


def clips(seed: int, files: int) -> list[Case]:
    cases = make_cases(seed, files)
    return [case for case in cases if any(file.part == "video" for file in case.files)]


def answers(bench: Benchmark, cases: Sequence[Case], resize: bool) -> list[str]:
    """To all questions about `cases`, in their order."""
    with sluice(args={"decoder": {"resize": resize}}) as server:
        served = Served(server.url, together=4)
        return [text for case in bench.progress(cases, f"resize: {resize}") for text in served.answers(case)]


def main(argv: Sequence[str] | None = None) -> None:
    bench = Benchmark("resize", "Do answers change when frames are resized while they are decoded?", argv)
    cases = clips(31 + bench.seed, QUICK_FILES if bench.quick else FILES)
    truths = [ask.truth for case in cases for ask in case.asks]
    given = {way: answers(bench, cases, resize) for way, resize in WAYS.items()}
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
