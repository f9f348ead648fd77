"""Does a batch fill the busiest stage without harm to those who wait for their answers, and survive deaths?

    python -m benchmarks batch [--quick] [--requests 10000]

On the simulated cluster of `scaling`: video decoders of two places each wait instead of working, so that the time a
clip takes there is known, and with it how busy the places are: clips x seconds / places. First interactive users alone,
then beside a batch of clips; half through it the ingress replica that works on the batch is killed, and a decoder. In
the end each line of the input must have been answered once.
"""

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil

from benchmarks.cluster.scaling import DECODE_PLACES, DECODER, SimulatedCluster
from benchmarks.kit.harness import Benchmark
from benchmarks.kit.load.arrivals import OpenLoop
from benchmarks.kit.load.drive import LoadPlan, run_load
from benchmarks.kit.load.workload import Workload, WorkloadSpec
from benchmarks.kit.processes import replicas
from benchmarks.kit.servers import OwnServer

QUESTION = "Does a batch fill the busiest stage beside interactive users, and survive deaths?"
PACE_S = 1.0
MIXES = {"text": "text", "clips": "64x48@1s=1"}
"""Of interactive users: those who have nothing to do with the stage that the batch fills, and those who share it."""
POLL_S = 0.5
_ENDED = ("completed", "failed", "expired", "cancelled")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    bench = Benchmark("batch", QUESTION, argv, _options)
    count = bench.args.requests or (300 if bench.quick else 10_000)
    with tempfile.TemporaryDirectory() as folder, SimulatedCluster(bench.args.replicas) as cluster:
        args = {"decode_pace_s": PACE_S, "ingress": {"batch_folder": folder}}
        with cluster.sluice(bench.args.replicas, ingresses=2, args=args) as server:
            cluster.wait_for(bench.args.replicas, server)
            run = Run(bench, server, Path(folder), count)
            run.interactive("text", 2.0)  # a warm-up
            alone = {mix: run.interactive(mix, bench.args.seconds) for mix in MIXES}
            batch = run.batch()
    _show(bench, alone, batch)
    return bench.finish(_answer(alone, batch, count), {"alone": alone, **batch})


class Run:
    """Load on one server."""

    def __init__(self, bench: Benchmark, server: OwnServer, folder: Path, count: int) -> None:
        self._bench, self._server, self._folder, self._count = bench, server, folder, count
        self._first = 10_000_000

    def interactive(self, mix: str, seconds: float) -> dict[str, Any]:
        self._first += 1_000_000
        workload = WorkloadSpec(mix=MIXES[mix], seed=self._bench.seed, max_tokens=2)
        rate = self._bench.args.rate if mix == "text" else self._bench.args.rate / 4
        plan = LoadPlan(self._server.url, OpenLoop(rate, seconds), workload, 60, first_request=self._first, label=mix)
        return run_load(plan)

    def batch(self) -> dict[str, Any]:
        """Begin it, look at it, harm it at its half, and count what is there in the end."""
        with openai.OpenAI(base_url=f"{self._server.url}/v1", api_key="none", max_retries=20) as client:
            file = client.files.create(file=("in.jsonl", io.BytesIO(self._lines())), purpose="batch")
            begun = client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            with ThreadPoolExecutor(1) as thread:
                beside = thread.submit(self._beside)
                looks = self._watch(client, begun.id, 0.5)
            interactive = beside.result()
            killed = self._kill()
            self._watch(client, begun.id, 1.0)
            ended = client.batches.retrieve(begun.id)
            answered = Counter(_names(client, ended.output_file_id))
            failed = Counter(_names(client, ended.error_file_id))
        wanted = {str(number) for number in range(self._count)}
        return {
            "beside": interactive,
            "busy": _busy(looks, self._bench.args.replicas),
            "killed": killed,
            "status": ended.status,
            "answered": len(answered),
            "failed": len(failed),
            "lost": len(wanted - set(answered) - set(failed)),
            "twice": sum(times > 1 for times in (answered + failed).values()),
        }

    def _beside(self) -> dict[str, Any]:
        time.sleep(5.0)  # until the batch is under way
        return {mix: self.interactive(mix, self._bench.args.seconds) for mix in MIXES}

    def _lines(self) -> bytes:
        workload = Workload(WorkloadSpec(mix=MIXES["clips"], seed=self._bench.seed, max_tokens=2), "demo")
        lines = []
        for number in range(self._count):
            body = json.loads(workload.next().body)
            body = {name: value for name, value in body.items() if not name.startswith("stream")}
            line = {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body}
            lines.append(json.dumps(line).encode())
        return b"\n".join(lines)

    def _watch(self, client: openai.OpenAI, batch_id: str, until: float) -> list[tuple[float, int]]:
        """(seconds, lines done) until this share of the lines is done, or the batch has ended."""
        looks: list[tuple[float, int]] = []
        while True:
            batch = client.batches.retrieve(batch_id)
            done = batch.request_counts.completed + batch.request_counts.failed
            looks.append((time.perf_counter(), done))
            if batch.status in _ENDED or (until < 1.0 and done >= until * self._count):
                return looks
            time.sleep(POLL_S)

    def _kill(self) -> list[str]:
        """The ingress that holds the batch, and a decoder."""
        ours = [process for process in replicas(os.getpid(), "Ingress") if _holds(process, self._folder)]
        chosen = [*ours[:1], *replicas(os.getpid(), DECODER)[:1]]
        for process in chosen:
            process.kill()
        psutil.wait_procs(chosen, timeout=10)
        return ["Ingress"] * len(ours[:1]) + [DECODER]


