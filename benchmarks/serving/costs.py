"""What does an answer cost in CPU time, and in which process? For each kind of request, streamed and not.

    python -m benchmarks costs                                            the working tree, as `sluice serve` starts it
    python -m benchmarks costs --step before=REVISION --step "no HAProxy,RAY_SERVE_ENABLE_HA_PROXY=0" [--users 16]
    python -m benchmarks costs --step apart --step together,placement=together
    python -m benchmarks costs --serve-run                                as `serve run` does

CPU time of every process of the application's tree, less what the tree uses when nobody asks: unlike a latency it
hardly moves when the machine has other things to do. Steps take turns within one run; each is a revision of this
repository (default: the working tree) with variables, which begin with a capital, and settings of its own, so one
command shows what each change was worth.
"""

import argparse
import asyncio
import contextlib
import functools
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import uvloop
import yaml

from benchmarks.kit.harness import Benchmark, in_subprocess
from benchmarks.kit.load.drive import served_model
from benchmarks.kit.load.workload import MIXES, Workload, WorkloadSpec
from benchmarks.kit.processes import cpu_by_process
from benchmarks.kit.servers import ROOT, OwnServer, sluice

QUESTION = "What does an answer cost in CPU time, and in which process?"
USERS = 4
"""Who ask again as soon as they are answered: enough for batches, few enough that nothing waits for admission. Asked to
come back later, they do."""
IDLE_S = 5.0
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request."""

    name: str
    mix: str
    stream: bool


CASES = (
    Case("text", "text", stream=False),
    Case("text, streamed", "text", stream=True),
    Case("picture", "pictures", stream=False),
    Case("four pictures of 720p", "4 x 720p", stream=False),
    Case("clip 360p", "360p", stream=False),
    Case("sound", "sounds", stream=False),
    Case("mixed, streamed", "mixed", stream=True),
)
QUICK_CASES = ("text, streamed", "clip 360p", "mixed, streamed")


@dataclass(frozen=True, slots=True)
class Step:
    """A way to run Sluice."""

    name: str
    revision: str | None
    env: tuple[tuple[str, str], ...]
    args: dict[str, Any] = field(default_factory=dict)
    """Laid over the file's own."""

    @classmethod
    def parse(cls, text: str) -> "Step":
        """`NAME[=REVISION][,VARIABLE=VALUE...][,section.setting=VALUE...]`."""
        head, *settings = text.split(",")
        name, _, revision = head.partition("=")
        pairs = [(variable, value) for variable, _, value in (setting.partition("=") for setting in settings)]
        args: dict[str, Any] = {}
        for path, value in pairs:
            if path[0].islower():
                *sections, setting = path.split(".")
                level = functools.reduce(lambda level, name: level.setdefault(name, {}), sections, args)
                level[setting] = yaml.safe_load(value)
        return cls(name, revision or None, tuple(pair for pair in pairs if not pair[0][0].islower()), args)


@dataclass(frozen=True, slots=True)
class Batch:
    """So many requests of one kind; crosses to the client's process."""

    url: str
    case: Case
    requests: int
    users: int
    first: int
    """Number of the first request: no medium is sent twice to one server."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a batch."""

    e2e_s: tuple[float, ...]
    """To the end of each answer."""
    took_s: float


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("costs", QUESTION, argv, _options)
    steps = [Step.parse(text) for text in bench.args.step] or [Step("as it stands", None, ())]
    names = bench.args.case or (QUICK_CASES if bench.quick else [case.name for case in CASES])
    cases = [case for case in CASES if case.name in names]
    results = {}
    for step in steps:
        launcher = not bench.args.serve_run
        with (
            _source(step.revision) as root,
            sluice(bench.args.model, env=dict(step.env), args=step.args, root=root, launcher=launcher) as server,
        ):
            results[step.name] = measure(bench, server, cases)
        print(_costs(step.name, cases, results), flush=True)
    idle = {name: figures["idle"] for name, figures in results.items()}
    _show_processes(bench, "at idle: CPU ms a second, by process", idle)
    for case in cases:
        used = {name: figures["cases"][case.name]["cpu_s"] for name, figures in results.items()}
        _show_processes(bench, f"{case.name}: CPU ms an answer, by process", used)
    _show_steps(bench, cases, results)
    return bench.finish(_answer(cases, results), {"steps": results})


