"""Servers that take turns: each step of a comparison is done to all of them before the next one."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.kit.load.arrivals import Arrivals, OpenLoop
from benchmarks.kit.load.drive import LoadPlan, run_load
from benchmarks.kit.load.outcome import Slo
from benchmarks.kit.load.workload import WorkloadSpec
from benchmarks.kit.processes import cpu_s
from benchmarks.kit.servers import Server

Figures = dict[str, Any]

_REQUESTS_APART = 1_000_000
"""Runs number their requests this far apart: no medium is sent twice."""
_SETTLED_WITHIN_S = 15.0
_IDLE_S = 2.0


class Turns:
    """The servers under comparison, and what a run does to one of them."""

    def __init__(
        self, servers: Sequence[Server], timeout_s: float, slo: Slo, settled_within_s: float = _SETTLED_WITHIN_S
    ) -> None:
        """`timeout_s`: after which clients give up. `settled_within_s`: how long abandoned work may still go on."""
        self.servers = servers
        self._timeout_s, self._slo, self._settled_within_s = timeout_s, slo, settled_within_s
        self._runs = 0
        self._unsettled: list[Server] = []
        self.restarts: Counter[str] = Counter()
        """By server: how often one had to be started again, since it went on with what nobody waited for."""

    def run(self, server: Server, workload: WorkloadSpec, arrivals: Arrivals, label: str) -> Figures:
        """`outcome.summary` and, for a server started here, `cpu_s_per_answer`. All servers are calm when it begins."""
        self._settle()
        self._runs += 1
        plan = LoadPlan(
            url=server.url,
            arrivals=arrivals,
            workload=server.workload(workload),
            timeout_s=self._timeout_s,
            slo=self._slo,
            model=server.model,
            says_done=server.says_done,
            first_request=self._runs * _REQUESTS_APART,
            label=f"{server.name}, {label}",
        )
        cpu = cpu_s(server.pid) if server.pid else 0.0
        figures = run_load(plan)
        if server.pid:
            figures["cpu_s_per_answer"] = (cpu_s(server.pid) - cpu) / max(1, figures["verdicts"]["answered"])
        if figures["verdicts"]["gave_up"]:
            self._unsettled.append(server)
        return figures

    def idle_cpu(self) -> dict[str, float]:
        """CPU seconds a second of each server started here while nothing is asked: what it takes from the others."""
        before = {server.name: cpu_s(server.pid) for server in self.servers if server.pid}
        time.sleep(_IDLE_S)
        return {s.name: (cpu_s(s.pid) - before[s.name]) / _IDLE_S for s in self.servers if s.pid}

    def _settle(self) -> None:
        """Let a run begin when the last one is over for its server too: abandoned requests may still cost it time."""
        while self._unsettled:
            server = self._unsettled.pop()
            if not self._answers_at_once(server):
                self.restarts[server.name] += 1
                server.restart()
                self._answers_at_once(server)

    def _answers_at_once(self, server: Server) -> bool:
        plan = LoadPlan(
            server.url,
            OpenLoop(4.0, 1.0),
            server.workload(WorkloadSpec(mix="text", max_tokens=2)),
            timeout_s=self._settled_within_s,
            model=server.model,
            says_done=server.says_done,
            label="settling",
        )
        give_up = time.monotonic() + self._settled_within_s
        while time.monotonic() < give_up:
            settled = run_load(plan)
            if settled["sent"] and settled["goodput"]:
                return True
        return False

    def facts(self) -> str:
        """Whose versions are not on the page anyway, and what was started again, for a table's note."""
        said = [f"{server.name} is version {version}." for server in self.servers if (version := server.version())]
        again = ", ".join(f"{name} ({count})" for name, count in self.restarts.items())
        if again:
            within = f"{self._settled_within_s:g} s"
            said.append(f"Started again, since abandoned requests still kept it busy after {within}: {again}.")
        return " ".join(said)


def for_each(servers: Sequence[Server], step: Callable[[Server], Figures]) -> dict[str, Figures]:
    """`step` of each server, by its name."""
    return {server.name: step(server) for server in servers}
