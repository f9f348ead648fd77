"""How many CPUs for media does one GPU replica need, at which mix? A simulation fed with measured costs.

    python -m benchmarks.sizing --measure                   measure the stages' costs here, and check the simulation
    python -m benchmarks.sizing                             the table, from the costs measured last, if there are any
    python -m benchmarks.sizing --prefill-rate 40000 --step-ms 6 --max-running 128      another GPU

The CPU time of fetching, decoding and preprocessing one item is measured on the running application, hand-offs
included, and kept in `measured_costs.json`. The GPU is given by four figures: tokens that it encodes and prefills a
second, milliseconds of a decode step, how many answers it decodes together, and tokens of an answer. They are
assumptions until someone measures theirs (`python -m benchmarks.gpu`). `--readme FILE` writes the table into a page.

The check: on this machine, where everything shares the cores, users who never pause are simulated with the measured
costs and then let loose on the real application; the two rates should agree.
"""

import argparse
import asyncio
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from benchmarks import costs
from benchmarks.harness import Benchmark, in_subprocess, markdown_table
from benchmarks.load.arrivals import ClosedLoop
from benchmarks.load.drive import LoadPlan, run_load
from benchmarks.load.workload import MIXES, Workload, WorkloadSpec
from benchmarks.pipeline_sim import MEDIA_STAGES, KindCosts, ModelCosts, Pipeline, cpus_needed
from benchmarks.servers import OwnServer, sluice

