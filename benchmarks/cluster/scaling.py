"""Does twice the replicas give twice the answers? A simulated Ray cluster with one node a replica, in this machine.

    python -m benchmarks scaling [--quick] [--replicas 1 2 3]

Two cores can't show that with stages that compute: one decoder already takes a core. So video decoder and model *wait*
here, each for a set time (`paced.py`), as a stage does whose cores or GPU are its own; all the rest is real and runs on
the cores that there are: HTTP, admission, fetching, preprocessing, routing, hand-offs between nodes, batching. What is
shown is whether the pipeline around the stages scales with them, not how fast a codec or a GPU is.

The cost model: a stage gives replicas x places / seconds, the machine gives cores / (CPU seconds of an answer), and the
pipeline gives the least of them. Cores are those that Ray's idle processes and other programs leave.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from benchmarks.cluster.nodes import start_cluster
from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.arrivals import ClosedLoop
from benchmarks.kit.load.drive import LoadPlan, run_load
from benchmarks.kit.load.workload import WorkloadSpec
from benchmarks.kit.processes import cpu_by_process, others_cpu_s, replicas
from benchmarks.kit.servers import SERVE_CONFIG, START_TIMEOUT_S, OwnServer
from tests.support.overlay import merged

QUESTION = "Does twice the replicas give twice the answers?"
DECODER, MODEL = "VideoDecoder", "Model"
DECODE_PACE_S, DECODE_PLACES = 0.5, 2
STEP_PACE_S, MODEL_PLACES = 0.06, 4
TOKENS = {"clips": 2, "answers": 16}
"""Of an answer: in the load for the decoder, and in the one for the model."""
MIX = {"clips": "64x48@1s=1", "answers": "text"}
IDLE_S = 3.0
SETTLED_S = 3.0
"""Until callers have heard of a replica that has just come up."""
_STORE_BYTES = 120 * 2**20
_ARGS = {
    "model": "demo",
    "device": "cpu",
    "decode_pace_s": DECODE_PACE_S,
    "step_pace_s": STEP_PACE_S,
    "ingress": {"target_ttft_s": 60, "max_wait_s": 60},
    "decoder": {"workers": DECODE_PLACES},
    "engine": {"max_running": MODEL_PLACES, "max_context_tokens": 1024, "threads": 1, "target_itl_s": 60.0},
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("scaling", QUESTION, argv, _options)
    counts = sorted(set(bench.args.replicas))
    runs: dict[int, dict[str, Any]] = {}
    with SimulatedCluster(max(counts)) as cluster:
        for number, count in enumerate(bench.progress(counts, "replicas")):
            with cluster.sluice(count) as server:
                cluster.wait_for(count, server)
                runs[count] = {load: _measure(bench, cluster, server, load, count, number) for load in MIX}
    for load, stage in (("clips", DECODER), ("answers", MODEL)):
        _show(bench, load, stage, {count: run[load] for count, run in runs.items()})
    return bench.finish(_answer(runs), {"runs": runs})


class SimulatedCluster:
    """A head for what needs no node of its own, and for each replica of the two stages a node."""

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas

    def __enter__(self) -> "SimulatedCluster":
        self._folder = Path(tempfile.mkdtemp(prefix="sc-", dir="/tmp"))  # sockets below it need a short path
        store = {"object_store_memory": _STORE_BYTES}
        self._cluster = start_cluster(self._folder, num_cpus=4, object_store_bytes=_STORE_BYTES)
        for _ in range(self._replicas):
            # The second CPU is for stages without a node of their own: Ray may put them here, and a replica takes one.
            self._cluster.add_node(num_cpus=2, resources={"media": 1}, wait=False, **store)
            self._cluster.add_node(num_cpus=2, resources={"model": 1}, wait=False, **store)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._cluster.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    def sluice(self, replicas: int, ingresses: int = 1, args: Mapping[str, Any] | None = None) -> OwnServer:
        """The paced application with so many decoders and as many models; `args` are laid over its own."""

        return self.serving(lambda port: paced_config(port, replicas, ingresses, args or {}))

    def serving(self, config: Callable[[int], dict[str, Any]]) -> OwnServer:
        """An application by its config file, which `config(port)` tells."""

        def command(port: int, folder: Path) -> list[str]:
            path = folder / "serve_config.yaml"
            path.write_text(yaml.safe_dump(config(port), sort_keys=False), encoding="utf-8")
            return [sys.executable, "-m", "ray.serve.scripts", "run", "--address", self._cluster.address, str(path)]

        return OwnServer("Sluice, paced", command, "/ready", {})

    def wait_for(self, count: int, server: OwnServer) -> None:
        """Until all replicas of both stages take requests: the application is ready with one of each."""
        give_up = time.monotonic() + START_TIMEOUT_S
        while any(len(replicas(os.getpid(), stage)) != count for stage in (DECODER, MODEL)):
            if time.monotonic() > give_up:
                raise RuntimeError(f"not all replicas came up:\n{server.log.read_text()[-3000:]}")
            time.sleep(0.5)
        time.sleep(SETTLED_S)

    def used(self, work: Callable[[], object]) -> "Used":
        """While `work()` is done, which is not counted itself."""
        began, cluster_s, others_s = time.perf_counter(), self._cpu_s(), others_cpu_s()
        work()
        seconds = time.perf_counter() - began
        return Used(seconds, self._cpu_s() - cluster_s, max(0.0, others_cpu_s() - others_s))

    @staticmethod
    def _cpu_s() -> float:
        """CPU time so far of all processes of the cluster: they descend from this one."""
        return sum(seconds for process, seconds in cpu_by_process(os.getpid()).items() if process.pid != os.getpid())


@dataclass(frozen=True, slots=True)
class Used:
    """CPU seconds."""

    wall_s: float
    cluster_s: float
    others_s: float


def paced_config(port: int, replicas: int, ingresses: int, args: Mapping[str, Any]) -> dict[str, Any]:
    """The shipped file with `paced.build` in place of its builder."""
    settings: dict[str, Any] = yaml.safe_load(SERVE_CONFIG.read_text(encoding="utf-8"))
    settings["http_options"]["port"] = port
    application = settings["applications"][0]
    application["import_path"] = "benchmarks.cluster.paced:build"
    application["args"] = merged(merged(application["args"], _ARGS), args)
    places = {DECODER: {"num_cpus": 1, "resources": {"media": 1}}, MODEL: {"num_cpus": 1, "resources": {"model": 1}}}
    for entry in application["deployments"]:
        entry.pop("autoscaling_config", None)
        counts = {DECODER: replicas, MODEL: replicas, "Ingress": ingresses}
        entry["num_replicas"] = counts.get(entry["name"], 1)
        entry["ray_actor_options"] = places.get(entry["name"], {"num_cpus": 0.1})
        if entry["name"] == DECODER:
            entry["max_ongoing_requests"] = 3 * DECODE_PLACES  # the next ones are at hand when a place is free
    return settings


def _measure(
    bench: Benchmark, cluster: SimulatedCluster, server: OwnServer, load: str, replicas: int, number: int
) -> dict[str, Any]:
    """Answers a second of users who never pause, and the CPU seconds of one answer."""
    places = replicas * (DECODE_PLACES if load == "clips" else MODEL_PLACES)

    def run(duration_s: float, first: int) -> dict[str, Any]:
        workload = WorkloadSpec(mix=MIX[load], seed=bench.seed, max_tokens=TOKENS[load])
        arrivals = ClosedLoop(2 * places, duration_s)
        return run_load(LoadPlan(server.url, arrivals, workload, timeout_s=60, first_request=first, label=load))

    run(2.0, number * 1_000_000)
    idle = cluster.used(lambda: time.sleep(IDLE_S))
    figures: dict[str, Any] = {}
    used = cluster.used(lambda: figures.update(run(6.0 if bench.quick else 12.0, number * 1_000_000 + 500_000)))
    verdicts, idle_cores = figures["verdicts"], idle.cluster_s / idle.wall_s
    for_answers_s = used.cluster_s - idle_cores * used.wall_s + figures["client_cpu_s"]
    answer_s = max(1e-3, for_answers_s / max(1, verdicts["answered"]))
    free_cores = len(os.sched_getaffinity(0)) - idle_cores - used.others_s / used.wall_s
    return {
        "rate": figures["answered_rate"],
        "verdicts": verdicts,
        "cpu_s": answer_s,
        "free_cores": free_cores,
        "stage_rate": stage_rate(load, replicas),
        "cores_rate": max(0.0, free_cores) / answer_s,
    }


def stage_rate(load: str, replicas: int) -> float:
    """What the cost model says of the paced stage alone, in answers a second."""
    if load == "clips":
        return replicas * DECODE_PLACES / DECODE_PACE_S
    return replicas * MODEL_PLACES / (TOKENS[load] * STEP_PACE_S)


def _show(bench: Benchmark, load: str, stage: str, runs: dict[int, dict[str, Any]]) -> None:
    cores = len(os.sched_getaffinity(0))
    first = next(iter(runs.values()))
    rows, predicted = [], []
    for count, run in runs.items():
        ceiling = run["cores_rate"]
        predicted.append(min(run["stage_rate"], ceiling))
        lost = sum(run["verdicts"].values()) - run["verdicts"]["answered"]
        share = run["rate"] / predicted[-1]
        speedup = run["rate"] / first["rate"]
        cpu_ms = run["cpu_s"] * 1e3
        rows.append([count, run["rate"], speedup, run["stage_rate"], ceiling, share, cpu_ms, run["free_cores"], lost])
    columns = ["replicas", "answers/s", "times the first", "the stage's", "the cores'", "of the lesser", "CPU ms each"]
    place = f"{DECODE_PLACES} places, {DECODE_PACE_S:g} s a clip"
    if load == "answers":
        place = f"{MODEL_PLACES} places, {STEP_PACE_S:g} s a step, {TOKENS[load]} tokens"
    note = f"{stage} waits instead of working: {place}. {cores} cores for everything else, the load generator included."
    bench.table(f"Replicas of {stage}", [*columns, "free cores", "not answered"], rows, note)
    series = {"measured": [run["rate"] for run in runs.values()], "cost model": predicted}
    bench.plot("lines", f"Replicas of {stage}", list(runs), series, x_label="replicas", y_label="answers /s")


def _answer(runs: dict[int, dict[str, Any]]) -> str:
    least, most = min(runs), max(runs)
    parts = []
    for load, stage in (("clips", DECODER), ("answers", MODEL)):
        rates = runs[least][load]["rate"], runs[most][load]["rate"]
        share = rates[1] / runs[most][load]["stage_rate"]
        ceiling = runs[most][load]["cores_rate"]
        parts.append(
            f"{stage}: {rates[0]:.1f} to {rates[1]:.1f} answers/s ({share:.0%} of what the stage can give; this"
            f" machine's cores give {ceiling:.0f})"
        )
    return f"From {least} to {most} replicas of stages that wait instead of working: {'; '.join(parts)}."


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--replicas", nargs="+", type=int, default=[1, 2], help="of the decoder and of the model")


if __name__ == "__main__":
    main()
