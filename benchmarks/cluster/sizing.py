"""How many CPUs for media does one GPU replica need, at which mix? A simulation fed with measured costs.

    python -m benchmarks sizing --measure                   measure the stages' costs here, and check the simulation
    python -m benchmarks sizing                             the table, from the costs measured last, if there are any
    python -m benchmarks sizing --prefill-rate 40000 --step-ms 6 --max-running 128      another GPU

The CPU time of fetching, decoding and preprocessing one item is measured on the running application, hand-offs
included, and kept in `measured_costs.json`. The GPU is given by four figures: tokens that it encodes and prefills a
second, milliseconds of a decode step, how many answers it decodes together, and tokens of an answer. They are
assumptions until someone measures theirs (`python -m benchmarks gpu`). `--readme FILE` writes the table into a page.

The check: on this machine, where everything shares the cores, users who never pause are simulated with the measured
costs and then let loose on the real application; the two rates should agree. For that the model is a cost in CPU time
like all others, and so are the load generator and what Ray's processes use when nobody asks.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from benchmarks.cluster.pipeline_sim import MEDIA_STAGES, KindCosts, ModelCosts, Pipeline, cpus_needed
from benchmarks.kit.harness import Benchmark, in_subprocess, markdown_table
from benchmarks.kit.load.arrivals import ClosedLoop
from benchmarks.kit.load.drive import LoadPlan, run_load
from benchmarks.kit.load.workload import MIXES, Workload, WorkloadSpec
from benchmarks.kit.processes import cpu_s, others_cpu_s
from benchmarks.kit.servers import OwnServer, sluice
from benchmarks.serving import costs

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
CHECKED = {"40 text, 30 pictures, 30 clips 360p": "mixed", "text only": "text", "clips 1080p": "1080p"}
"""Mixes of the table that are also asked of the real application, and their names in `load.workload`."""
CHECK_TOKENS = 16
_MEDIA_PROCESSES = {"MediaFetcher": "fetch", "VideoDecoder": "decode", "Preprocessor": "preprocess"}
_UNHURRIED = {"ingress": {"target_ttft_s": 60, "max_wait_s": 60}}
"""Admission lets all users of the check in: the simulation knows no refusals."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("sizing", QUESTION, argv, _options)
    real: dict[str, dict[str, Any]] = {}
    if bench.args.measure or not bench.args.costs.exists():
        with sluice(args=_UNHURRIED) as server:
            measured = measure(bench, server)
            for number, (mix, asked) in enumerate(CHECKED.items()):
                real[mix] = real_run(bench, server, asked, first=900_000_000 + 1_000_000 * number)
        bench.args.costs.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    measured = json.loads(bench.args.costs.read_text(encoding="utf-8"))
    _show_costs(bench, measured)
    check = {
        mix: {"real": found, "simulated": simulate_here(bench, measured, mix, found)} for mix, found in real.items()
    }
    if check:
        _show_check(bench, measured, check)
    rows = _table(bench, measured)
    return bench.finish(_answer(rows, check), {"measured": measured, "mixes": rows, "check": check})


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def measure(bench: Benchmark, server: OwnServer) -> dict[str, Any]:
    """CPU seconds of one streamed answer by process, and of the model's own work, by kind.

    All from the processes' CPU time, which hardly moves when a core has other things to do; only how a text's few
    milliseconds in the model divide into prefill and decode is read from the clock, with one user.
    """
    figures = costs.measure(bench, server, [costs.Case(name, mix, stream=True) for name, mix in KINDS.items()])
    by_kind = {name: figures["cases"][name]["cpu_s"] for name in KINDS}
    text_prefill_s, _ = in_subprocess(_prefill_s, server.url, 12)
    decode_s = max(0.0, by_kind["text"]["Model"] - text_prefill_s)
    kinds = {}
    for name, by_process in by_kind.items():
        media = {stage: by_process.get(process, 0.0) for process, stage in _MEDIA_PROCESSES.items()}
        rest_s = sum(by_process.values()) - sum(media.values()) - by_process["Model"]
        prefill_s = max(0.0, by_process["Model"] - decode_s)
        kinds[name] = {"media_cpu_s": media, "prefill_s": prefill_s, "front_cpu_s": rest_s}
    return {"kinds": kinds, "token_s": decode_s / CHECK_TOKENS, "idle_cores": figures["idle_cores"]}


def _prefill_s(url: str, requests: int) -> float:
    """Median of a text's time in the model up to its first token, with one user."""
    return uvloop.run(_ask_for_prefill(url, requests))


async def _ask_for_prefill(url: str, requests: int) -> float:
    workload = Workload(WorkloadSpec(MIXES["text"]), "demo", first=10_000_000)
    times = []
    async with aiohttp.ClientSession() as session:
        for _ in range(requests):
            body = costs.request_body(workload.next().body, stream=False)
            async with session.post(f"{url}/v1/chat/completions", data=body) as response:
                response.raise_for_status()
                times.append((await response.json())["usage"]["sluice_timing_ms"]["prefill"] / 1e3)
    return statistics.median(times)


def real_run(bench: Benchmark, server: OwnServer, mix: str, first: int) -> dict[str, Any]:
    """Users who never pause, on the real application; and how much of the cores others had meanwhile."""
    plan = LoadPlan(
        url=server.url,
        arrivals=ClosedLoop(bench.args.users, 6.0 if bench.quick else 15.0),
        workload=WorkloadSpec(mix=mix, seed=bench.seed, max_tokens=CHECK_TOKENS),
        first_request=first,
        label=mix,
    )
    assert server.pid is not None
    began, others_s, server_s = time.perf_counter(), others_cpu_s(), cpu_s(server.pid)
    figures = run_load(plan)
    seconds = time.perf_counter() - began
    answered = max(1, figures["verdicts"]["answered"])
    return {
        "rate": figures["answered_rate"],
        "latency_s": figures["e2e_s"]["p50"],
        "verdicts": figures["verdicts"],
        "client_cpu_s": figures["client_cpu_s"] / answered,
        "server_cpu_s": (cpu_s(server.pid) - server_s) / answered,
        "others_cores": max(0.0, others_cpu_s() - others_s) / seconds,
        "seconds": seconds,
    }


