"""Does hostile input do harm? Thousands of mutated media files and request bodies, each read in a sealed process.

    python -m benchmarks fuzz [--media 10000] [--bodies 5000] [--save FOLDER] [--quick]

Real files of every format are changed (bits, sizes, counts, order, splices) and read by every stage that would read
them; real requests are changed and sent to the ingress and the fetcher. The kernel kills a process that opens a file,
makes a socket or starts a program on the way. A fault is a process that died, an exception that is no client's error, a
reading that went on for minutes. Inputs that caused one are kept in `--save`; the same seed makes them again.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.kit.harness import Benchmark
from tests.support.hostile.body_fuzz import fuzz_bodies
from tests.support.hostile.corpus import GROUPS
from tests.support.hostile.media_fuzz import DEADLINE_S, fuzz_media
from tests.support.hostile.worker import Report, Tally

QUESTION = "Does hostile input do harm: crash, hang, blame us for it, take memory, touch what it should not?"
_MIB = 2**20
_QUICK = 10
"""How much less is done."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("fuzz", QUESTION, argv, _options)
    media, bodies = (bench.args.media, bench.args.bodies)
    if bench.quick:
        media, bodies = media // _QUICK, bodies // _QUICK
    options = {"seed": bench.seed, "workers": bench.args.workers}
    share = -(-media // len(GROUPS))
    tallies = {group: _fed(bench, group, share, fuzz_media(group, share, **options)) for group in GROUPS}
    tallies["bodies"] = _fed(bench, "bodies", bodies, fuzz_bodies(bodies, **options))
    _show(bench, tallies)
    results = {name: _figures(tally) for name, tally in tallies.items()}
    return bench.finish(_answer(tallies), results)


def _fed(bench: Benchmark, name: str, count: int, reports: Iterator[Report]) -> Tally:
    tally = Tally()
    for report in bench.progress(reports, name, total=count):
        tally.add(report)
        if report.is_fault:
            print(f"fault: {name} {report.number}: {report.outcome}, {report.detail}", flush=True)
            if bench.args.save is not None:
                bench.args.save.mkdir(parents=True, exist_ok=True)
                (bench.args.save / f"{name}-{bench.seed}-{report.number}").write_bytes(report.data)
    return tally


def _show(bench: Benchmark, tallies: dict[str, Tally]) -> None:
    rows = []
    for name, tally in tallies.items():
        figures = _figures(tally)
        outcomes = ", ".join(f"{outcome}: {count}" for outcome, count in tally.outcomes.most_common())
        rows.append([name, figures["fed"], outcomes, figures["faults"], figures["slowest_s"], figures["most_mib"]])
    bench.table(
        "What became of mutated inputs",
        ["", "fed", "outcomes", "faults", "slowest, s", "most memory for one, MiB"],
        rows,
        f"Media: deadline {DEADLINE_S:g} s each; bodies: the status of the answer. Memory: peak above what was before.",
    )


def _figures(tally: Tally) -> dict[str, Any]:
    return {
        "fed": tally.outcomes.total(),
        "outcomes": dict(tally.outcomes),
        "faults": len(tally.faults),
        "slowest_s": tally.slowest.seconds if tally.slowest else 0.0,
        "most_mib": tally.hungriest.grown_bytes / _MIB if tally.hungriest else 0.0,
        "details": [f"{report.number}: {report.outcome}, {report.detail}" for report in tally.faults[:20]],
    }


def _answer(tallies: dict[str, Tally]) -> str:
    fed, faults = (sum(_figures(tally)[name] for tally in tallies.values()) for name in ("fed", "faults"))
    expired = sum(tally.outcomes["expired"] for tally in tallies.values())
    most = max(_figures(tally)["most_mib"] for tally in tallies.values())
    return (
        f"Of {fed} hostile inputs {faults} did harm; {expired} used up their time, and none took more than"
        f" {most:.0f} MiB of memory to read."
    )


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--media", type=int, default=10_000, help="mutated files, of pictures, videos and sounds alike")
    parser.add_argument("--bodies", type=int, default=5_000, help="mutated request bodies")
    parser.add_argument("--workers", type=int, default=2, help="processes that read")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="where inputs that did harm are kept")


if __name__ == "__main__":
    main()