QUESTION = "How many CPUs for media does one GPU replica need?"
MEASURED = Path(__file__).parent / "measured_costs.json"
BEGIN, END = "<!-- sizing -->\n", "\n<!-- /sizing -->"
KINDS = {"text": "text", "picture": "pictures", "clip 360p": "360p", "clip 1080p": "1080p"}
"""What is measured, and the mix of `load.workload` that asks for it."""
TOKENS = {"text": 40, "picture": 430, "clip 360p": 4_750, "clip 1080p": 12_300}
"""Of a prompt, for a Qwen2.5-VL: a token for each 28 x 28 pixels, of clips 16 pairs of frames with at most 768 each."""
TABLE_MIXES = {
    "text only": {"text": 1.0},
    "40 text, 30 pictures, 30 clips 360p": {"text": 0.4, "picture": 0.3, "clip 360p": 0.3},
    "pictures": {"picture": 1.0},
    "clips 360p": {"clip 360p": 1.0},
    "50 text, 50 clips 1080p": {"text": 0.5, "clip 1080p": 0.5},
    "clips 1080p": {"clip 1080p": 1.0},
}
_MEDIA_PROCESSES = {"MediaFetcher": "fetch", "VideoDecoder": "decode", "Preprocessor": "preprocess"}
_UNHURRIED = {"ingress": {"target_ttft_s": 60, "max_wait_s": 60}}
"""Admission lets all users of the check in: the simulation knows no refusals."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("sizing", QUESTION, argv, _options)
    check = None
    if bench.args.measure or not bench.args.costs.exists():
        with sluice(args=_UNHURRIED) as server:
            measured = measure(bench, server)
            check = real_run(bench, server)
        bench.args.costs.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    measured = json.loads(bench.args.costs.read_text(encoding="utf-8"))
    _show_costs(bench, measured)
    rows = _table(bench, measured)
    results: dict[str, Any] = {"measured": measured, "mixes": rows}
    if check is not None:
        results["check"] = check | {"simulated": simulate_here(bench, measured)}
        _show_check(bench, results["check"])
    return bench.finish(_answer(rows, results.get("check")), results)


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def measure(bench: Benchmark, server: OwnServer) -> dict[str, Any]:
    """CPU seconds of one request by process, and seconds of the model replica, by kind."""
    cases = [costs.Case(name, mix, stream=False) for name, mix in KINDS.items()]
    figures = costs.measure(bench, server, cases)["cases"]
    alone, _ = in_subprocess(_model_times, server.url, 1, 6)
    together, _ = in_subprocess(_model_times, server.url, 8, 32)
    step_s = alone["text"]["step_s"]
    slope_s = max(0.0, together["text"]["step_s"] - step_s) / 7
    kinds = {}
    for name in KINDS:
        by_process = figures[name]["cpu_s"]
        media = {stage: by_process.get(process, 0.0) for process, stage in _MEDIA_PROCESSES.items()}
        model_s = alone[name]["prefill_s"] + 15 * step_s
        rest = sum(by_process.values()) - sum(media.values()) - by_process.get("Model", 0.0)
        beside = max(0.0, by_process.get("Model", 0.0) - model_s)  # the replica's own work around the model
        kinds[name] = {"media_cpu_s": media, "prefill_s": alone[name]["prefill_s"], "front_cpu_s": rest + beside}
    return {"kinds": kinds, "step_s": step_s, "step_per_sequence_s": slope_s}


def _model_times(url: str, users: int, requests: int) -> dict[str, dict[str, float]]:
    """Medians of the time that the model replica spent on a request: {kind: {"prefill_s", "step_s"}}."""
    return uvloop.run(_ask_for_times(url, users, requests))


async def _ask_for_times(url: str, users: int, requests: int) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    async with aiohttp.ClientSession() as session:
        for number, (name, mix) in enumerate(KINDS.items()):
            workload = Workload(WorkloadSpec(MIXES[mix]), "demo", first=10_000_000 * users + 100_000 * number)
            bodies = [costs.request_body(workload.next().body, stream=False) for _ in range(requests)]
            times: list[dict[str, float]] = []

            async def user(bodies: list[bytes] = bodies, times: list[dict[str, float]] = times) -> None:
                while bodies:
                    async with session.post(f"{url}/v1/chat/completions", data=bodies.pop()) as response:
                        response.raise_for_status()
                        times.append((await response.json())["usage"]["sluice_timing_ms"])

            await asyncio.gather(*(user() for _ in range(users)))
            found[name] = {
                "prefill_s": statistics.median(each["encode"] + each["prefill"] for each in times) / 1e3,
                "step_s": statistics.median(each["decode"] for each in times) / 15e3,
            }
    return found


def real_run(bench: Benchmark, server: OwnServer) -> dict[str, Any]:
    """Users who never pause, on the real application."""
    plan = LoadPlan(
        url=server.url,
        arrivals=ClosedLoop(bench.args.users, 8.0 if bench.quick else 20.0),
        workload=WorkloadSpec(mix="mixed", seed=bench.seed, max_tokens=16),
        first_request=900_000_000,
        label="the real thing",
    )
    figures = run_load(plan)
    return {"rate": figures["answered_rate"], "latency_s": figures["e2e_s"]["p50"], "verdicts": figures["verdicts"]}


def simulate_here(bench: Benchmark, measured: dict[str, Any]) -> dict[str, float]:
    """The same users, simulated, with everything on this machine's cores."""
    model = ModelCosts(measured["step_s"], measured["step_per_sequence_s"], max_running=16, tokens=16)
    mix = TABLE_MIXES["40 text, 30 pictures, 30 clips 360p"]
    cores = bench.args.cores or len(os.sched_getaffinity(0))
    run = Pipeline(_kinds(measured), model, mix, cpus=cores, users=bench.args.users, shared_cpus=True)
    outcome = run.run(2000, 200)
    return {"rate": outcome.rate, "latency_s": outcome.latency_s, "cores": cores}


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kinds(measured: dict[str, Any], prefill_rate: float | None = None) -> dict[str, KindCosts]:
    """`prefill_rate`: tokens a second of a GPU in place of the measured model."""
    return {
        name: KindCosts(
            media_cpu_s=found["media_cpu_s"],
            prefill_s=found["prefill_s"] if prefill_rate is None else TOKENS[name] / prefill_rate,
            front_cpu_s=found["front_cpu_s"],
        )
        for name, found in measured["kinds"].items()
    }