def simulate_here(bench: Benchmark, measured: dict[str, Any], mix: str, real: dict[str, Any]) -> dict[str, float]:
    """The same users, simulated, with everything on the cores that the others left; the real rate is not known here."""
    cores = bench.args.cores or len(os.sched_getaffinity(0))
    slower = cores / (cores - measured["idle_cores"] - real["others_cores"])  # those take their part at any rate
    kinds = {name: _plus(kind, real["client_cpu_s"], slower) for name, kind in _kinds(measured).items()}
    model = ModelCosts(0.0, measured["token_s"] * slower, max_running=16, tokens=CHECK_TOKENS)
    run = Pipeline(kinds, model, TABLE_MIXES[mix], cpus=cores, users=bench.args.users, shared_cpus=True)
    outcome = run.run(2000, 200)
    return {"rate": outcome.rate, "latency_s": outcome.latency_s, "cores": cores, "cpu_s": _cpu_s(measured, mix)}


def _cpu_s(measured: dict[str, Any], mix: str) -> float:
    """Of the server, for a mean answer."""
    return sum(
        share
        * (sum(kind.media_cpu_s.values()) + kind.prefill_s + kind.front_cpu_s + CHECK_TOKENS * measured["token_s"])
        for name, share in TABLE_MIXES[mix].items()
        for kind in [_kinds(measured)[name]]
    )


def _plus(kind: KindCosts, client_cpu_s: float, slower: float) -> KindCosts:
    return KindCosts(
        media_cpu_s={stage: seconds * slower for stage, seconds in kind.media_cpu_s.items()},
        prefill_s=kind.prefill_s * slower,
        front_cpu_s=(kind.front_cpu_s + client_cpu_s) * slower,
    )


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
        cpu_s["rest"] = sum(share * kinds[kind].front_cpu_s for kind, share in mix.items())
        by_stage = {stage: seconds * plenty.rate for stage, seconds in cpu_s.items()}
        rows.append({"mix": name, "rate": plenty.rate, "by_stage": by_stage, "cpus": cpus, "with": with_them.rate})
    columns = ["mix", "answers/s of the GPU", "fetch CPUs", "decode CPUs", "preprocess CPUs", "CPUs for 95 %", "rest"]
    shown = [
        [
            row["mix"],
            row["rate"],
            *(row["by_stage"][stage] for stage in MEDIA_STAGES),
            row["cpus"],
            row["by_stage"]["rest"],
        ]
        for row in rows
    ]
    note = (
        f"A GPU that encodes and prefills {args.prefill_rate:,.0f} tokens/s and takes {args.step_ms:g} +"
        f" {args.step_ms_per_sequence:g} n ms for a decode step of n answers, at most {args.max_running}, of"
        f" {args.tokens} tokens each: assumed, not measured. CPU costs of this machine's cores, as measured; clips of"
        " 5 s, H.264. By stage: CPUs kept busy when the GPU is; then the media CPUs with which it gives 95 % of its"
        " rate; rest: CPUs kept busy by proxies, ingress and Ray itself, on other nodes."
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
    columns = ["", "fetch", "decode", "preprocess", "proxy, ingress, Ray"]
    bench.table("Measured: CPU ms of one streamed answer", columns, rows, "Of the whole processes, hand-offs included.")


def _show_check(bench: Benchmark, measured: dict[str, Any], check: dict[str, Any]) -> None:
    rows = []
    for mix, found in check.items():
        simulated, real = found["simulated"], found["real"]
        idle_s = measured["idle_cores"] * real["seconds"] / max(1, real["verdicts"]["answered"])
        rates = [simulated["rate"], real["rate"], simulated["rate"] / real["rate"]]
        costs_ms = [simulated["cpu_s"] * 1e3, (real["server_cpu_s"] - idle_s) * 1e3]
        rows.append([mix, *rates, *costs_ms, simulated["latency_s"], real["latency_s"], real["others_cores"]])
    cores = next(iter(check.values()))["simulated"]["cores"]
    note = (
        f"{bench.args.users} users on {cores} cores shared by everything, the load generator included. Last: cores that"
        " were busy with what has nothing to do with it; the simulation has the rest."
    )
    columns = ["mix", "simulated, answers/s", "real", "simulated / real", "CPU ms an answer, by kinds", "real, CPU ms"]
    bench.table(
        "The simulation against real runs", [*columns, "simulated, s, p50", "real, s", "others' cores"], rows, note
    )


def _answer(rows: list[dict[str, Any]], check: dict[str, Any]) -> str:
    needs = ", ".join(f"{row['mix']}: {row['cpus']}" for row in rows)
    held = ""
    if check:
        pairs = (
            f"{found['simulated']['rate']:.1f} for {found['real']['rate']:.1f} ({mix})" for mix, found in check.items()
        )
        held = f" On this machine the simulation says, of real answers/s: {', '.join(pairs)}."
    return f"CPUs for media per GPU replica (GPU assumed, CPU costs measured): {needs}.{held}"


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--measure", action="store_true", help="measure the costs on the application, started here")
    parser.add_argument("--costs", type=Path, default=MEASURED, help="where the measured costs are kept")
    parser.add_argument("--requests", type=int, default=60, help="of each kind, while measuring")
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
