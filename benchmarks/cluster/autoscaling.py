"""Does each stage get replicas for its own work, and only for that? Waves of load on one Sluice with short intervals.

    python -m benchmarks autoscaling [--quick] [--scale-by count]

Waves of clips and of prompts, with a calm after each, under the admission that is shipped: what can't be answered in
time is refused, and replicas have to come all the same. The stages are scaled by the work before them; beside it stands
what a plain count of requests, with the shipped file's `target_ongoing_requests`, asks for at the same moments: few
heavy requests look like little to a count, many light ones like much. `--scale-by count` scales by that instead.

All intervals are a fraction of the shipped ones (a window of 2 s instead of 30, a report each half second instead of
10), and replicas are small.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from benchmarks.cluster.scaling_log import Look, read_looks
from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.arrivals import ClosedLoop
from benchmarks.kit.load.drive import LoadPlan, run_load
from benchmarks.kit.load.workload import Workload, WorkloadSpec
from benchmarks.kit.servers import SERVE_CONFIG, OwnServer, sluice
from tests.support.overlay import merged

QUESTION = "Does each stage get replicas for its own work, and only for that?"
DECODER, MODEL = "VideoDecoder", "Model"
MAX_REPLICAS = {DECODER: 3, MODEL: 2}
"""A model replica takes seconds of CPU to start."""
TARGET_REQUESTS = {DECODER: 2, MODEL: 16}
"""Of the count: those of `k8s/overlays/prod`."""
BACK_DOWN_S = 30.0
"""Longest wait for the stages to be back at one replica."""
_ENV = {"RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25"}
_ARGS = {"engine": {"max_running": 12, "max_context_tokens": 4096, "stream_interval_s": 0.5}}
"""Few slots, and few messages: on a core or two, thirty quick streams would leave a new replica no time to start."""


@dataclass(frozen=True, slots=True)
class Wave:
    """Users who ask again as soon as they are answered."""

    name: str
    work_for: str | None
    """The stage that it is heavy for; None: for neither."""
    mix: str
    users: int
    duration_s: float
    words: int = 20
    max_tokens: int = 4


WAVES = (
    Wave("large clips", DECODER, "1080p@5s=1", 6, duration_s=20),
    Wave("many tiny clips", None, "64x48@1s=1", 16, duration_s=8),
    Wave("long answers", MODEL, "text", 16, max_tokens=400, duration_s=40),
    Wave("few long prompts", MODEL, "text", 6, words=1500, duration_s=35),
)
"""New replicas take a while to start on a core that is busy: the heavy waves last until they work."""
QUICK = ("large clips", "long answers")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("autoscaling", QUESTION, argv, _options)
    waves = [wave for wave in WAVES if not bench.quick or wave.name in QUICK]
    for wave in waves:
        Workload(WorkloadSpec(mix=wave.mix, seed=bench.seed), "")  # its media are there before anything is timed
    result = run(bench, bench.args.scale_by, waves)
    _show(bench, result)
    _plot(bench, result)
    return bench.finish(_answer(result), result)


# ── one run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def run(bench: Benchmark, scale_by: Literal["load", "count"], waves: Sequence[Wave]) -> dict[str, Any]:
    """All waves against one application whose stages are scaled by `scale_by`; instants are seconds of the run."""
    with tempfile.TemporaryDirectory(prefix="sa-", dir="/tmp") as folder:
        log = Path(folder) / "looks.jsonl"
        with sluice(config=_config(Path(folder), log, scale_by), args=_ARGS, env=_ENV) as server:
            began = time.time()
            done = []
            for number, wave in enumerate(bench.progress(waves, f"waves, by {scale_by}")):
                start_s = time.time() - began
                figures = run_load(_plan(server, wave, number, bench.seed))
                end_s = time.time() - began
                down_s = _wait_for_calm(log) - began
                times = {"start_s": start_s, "end_s": end_s, "down_s": down_s}
                done.append({"name": wave.name, "work_for": wave.work_for, **times, "load": figures})
        looks = [look for look in read_looks(log) if look.at_s >= began]
    seen = {stage: _series([look for look in looks if look.stage == stage], began) for stage in (DECODER, MODEL)}
    return {"scaled_by": scale_by, "waves": done, "stages": seen}


def _config(folder: Path, log: Path, scale_by: str) -> Path:
    """The shipped file, with small replicas of the two stages, quick to come and go."""
    settings = yaml.safe_load(SERVE_CONFIG.read_text(encoding="utf-8"))
    for entry in settings["applications"][0]["deployments"]:
        if entry["name"] in (DECODER, MODEL):
            entry.pop("num_replicas", None)
            entry["autoscaling_config"] = {
                "min_replicas": 1,
                "max_replicas": MAX_REPLICAS[entry["name"]],
                "target_ongoing_requests": TARGET_REQUESTS[entry["name"]],
                "metrics_interval_s": 0.5,
                "look_back_period_s": 2.0,
                "upscale_delay_s": 1.0,
                "downscale_delay_s": 3.0,
                "policy": {
                    "policy_function": "benchmarks.cluster.scaling_log:Logged",
                    "policy_kwargs": {"path": str(log), "scale_by": scale_by},
                },
            }
        else:
            entry.pop("autoscaling_config", None)
        entry["ray_actor_options"] = {"num_cpus": 0.1}
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(merged(settings, {}), sort_keys=False), encoding="utf-8")
    return path


def _plan(server: OwnServer, wave: Wave, number: int, seed: int) -> LoadPlan:
    return LoadPlan(
        url=server.url,
        arrivals=ClosedLoop(wave.users, wave.duration_s),
        workload=WorkloadSpec(mix=wave.mix, seed=seed, max_tokens=wave.max_tokens, text_words=wave.words),
        timeout_s=300.0,
        first_request=number * 1_000_000,
        label=wave.name,
    )


def _wait_for_calm(log: Path) -> float:
    """Until both stages have one replica again; the moment at which that was so."""
    give_up = time.time() + BACK_DOWN_S
    while time.time() < give_up:
        time.sleep(0.5)
        latest = {look.stage: look for look in read_looks(log)}
        if all(look.replicas == look.target == 1 and not look.requests for look in latest.values()):
            break
    return time.time()


def _series(looks: Sequence[Look], began: float) -> dict[str, list[float | None]]:
    """One look a second."""
    by_second = {round(look.at_s - began): look for look in looks}
    kept = [by_second[second] for second in sorted(by_second)]
    return {
        "second": sorted(by_second),
        "replicas": [look.replicas for look in kept],
        "queued": [look.queued for look in kept],
        "requests": [look.requests for look in kept],
        "load": [look.load for look in kept],
        "by_load": [look.by_load for look in kept],
        "by_count": [look.by_count for look in kept],
    }


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────────


def _show(bench: Benchmark, result: dict[str, Any]) -> None:
    rows: list[list[object]] = []
    for wave in result["waves"]:
        figures, verdicts = wave["load"], wave["load"]["verdicts"]
        unheard = figures["sent"] - verdicts["answered"] - verdicts["refused"]
        row: list[object] = [wave["name"], verdicts["answered"], verdicts["refused"], unheard]
        for stage in (DECODER, MODEL):
            peaks = _peaks(result, stage, wave)
            row += [peaks["requests"], peaks["load"], peaks["by_load"], peaks["by_count"], peaks["replicas"]]
        rows.append([*row, wave["down_s"] - wave["end_s"]])
    per_stage = [
        f"{short}: {what}"
        for short in ("decoder", "model")
        for what in ("requests", "load", "wanted by load", "wanted by count", "replicas")
    ]
    note = (
        f"Highest values of a wave and of the calm after it; at most {MAX_REPLICAS[DECODER]} decoders and"
        f" {MAX_REPLICAS[MODEL]} models may run. Refused: with 429 or 503 and the reason; lost: everything else that is"
        f" no answer. Targets of the count: {TARGET_REQUESTS[DECODER]} and {TARGET_REQUESTS[MODEL]} requests. Last:"
        " seconds from the wave's last answer until both stages were back at one replica."
    )
    columns = ["wave", "answered", "refused", "lost", *per_stage, "back down after"]
    bench.table(f"Stages scaled by {result['scaled_by']}", columns, rows, note)


def _peaks(result: dict[str, Any], stage: str, wave: dict[str, Any]) -> dict[str, float]:
    seen = result["stages"][stage]
    within = [place for place, second in enumerate(seen["second"]) if wave["start_s"] <= second <= wave["down_s"]]
    names = ("requests", "load", "by_load", "by_count", "replicas")
    return {name: max((seen[name][place] or 0 for place in within), default=0) for name in names}


def _plot(bench: Benchmark, result: dict[str, Any]) -> None:
    waves = ", ".join(f"{wave['name']} at {wave['start_s']:.0f}" for wave in result["waves"])
    for stage in (DECODER, MODEL):
        seen = result["stages"][stage]
        series = {
            "replicas": seen["replicas"],
            "wanted by load": seen["by_load"],
            "wanted by count": seen["by_count"],
        }
        labels = {"x_label": f"seconds; {waves}", "y_label": "replicas"}
        bench.plot("lines", f"{stage}, scaled by {result['scaled_by']}", seen["second"], series, **labels)


def _answer(result: dict[str, Any]) -> str:
    told = [_told(result, wave) for wave in result["waves"]]
    sent = sum(wave["load"]["sent"] for wave in result["waves"])
    answered, refused = (
        sum(wave["load"]["verdicts"][verdict] for wave in result["waves"]) for verdict in ("answered", "refused")
    )
    slowest = max(wave["down_s"] - wave["end_s"] for wave in result["waves"])
    back = "not all replicas went" if slowest >= BACK_DOWN_S else f"within {slowest:.0f} s all replicas went"
    return (
        f"Most replicas of decoder + model, by {result['scaled_by']}: {'; '.join(told)}. Of {sent} requests"
        f" {answered} were answered, {refused} refused with a reason, {sent - answered - refused} lost; after each wave"
        f" {back} back to one."
    )


def _told(result: dict[str, Any], wave: dict[str, Any]) -> str:
    peaks = {stage: _peaks(result, stage, wave) for stage in (DECODER, MODEL)}
    ran = " + ".join(f"{found['replicas']:g}" for found in peaks.values())
    other = "count" if result["scaled_by"] == "load" else "load"
    wanted = " + ".join(f"{min(max(found[f'by_{other}'], 1), MAX_REPLICAS[stage]):g}" for stage, found in peaks.items())
    return f"{wave['name']} {ran} (by {other}: {wanted})"


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale-by", choices=("load", "count"), default="load", help="what decides")


if __name__ == "__main__":
    main()
