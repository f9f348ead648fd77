"""From a request's notes (`traced.py`) to what its time was spent on."""

import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.types import StageName

PARTS = ("own work", "waiting", "hand-off in", "hand-off out")
"""`own work`: what the stage itself says it worked; for HTTP and the ingress all of their time, but for copies into
shared memory. `waiting`: inside the stage, for one of its threads or a place in the batch. `hand-off in`: from the
caller's sending to the stage's beginning, Serve's queue included. `hand-off out`: until the caller has the answer."""

Parts = dict[tuple[str, str], float]
"""(stage, part) -> seconds."""

_STAGES: dict[str, str] = {
    StageName.FETCH: "MediaFetcher",
    StageName.VIDEO_DECODE: "VideoDecoder",
    StageName.PREPROCESS: "Preprocessor",
    StageName.MODEL: "Model",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a trace."""

    name: str
    at_s: float
    detail: Any


def read_trace(path: Path) -> dict[str, list[Event]]:
    """All requests' events in the order of time."""
    events: dict[str, list[Event]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        request_id, name, at_s, detail = json.loads(line)
        events[request_id].append(Event(name, at_s, detail))
    return {request_id: sorted(found, key=lambda event: event.at_s) for request_id, found in events.items()}


def parts_of(sent_s: float, ended_s: float, events: Sequence[Event]) -> Parts:
    """Parts that add up to `ended_s - sent_s`: each event opens the phase that lasts until the next one.

    For requests with at most one medium: the work on several would overlap.
    """
    chain = [Event("client.sent", sent_s, None), *_once(events), Event("client.ended", ended_s, None)]
    parts: Parts = defaultdict(float)
    for event, following in itertools.pairwise(chain):
        _add_phase(parts, event, following, following.at_s - event.at_s)
    return dict(parts)


def model_phases(events: Sequence[Event]) -> dict[str, float]:
    """Seconds of `queue`, `encode`, `prefill` and `decode`, as the model stage tells them with its last piece."""
    told = next(event.detail for event in reversed(events) if event.name == "model.answers" and event.detail)
    return {phase.removesuffix("_s"): seconds for phase, seconds in told.items()}


def _once(events: Sequence[Event]) -> list[Event]:
    """Without the pieces of a streamed answer between the model's beginning and its last piece."""
    last = {event.name: event for event in events}
    return [event for event in events if not event.name.startswith("model.") or event is last[event.name]]


def _add_phase(parts: Parts, event: Event, following: Event, seconds: float) -> None:
    where, _, what = event.name.partition(".")
    if where == "client" or event.name == "ingress.left":
        parts["HTTP", "own work"] += seconds
    elif event.name == "put.begins":
        parts["Ingress", "hand-off out"] += seconds
    elif where in ("ingress", "put") or what == "received":
        parts["Ingress", "own work"] += seconds
    elif what == "sent":
        parts[_STAGES[where], "hand-off in"] += seconds
    elif what == "entered":
        waited = seconds - min(seconds, _own_seconds(following))
        parts[_STAGES[where], "own work"] += seconds - waited
        parts[_STAGES[where], "waiting"] += waited
    else:
        parts[_STAGES[where], "hand-off out"] += seconds


def _own_seconds(answer: Event) -> float:
    """What the stage says of its own work; the model tells of its phases."""
    if isinstance(answer.detail, dict):
        return sum(seconds for phase, seconds in answer.detail.items() if phase != "queue_s")
    return float(answer.detail)
