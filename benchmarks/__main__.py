"""`python -m benchmarks`: all benchmarks one after the other; `--report` writes the page of their results.

Each runs in its own process, so that none inherits another's threads, caches or memory. Those that only send requests
share their servers in a quick run; with `--json` they don't, since the command on the page must say it all.
"""

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.kit.harness import RESULTS_DIR
from benchmarks.kit.report import write_report
from benchmarks.kit.servers import monolith, sluice

SUBJECTS = {
    "serving": ("serve", "waterfall", "turns", "costs", "rates", "frame_rates", "overload", "burst", "laptop"),
    "cluster": ("soak", "autoscaling", "to_zero", "scaling", "parts", "routing", "sizing", "faults", "batch"),
    "hostile": ("fuzz", "siege"),
    "stages": ("handoff", "fetch", "media", "preprocess", "workers", "resize", "sparse", "card"),
    "engine": ("engine", "encoder", "engine_memory", "gpu"),
}
MODULES = {name: f"benchmarks.{subject}.{name}" for subject, names in SUBJECTS.items() for name in names}
BENCHMARKS = tuple(MODULES)
"""In the order of the page."""
LONG = frozenset({*SUBJECTS["cluster"], "sparse", "burst", "laptop", "siege", "gpu", "card"})
"""Not part of `--quick` unless named: they watch something happen over minutes, or need a card."""
SHARING = {"serve": ("url", "against"), "rates": ("url", "against"), "frame_rates": ("url",)}
"""Those that measure servers by their URLs, and by which options they are told."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; default: all, see --quick")
    parser.add_argument("--quick", action="store_true", help=f"short runs, of all but {', '.join(sorted(LONG))}")
    parser.add_argument("--json", action="store_true", help="append the results to benchmarks/results/")
    parser.add_argument("--report", action="store_true", help="run nothing; rewrite README.md from benchmarks/results/")
    if (
        len(sys.argv) > 1 and sys.argv[1] in MODULES and "".join(sys.argv[2:3]).startswith("-")
    ):  # one benchmark with options of its own
        sys.exit(subprocess.run([sys.executable, "-m", MODULES[sys.argv[1]], *sys.argv[2:]], check=False).returncode)
    args = parser.parse_args()
    if unknown := set(args.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if args.report:
        print(write_report(RESULTS_DIR, BENCHMARKS))
        return
    flags = ["--quick"] * args.quick + ["--json"] * args.json
    names = args.names or _present(LONG if args.quick else frozenset())
    started = time.monotonic()
    ended: dict[str, tuple[float, int]] = {}
    if args.quick and not args.json:
        ended |= _run_sharing([name for name in names if name in SHARING], flags)
    ended |= {name: _run(name, flags) for name in names if name not in ended}
    for name, (seconds, status) in ended.items():
        print(f"{seconds:6.0f} s  {name}" + (f": exit status {status}" if status else ""))
    print(f"{time.monotonic() - started:6.0f} s  in all")
    if any(status for _, status in ended.values()):
        sys.exit(1)


def _present(left_out: frozenset[str]) -> list[str]:
    return [name for name in BENCHMARKS if name not in left_out and importlib.util.find_spec(MODULES[name])]


def _run_sharing(names: Sequence[str], flags: list[str]) -> dict[str, tuple[float, int]]:
    """Benchmarks that ask the same servers, one after the other; the servers' start and end are in no one's time."""
    ended: dict[str, tuple[float, int]] = {}
    if not names:
        return ended
    with sluice() as ours, monolith() as baseline:
        told = {"url": f"{ours.name}={ours.url}", "against": f"{baseline.name}={baseline.url}"}
        for name in names:
            options = [word for option in SHARING[name] for word in (f"--{option}", told[option])]
            ended[name] = _run(name, [*flags, *options])
    return ended


def _run(name: str, flags: list[str]) -> tuple[float, int]:
    """Seconds that it took, and its exit status."""
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-m", MODULES[name], *flags], check=False)
    seconds = time.monotonic() - started
    print(f"── {name}: {seconds:.0f} s, exit status {ended.returncode} ──\n", flush=True)
    return seconds, ended.returncode


if __name__ == "__main__":
    main()