def _table(bench: Benchmark, measured: dict[str, Any]) -> list[dict[str, Any]]:
    args = bench.args
    kinds = _kinds(measured, args.prefill_rate)
    model = ModelCosts(args.step_ms / 1e3, args.step_ms_per_sequence / 1e3, args.max_running, args.tokens)
    rows = []
    for name, mix in bench.progress(TABLE_MIXES.items(), "mixes"):
        cpus, with_them, plenty = cpus_needed(kinds, model, mix, share=0.95, answers=400 if bench.quick else 1200)
        cpu_s = {
            stage: sum(share * kinds[kind].media_cpu_s[stage] for kind, share in mix.items()) for stage in MEDIA_STAGES
        }
        by_stage = {stage: seconds * plenty.rate for stage, seconds in cpu_s.items()}
        rows.append({"mix": name, "rate": plenty.rate, "by_stage": by_stage, "cpus": cpus, "with": with_them.rate})
    columns = ["mix", "answers/s of the GPU", "fetch CPUs", "decode CPUs", "preprocess CPUs", "CPUs for 95 %"]
    shown = [[row["mix"], row["rate"], *row["by_stage"].values(), row["cpus"]] for row in rows]
    note = (
        f"A GPU that encodes and prefills {args.prefill_rate:,.0f} tokens/s and takes {args.step_ms:g} +"
        f" {args.step_ms_per_sequence:g} n ms for a decode step of n answers, at most {args.max_running}, of"
        f" {args.tokens} tokens each: assumed, not measured. CPU costs of this machine's cores, as measured; clips of"
        " 5 s, H.264. By stage: CPUs kept busy when the GPU is; last: CPUs with which it gives 95 % of its rate."
    )
    bench.table("CPUs for media, for one GPU replica", columns, shown, note)
    if args.readme is not None:
        _write_into(args.readme, columns, shown, f"{note} (`{bench.command}`)")
    return rows


def _write_into(page: Path, columns: list[str], rows: list[list[Any]], note: str) -> None:
    """Between the marks. Raises ValueError when the page has none."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no {BEGIN.strip()} … {END.strip()} in {page}")
    table = markdown_table({"title": "", "columns": columns, "rows": rows, "note": note})
    page.write_text(f"{before}{begin}{table}{end}{after}", encoding="utf-8")


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────────


def _show_costs(bench: Benchmark, measured: dict[str, Any]) -> None:
    rows = [
        [name, *(found["media_cpu_s"][stage] * 1e3 for stage in MEDIA_STAGES), found["front_cpu_s"] * 1e3]
        for name, found in measured["kinds"].items()
    ]
    columns = ["", "fetch", "decode", "preprocess", "proxy, ingress and around the model"]
    bench.table("Measured: CPU ms of one request", columns, rows, "Of the whole processes, hand-offs included.")


def _show_check(bench: Benchmark, check: dict[str, Any]) -> None:
    found = check["simulated"]
    rows = [["simulated", found["rate"], found["latency_s"]], ["real", check["rate"], check["latency_s"]]]
    note = (
        f"{bench.args.users} users, 40/30/30, on {found['cores']} cores shared by everything; the load generator too."
    )
    bench.table("The simulation against a real run", ["", "answers/s", "latency p50, s"], rows, note)


def _answer(rows: list[dict[str, Any]], check: dict[str, Any] | None) -> str:
    needs = ", ".join(f"{row['mix']}: {row['cpus']}" for row in rows)
    held = ""
    if check is not None:
        held = (
            f" Simulated {check['simulated']['rate']:.1f} answers/s against {check['rate']:.1f} real ones on one point."
        )
    return f"CPUs for media per GPU replica (GPU assumed, CPU costs measured): {needs}.{held}"


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--measure", action="store_true", help="measure the costs on the application, started here")
    parser.add_argument("--costs", type=Path, default=MEASURED, help="where the measured costs are kept")
    parser.add_argument("--requests", type=int, help="of each kind, while measuring")
    parser.add_argument("--users", type=int, default=8, help="of the check")
    parser.add_argument("--cores", type=int, help="of the check; default: all that this process may use")
    parser.add_argument("--prefill-rate", type=float, default=25_000, help="tokens/s, encoding included")
    parser.add_argument("--step-ms", type=float, default=10.0, help="of a decode step")
    parser.add_argument("--step-ms-per-sequence", type=float, default=0.05)
    parser.add_argument("--max-running", type=int, default=64, help="answers decoded together")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--readme", type=Path, help="a page to write the table into, between its marks")


if __name__ == "__main__":
    main()
