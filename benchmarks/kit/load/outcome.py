"""What happened to one request, and what is made of many of them. The definitions, each at one place:

TTFT     from the moment the request was *due* to the first piece of text. In an open loop that is the scheduled
         arrival, so that a client which falls behind does not hide a server's queue; in a closed loop the moment at
         which a user first asked.
ITL      mean time between the tokens of one answer: (last text - first text) / (tokens - 1). Servers send several
         tokens in a piece or one, so gaps between pieces are no measure of it. None below two tokens.
e2e      from due to the end of the stream.
answered a 200 whose stream came to its end with a finish reason.
goodput  answered requests within the SLO, a second.
Rates are over the time from the start to the end of the last answer, and at least over the planned duration.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["answered", "refused", "expired", "gave_up", "failed"]
"""`refused`: 429 or 503. `expired`: 504, or a stream that ended with a timeout error. `gave_up`: the client's own
timeout. `failed`: everything else, which no server should do."""

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. Instants are seconds since the run's start; None where it never came to that."""

    kind: str
    """Of the workload: `text`, `image`, `video`, `audio`."""
    due_s: float
    sent_s: float
    ended_s: float
    verdict: Verdict
    reason: str = ""
    """Why not answered: `429`, `http 500`, `truncated stream`, ..."""
    first_text_s: float | None = None
    last_text_s: float | None = None
    tokens: int = 0
    prompt_tokens: int = 0
    retry_after: str | None = None
    worded: bool = True
    """Whether an error that came as an answer was worded as OpenAI words them."""

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_text_s is None else self.first_text_s - self.due_s

    @property
    def itl_s(self) -> float | None:
        if self.first_text_s is None or self.last_text_s is None or self.tokens < 2:
            return None
        return (self.last_text_s - self.first_text_s) / (self.tokens - 1)

    @property
    def e2e_s(self) -> float:
        return self.ended_s - self.due_s


@dataclass(frozen=True, slots=True)
class Slo:
    """What a user still calls quick; an answer must keep all of it."""

    ttft_s: float = 2.0
    itl_s: float = 0.2

    def kept(self, outcome: Outcome) -> bool:
        if outcome.verdict != "answered" or outcome.ttft_s is None:
            return False
        return outcome.ttft_s <= self.ttft_s and (outcome.itl_s or 0.0) <= self.itl_s


@dataclass(frozen=True, slots=True)
class Probe:
    """One question for `/health`."""

    at_s: float
    seconds: float
    ok: bool


def percentiles(values: Iterable[float | None], wanted: Sequence[int] = PERCENTILES) -> dict[str, float | None]:
    """`{"p50": ..., "p90": ..., "p99": ..., "max": ...}` by linear interpolation; None where there are no values."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return {f"p{q}": None for q in wanted} | {"max": None}
    if len(known) == 1:
        return {f"p{q}": known[0] for q in wanted} | {"max": known[0]}
    cuts = statistics.quantiles(known, n=100, method="inclusive")
    return {f"p{q}": cuts[q - 1] for q in wanted} | {"max": known[-1]}


def summary(outcomes: Sequence[Outcome], probes: Sequence[Probe], slo: Slo, duration_s: float) -> dict[str, Any]:
    """The figures of one run, ready for JSON. Latencies are those of answered requests; seconds and rates a second."""
    answered = [outcome for outcome in outcomes if outcome.verdict == "answered"]
    refused = [outcome for outcome in outcomes if outcome.verdict == "refused"]
    span_s = max([duration_s] + [outcome.ended_s for outcome in answered])
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    return {
        "sent": len(outcomes),
        "offered_rate": len(outcomes) / duration_s,
        "verdicts": {verdict: verdicts[verdict] for verdict in ("answered", "refused", "expired", "gave_up", "failed")},
        "reasons": dict(Counter(outcome.reason for outcome in outcomes if outcome.reason).most_common()),
        "answered_rate": len(answered) / span_s,
        "goodput": sum(slo.kept(outcome) for outcome in answered) / span_s,
        "token_rate": sum(outcome.tokens for outcome in answered) / span_s,
        "ttft_s": percentiles(outcome.ttft_s for outcome in answered),
        "itl_s": percentiles(outcome.itl_s for outcome in answered),
        "e2e_s": percentiles(outcome.e2e_s for outcome in answered),
        "kinds": _by_kind(answered),
        "refusal_s": percentiles(outcome.ended_s - outcome.sent_s for outcome in refused),
        "refused_with_retry_after": sum(outcome.retry_after is not None for outcome in refused),
        "health_s": percentiles(probe.seconds for probe in probes),
        "health_probes": len(probes),
        "health_failed": sum(not probe.ok for probe in probes),
        "span_s": span_s,
    }


def _by_kind(answered: Sequence[Outcome]) -> dict[str, Any]:
    kinds = sorted({outcome.kind for outcome in answered})
    return {kind: _latencies([outcome for outcome in answered if outcome.kind == kind]) for kind in kinds}


def _latencies(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "answered": len(outcomes),
        "ttft_s": percentiles(outcome.ttft_s for outcome in outcomes),
        "e2e_s": percentiles(outcome.e2e_s for outcome in outcomes),
        "prompt_tokens": statistics.fmean(outcome.prompt_tokens for outcome in outcomes),
    }
