"""What every benchmark shares: header, options, progress bars, fair comparisons, tables, and the JSON line at the end.

    def main(argv: Sequence[str] | None = None) -> None:
        bench = Benchmark("fetch", "How fast are data: URLs decoded?", argv)
        rounds = 3 if bench.quick else 9
        timings = compare({"ours": ours, "usual way": theirs}, rounds=rounds)
        bench.table("10 MB", ["contender", "wall ms", "CPU ms"],
                    [[name, t.wall_ms, t.cpu_ms] for name, t in timings.items()])
        bench.plot("bars", "10 MB", x=list(timings), series={"wall ms": [t.wall_ms for t in timings.values()]})
        bench.finish(f"Ours takes {timings['ours'].wall_ms:.1f} ms.", {"wall_ms": timings["ours"].wall_ms})

    if __name__ == "__main__":
        main()

Every benchmark takes `--quick`, `--seed N` and `--json [FILE]`; `python -m benchmarks --report` makes README.md of the
lines in `results/`. The last line printed is `{"benchmark", "question", "answer", "machine", "versions", "command",
"seed", "quick", "date", "seconds", "tables", "plots", "results"}`. Times are seconds unless a name says otherwise.
"""

import argparse
import datetime
import faulthandler
import json
import multiprocessing
import os
import platform
import resource
import shlex
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

from tqdm import tqdm

T = TypeVar("T")
RESULTS_DIR = Path(__file__).parent.parent / "results"
_PACKAGES = ("ray", "torch", "transformers", "av", "opencv-python", "numpy", "pillow", "aiohttp", "vllm")


class Benchmark:
    """One run of one benchmark: prints its header at once, collects tables and plots, ends with the JSON line."""

    def __init__(
        self,
        name: str,
        question: str,
        argv: Sequence[str] | None = None,
        options: Callable[[argparse.ArgumentParser], object] | None = None,
    ) -> None:
        """`argv`: None for the command line's own. `options(parser)` adds the benchmark's options; see `self.args`."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=question)
        parser.add_argument("--quick", action="store_true", help="fewer and smaller cases, a minute or two")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument(
            "--json",
            nargs="?",
            type=Path,
            const=RESULTS_DIR / f"{name}.json",
            metavar="FILE",
            help="append the JSON line to FILE (default: benchmarks/results/NAME.json), for --report",
        )
        if options is not None:
            options(parser)
        arguments = list(sys.argv[1:] if argv is None else argv)
        self.args = parser.parse_args(arguments)
        self.quick: bool = self.args.quick
        self.seed: int = self.args.seed
        self.command = shlex.join(["python", "-m", "benchmarks", name, *_without_json(arguments)])
        self._started = time.monotonic()
        self._tables: list[dict[str, Any]] = []
        self._plots: list[dict[str, Any]] = []
        self._header = {
            "benchmark": name,
            "question": question,
            "machine": machine(),
            "versions": versions(),
            "command": self.command,
            "seed": self.seed,
            "quick": self.quick,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }
        # Ended as by ctrl-C, so that servers and processes which were started here end too.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        print(f"# {question}")
        for key in ("command", "machine", "versions", "seed"):
            value = self._header[key]
            print(f"{key}: {json.dumps(value) if isinstance(value, dict) else value}")

    def progress(self, items: Iterable[T], label: str, total: int | None = None) -> Iterable[T]:
        """`items` with a progress bar on stderr."""
        return tqdm(items, desc=label, total=total, disable=None, leave=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> None:
        """Print a Markdown table now and keep it for the page. Floats are shown with three digits."""
        table = {"title": title, "columns": list(columns), "rows": [list(row) for row in rows], "note": note}
        self._tables.append(table)
        print("\n" + markdown_table(table), flush=True)

    def plot(
        self,
        kind: Literal["bars", "stacked", "lines"],
        title: str,
        x: Sequence[object],
        series: Mapping[str, Sequence[float | None]],
        *,
        x_label: str = "",
        y_label: str = "",
        log_x: bool = False,
        log_y: bool = False,
    ) -> None:
        """Keep a plot for the page; each series has one value for each `x`, None where there is none."""
        values = {name: list(numbers) for name, numbers in series.items()}
        labels = {"x_label": x_label, "y_label": y_label, "log_x": log_x, "log_y": log_y}
        self._plots.append({"kind": kind, "title": title, "x": list(x), "series": values, **labels})

    def finish(self, answer: str, results: Mapping[str, Any]) -> dict[str, Any]:
        """Print the JSON line, append it to `--json FILE`, and return it. `answer`: the result in a sentence."""
        took = {"seconds": round(time.monotonic() - self._started)}
        line = (
            self._header
            | took
            | {"answer": answer, "tables": self._tables, "plots": self._plots, "results": dict(results)}
        )
        text = json.dumps(line, default=_plain)
        if self.args.json is not None:
            self.args.json.parent.mkdir(parents=True, exist_ok=True)
            with self.args.json.open("a") as file:
                file.write(text + "\n")
        print(f"\n{answer}\n")
        print(text, flush=True)
        return line


# ── comparisons ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Timing:
    """Wall and CPU seconds of each round of one contender. CPU: all threads, and child processes that have ended."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    @property
    def wall_ms(self) -> float:
        """Median."""
        return statistics.median(self.wall_s) * 1e3

    @property
    def cpu_ms(self) -> float:
        """Median."""
        return statistics.median(self.cpu_s) * 1e3

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median of the wall times: how far to trust the median."""
        return (max(self.wall_s) - min(self.wall_s)) / statistics.median(self.wall_s)


def compare(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int = 9, warmup: int = 1, label: str = "rounds"
) -> dict[str, Timing]:
    """Run all contenders in turn, `rounds` times, after `warmup` turns that don't count.

    Alternating, in an order that is reversed each round: what the machine does meanwhile hits all of them alike.
    """
    names = list(contenders)
    timings = {name: Timing() for name in names}
    for turn in tqdm(range(-warmup, rounds), desc=label, disable=None, leave=False):
        for name in names if turn % 2 == 0 else reversed(names):
            wall, cpu = time.perf_counter(), _cpu_s()
            contenders[name]()
            wall, cpu = time.perf_counter() - wall, _cpu_s() - cpu
            if turn >= 0:
                timings[name].wall_s.append(wall)
                timings[name].cpu_s.append(cpu)
    return timings


def in_subprocess(function: Callable[..., T], *args: object, most_s: float | None = None) -> tuple[T, int]:
    """`function(*args)` in a fresh interpreter: its result and the process's peak resident memory in bytes.

    `function` and `args` are pickled, so it is a function of a module's top level. After `most_s` the process ends
    itself, whatever it does and whether this one is still there, with its threads' tracebacks on standard error; a
    process that ends early is a `BrokenProcessPool`.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        return processes.submit(_with_peak_rss, function, args, most_s).result()