def _holds(process: psutil.Process, folder: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(file.path.startswith(str(folder)) and file.path.endswith("/lock") for file in process.open_files())
    return False


def _names(client: openai.OpenAI, file_id: str | None) -> list[str]:
    if file_id is None:
        return []
    return [json.loads(line)["custom_id"] for line in client.files.content(file_id).text.splitlines()]


def _busy(looks: list[tuple[float, int]], decoders: int) -> float:
    """Share of the decoders' places that the batch's own clips kept busy, once it was under way."""
    last_s, last = looks[-1]
    first_s, first = next(look for look in looks if look[1] >= 0.2 * last)
    return (last - first) * PACE_S / (decoders * DECODE_PLACES * (last_s - first_s))


def _ttft(figures: dict[str, Any]) -> dict[str, float]:
    ttft: dict[str, float] = figures["ttft_s"]
    return ttft


def _show(bench: Benchmark, alone: dict[str, Any], batch: dict[str, Any]) -> None:
    rows = [
        [mix, name, figures["verdicts"]["answered"], _ttft(figures)["p50"], _ttft(figures)["p99"]]
        for mix in MIXES
        for name, figures in (("alone", alone[mix]), ("beside the batch", batch["beside"][mix]))
    ]
    note = f"Seconds. Clips take {PACE_S:g} s at the decoder, of the batch and of users alike: no place is taken back."
    bench.table("Interactive users", ["what they ask", "", "answered", "TTFT p50", "TTFT p99"], rows, note)
    names = ("busy", "status", "answered", "failed", "lost", "twice")
    bench.table(
        "The batch", [*names, "killed half through"], [[*(batch[n] for n in names), ", ".join(batch["killed"])]]
    )


def _answer(alone: dict[str, Any], batch: dict[str, Any], count: int) -> str:
    ratios = {mix: _ttft(batch["beside"][mix])["p99"] / _ttft(alone[mix])["p99"] for mix in MIXES}
    return (
        f"A batch of {count} clips keeps the decoders' places {batch['busy']:.0%} busy. Beside it the p99 TTFT of texts"
        f" is {ratios['text']:.2f} times its value alone, of clips {ratios['clips']:.2f} times. With"
        f" {' and '.join(batch['killed'])} killed half through, {batch['answered']} lines were answered,"
        f" {batch['failed']} failed, {batch['lost']} were lost and {batch['twice']} answered twice."
    )


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, help="of the batch; default: 10000, 300 with --quick")
    parser.add_argument("--replicas", type=int, default=2, help="of the decoder and of the model")
    parser.add_argument("--rate", type=float, default=4.0, help="texts a second; a quarter as many clips")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each interactive load")


if __name__ == "__main__":
    main()