def measure(bench: Benchmark, server: OwnServer, cases: Sequence[Case]) -> dict[str, Any]:
    """CPU seconds an answer by process, and the latency of one request at a time, of each case."""
    requests = bench.args.requests or (24 if bench.quick else 200)
    users, first = bench.args.users, 0
    for case in cases:
        in_subprocess(send, Batch(server.url, case, users * 3, users, first))
        first += 1000
    assert server.pid is not None
    before = cpu_by_process(server.pid)
    time.sleep(IDLE_S)
    idle = _used_since(before, server.pid)
    rates = {name: seconds / IDLE_S for name, seconds in idle.items()}
    figures: dict[str, Any] = {"idle_cores": sum(rates.values()), "idle": rates, "cases": {}}
    for case in bench.progress(cases, "cases"):
        batch = Batch(server.url, case, requests, users, first)
        before, started = cpu_by_process(server.pid), time.perf_counter()
        together, _ = in_subprocess(send, batch)
        used = _used_since(before, server.pid)
        wall_s = time.perf_counter() - started
        alone, _ = in_subprocess(send, Batch(server.url, case, max(12, requests // 8), 1, first + requests))
        first += 10_000
        figures["cases"][case.name] = {
            "cpu_s": {name: max(0.0, used[name] - rates.get(name, 0.0) * wall_s) / requests for name in used},
            "answered_rate": requests / together.took_s,
            "e2e_s": statistics.median(alone.e2e_s),
        }
    return figures


def send(batch: Batch) -> Sent:
    """Raises RuntimeError for an answer that is none."""
    return uvloop.run(_send(batch))


async def _send(batch: Batch) -> Sent:
    seconds: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        spec = WorkloadSpec(MIXES[batch.case.mix])
        workload = Workload(spec, await served_model(session, batch.url), first=batch.first)
        bodies = [request_body(workload.next().body, stream=batch.case.stream) for _ in range(batch.requests)]

        async def user() -> None:
            while bodies:
                body, started = bodies.pop(), time.perf_counter()
                await _ask(session, batch.url, body)
                seconds.append(time.perf_counter() - started)

        began = time.perf_counter()
        await asyncio.gather(*(user() for _ in range(batch.users)))
        return Sent(tuple(seconds), time.perf_counter() - began)


async def _ask(session: aiohttp.ClientSession, url: str, body: bytes) -> None:
    """Ask until there is an answer, each time after as long as the server says."""
    while True:
        async with session.post(f"{url}/v1/chat/completions", data=body, headers=_JSON) as response:
            text = await response.read()
        if response.status != HTTPStatus.TOO_MANY_REQUESTS:
            break
        await asyncio.sleep(float(response.headers["Retry-After"]))
    if response.status != HTTPStatus.OK or b'"finish_reason":"' not in text:
        raise RuntimeError(f"status {response.status}: {text[:500]!r}")


def request_body(streamed: bytes, *, stream: bool) -> bytes:
    """A workload's body, or the same one asking for an answer in one piece."""
    if stream:
        return streamed
    return streamed.replace(b'"stream": true, ', b"").replace(b', "stream_options": {"include_usage": true}', b"")


def _used_since(before: dict[psutil.Process, float], pid: int) -> dict[str, float]:
    """CPU seconds that the tree of `pid` has used since `before`, by what a process is for."""
    used: defaultdict[str, float] = defaultdict(float)
    for process, seconds in cpu_by_process(pid).items():
        with contextlib.suppress(psutil.Error):
            used[_role(process)] += seconds - before.get(process, 0.0)
    return dict(used)


def _role(process: psutil.Process) -> str:
    title = " ".join(process.cmdline()).strip()
    if "ServeReplica" in title:
        return title.rpartition("#")[0].rpartition(":")[2] or title.rpartition(":")[2]
    return next((role for mark, role in _ROLES.items() if mark in title), "Ray's agents")


_ROLES = {
    "ProxyActor": "proxy",
    "haproxy": "proxy",
    "HAProxy": "proxy",
    "ServeController": "controller",
    "log_monitor": "logs",  # reads what replicas print, for the one that follows
    "ray.serve.scripts": "logs",
    "deployments.cli": "logs",
    "raylet/raylet": "raylet",
    "gcs_server": "raylet",
}
"""By what stands in a command line; the rest is dashboard, metrics and the like."""


@contextlib.contextmanager
def _source(revision: str | None) -> Iterator[Path]:
    """Where the source of `revision` lies."""
    if revision is None:
        yield ROOT
        return
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder:
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def _show_processes(bench: Benchmark, title: str, used: dict[str, dict[str, float]]) -> None:
    """`used`: CPU seconds by step and process."""
    roles = sorted({role for by_role in used.values() for role in by_role}, key=lambda role: -_most(used, role))
    rows = [
        [name, *(by_role.get(role, 0.0) * 1e3 for role in roles), sum(by_role.values()) * 1e3]
        for name, by_role in used.items()
    ]
    note = "; ".join(f"{name}: {_cores(by_role, bench.args.rate)}" for name, by_role in used.items())
    bench.table(title, ["step", *roles, "all"], rows, note)


def _cores(cpu_s: dict[str, float], rate: float) -> str:
    """What so many answers a second take of cores, by extrapolation; the model's own computing is a GPU's elsewhere."""
    cores = {role: seconds * rate for role, seconds in cpu_s.items() if role != "Model"}
    most = max(cores, key=lambda role: cores[role])
    return (
        f"{rate:g} answers a second take {sum(cores.values()):.1f} cores beside the model's replicas, "
        f"most of them {most}: {cores[most]:.1f}"
    )


def _most(used: dict[str, dict[str, float]], role: str) -> float:
    return max(by_role.get(role, 0.0) for by_role in used.values())


def _show_steps(bench: Benchmark, cases: Sequence[Case], results: dict[str, Any]) -> None:
    rows: list[list[object]] = []
    for name, figures in results.items():
        found = [figures["cases"][case.name] for case in cases]
        rows.append([name, *(sum(each["cpu_s"].values()) * 1e3 for each in found), figures["idle_cores"] * 100])
    columns = ["step", *(case.name for case in cases), "% of a core at idle"]
    users = f"{bench.args.users} users; 16 tokens an answer."
    bench.table("CPU ms an answer, all processes", columns, rows, users)
    throughput = [
        [name, *(figures["cases"][case.name]["answered_rate"] for case in cases)] for name, figures in results.items()
    ]
    bench.table("Answers a second", columns[:-1], throughput, users)
    latencies = [
        [name, *(figures["cases"][case.name]["e2e_s"] * 1e3 for case in cases)] for name, figures in results.items()
    ]
    bench.table("One request at a time: ms to the end of the answer, median", columns[:-1], latencies)


def _answer(cases: Sequence[Case], results: dict[str, Any]) -> str:
    return f"CPU time an answer: {'; '.join(_costs(name, cases, results) for name in results)}."


def _costs(name: str, cases: Sequence[Case], results: dict[str, Any]) -> str:
    found = results[name]["cases"]
    costs = (f"{case.name} {sum(found[case.name]['cpu_s'].values()) * 1e3:.0f} ms" for case in cases)
    return f"{name}: {', '.join(costs)}"


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--step", action="append", default=[], metavar="NAME[=REVISION][,VARIABLE=VALUE...]", help="several: in turn"
    )
    parser.add_argument("--case", nargs="+", help=f"of {', '.join(repr(case.name) for case in CASES)}; default: all")
    parser.add_argument("--serve-run", action="store_true", help="start it by `serve run` instead of `sluice serve`")
    parser.add_argument("--requests", type=int, help="of each case")
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--rate", type=float, default=35.0, help="answers a second to tell the cores for")
    parser.add_argument("--model", default="demo", help="`demo` or a local checkpoint")


if __name__ == "__main__":
    main()
