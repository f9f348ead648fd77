"""How many replicas a stage gets, by the work before it instead of the number of its requests.

A count takes an hour of 4K for as much as a second of 360p, and a prompt of 30,000 tokens for as much as a greeting.
So each replica reports its *load*: the work in its hands as a multiple of what one replica should have before it
(pixels to decode and prompt tokens to prefill, as seconds at its pace of late; slots of the KV cache; the targets are
settings). The policy adds up the loads, takes what still waits at the callers for as heavy as what came lately, and
asks for a replica for each whole one.

Seconds, because admission goes by seconds: it refuses whatever would make first tokens late. A target in pixels or in
tokens would never be reached by a replica that is slow enough, and the stage would be refused its replicas for ever.

Ray calls `by_load` in its controller; the config file names it (`policy: {policy_function: deployments.autoscaling:
by_load}`) and Ray ships this module there by value, so it imports nothing of ours and nothing of Ray's. Three things
keep the number from flapping: Ray's means over `look_back_period_s`; its `upscale_delay_s` and `downscale_delay_s`,
during which the wish has to last without a break; and `SLACK`, by which the load has to fall before a replica goes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

LOAD, NEXT_LOAD = "load", "next_load"
SLACK = 0.2
"""A replica is given up once the others would be at 1 - SLACK of their targets without it."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class StageLoad:
    """What one replica reports. 1.0 is as much work as one replica should have before it."""

    in_hand: float
    """Of the requests that it has taken. One request counts at most 1.0: it can't be split."""
    of_next: float
    """Of one more request, by those that came lately."""

    def stats(self) -> dict[str, float]:
        """For Ray's `record_autoscaling_stats`."""
        return {LOAD: self.in_hand, NEXT_LOAD: self.of_next}


def stats_of(load: StageLoad | None) -> dict[str, float]:
    """For `record_autoscaling_stats` of a replica which may have nothing to say yet: Ray then counts requests."""
    return {} if load is None else load.stats()


class Point(Protocol):
    timestamp: float


class Settings(Protocol):
    """Of Ray's `AutoscalingConfig`."""

    target_ongoing_requests: float
    look_back_period_s: float
    metrics_interval_s: float


class Context(Protocol):
    """What is used of Ray's `AutoscalingContext`. Figures are means over `look_back_period_s`."""

    current_num_replicas: int
    target_num_replicas: int
    current_time: float
    total_num_requests: float
    """Running and queued."""
    total_queued_requests: float
    """At the callers: no replica knows of them."""
    aggregated_metrics: Mapping[str, Mapping[Any, float]]
    raw_metrics: Mapping[str, Mapping[Any, Sequence[Point]]]
    config: Settings


def by_load(context: Context) -> tuple[int, dict[str, Any]]:
    """The replicas wanted, before Ray's delays and bounds, and no state. Counts requests where loads are not known."""
    if context.current_num_replicas == 0:  # the first ones are on their way
        return context.target_num_replicas, {}
    load = total_load(context)
    if load is None:
        load = context.total_num_requests / context.config.target_ongoing_requests
    return replicas_for(load, context.target_num_replicas), {}


def total_load(context: Context) -> float | None:
    """Of all replicas and of what waits for them; None when no replica reports, or one of them has fallen silent.

    A replica that has never reported has just started and holds nothing.
    """
    in_hand = context.aggregated_metrics.get(LOAD, {})
    if not in_hand or _silent(context):
        return None
    of_next = fmean(context.aggregated_metrics[NEXT_LOAD].values())
    return sum(in_hand.values()) + context.total_queued_requests * of_next


def replicas_for(load: float, now: int) -> int:
    """Of a stage which has `now` replicas: at once as many as the load needs, fewer only with `SLACK` to spare."""
    needed = math.ceil(load - _ROUNDING)
    if needed >= now:
        return needed
    return min(now, math.ceil(load / (1 - SLACK) - _ROUNDING))


def _silent(context: Context) -> bool:
    """Whether a report is older than two windows and two sendings: Ray keeps the last one for ever."""
    oldest = context.current_time - 2 * (context.config.look_back_period_s + context.config.metrics_interval_s)
    return any(not points or points[-1].timestamp < oldest for points in context.raw_metrics[LOAD].values())