def _with_peak_rss(function: Callable[..., T], args: tuple[object, ...], most_s: float | None) -> tuple[T, int]:
    if most_s is not None:
        faulthandler.dump_traceback_later(most_s, exit=True)
    return function(*args), peak_rss_bytes()


def peak_rss_bytes(pid: int | Literal["self"] = "self") -> int:
    """Peak resident memory of a process since its start. Linux: `ru_maxrss` would inherit the parent's."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no memory of its own")


def _cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


# ── header and tables ────────────────────────────────────────────────────────────────────────────────────────────────


def machine() -> dict[str, object]:
    """What the figures depend on; no name of the machine."""
    described: dict[str, object] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if Path("/dev/nvidiactl").exists():  # importing torch costs seconds that a benchmark without a GPU need not pay
        import torch

        described["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none usable"
    return described


def versions() -> dict[str, str]:
    """Of Python and of the packages that matter, as installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def markdown_table(table: Mapping[str, Any]) -> str:
    """A `Benchmark.table` as Markdown: numbers right-aligned."""
    rows = [[cell(value) for value in row] for row in table["rows"]]
    numeric = [
        all(isinstance(row[i], int | float | None) for row in table["rows"]) for i in range(len(table["columns"]))
    ]
    lines = [f"**{table['title']}**", ""] if table["title"] else []
    lines.append("| " + " | ".join(table["columns"]) + " |")
    lines.append("|" + "|".join("---:" if right else "---" for right in numeric) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    if table.get("note"):
        lines += ["", table["note"]]
    return "\n".join(lines)


def cell(value: object) -> str:
    """One value of a table: floats with three significant digits, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value).replace("|", "\\|")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _without_json(arguments: Sequence[str]) -> list[str]:
    """The command as others will type it: where the line was written is nobody's concern."""
    kept: list[str] = []
    arguments = list(arguments)
    while arguments:
        argument = arguments.pop(0)
        if argument == "--json":
            if arguments and not arguments[0].startswith("-"):
                arguments.pop(0)
        elif not argument.startswith("--json="):
            kept.append(argument)
    return kept


def _plain(value: Any) -> Any:
    """numpy scalars and arrays, paths and the like, for JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
