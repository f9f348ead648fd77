"""Replicas by the work before a stage: the policy, without Ray and as Ray carries it to its controller."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments.autoscaling import SLACK, StageLoad, by_load, replicas_for, stats_of
from deployments.config import AppConfig
from deployments.decoder.backlog import Backlog
from deployments.ingress.admission.concurrency_limit import SAMPLES, AdaptiveConcurrencyLimit
from tests.support import serve_files

ROOT = Path(__file__).parent.parent
NOW_S = 1_000.0
loads = st.floats(0, 200)
counts = st.integers(1, 100)


@dataclass
class Stage:
    """A stage as Ray sees it."""

    reports: Sequence[StageLoad | None] = ()
    """One a replica."""
    queued: float = 0
    requests: float = 0
    target: int = 1
    ages_s: dict[int, float] = field(default_factory=dict)
    """How long ago a replica sent its last report, by its number; the others did a moment ago."""

    def context(self, config: Any = None) -> Any:
        aggregated: dict[str, dict[str, float]] = {}
        raw: dict[str, dict[str, list[Any]]] = {}
        for number, report in enumerate(self.reports):
            for name, value in stats_of(report).items():
                aggregated.setdefault(name, {})[f"r{number}"] = value
                stamp = NOW_S - self.ages_s.get(number, 1.0)
                raw.setdefault(name, {})[f"r{number}"] = [SimpleNamespace(timestamp=stamp, value=value)]
        return AutoscalingContext(
            deployment_id=None,
            deployment_name="VideoDecoder",
            app_name="sluice",
            current_num_replicas=len(self.reports),
            target_num_replicas=self.target,
            running_replicas=[f"r{number}" for number in range(len(self.reports))],
            total_num_requests=self.requests,
            total_queued_requests=self.queued,
            aggregated_metrics=lambda: aggregated,
            raw_metrics=lambda: raw,
            capacity_adjusted_min_replicas=1,
            capacity_adjusted_max_replicas=100,
            policy_state={},
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=NOW_S,
            config=config or AutoscalingConfig(max_replicas=100, target_ongoing_requests=2),
        )

    def wants(self) -> int:
        replicas, state = by_load(self.context())
        assert state == {}
        return replicas


# ── the number ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(loads, counts)
def test_no_replica_has_more_than_its_target(load: float, now: int) -> None:
    assert load <= replicas_for(load, now) + 1e-6


@given(loads, counts)
def test_more_load_never_means_fewer_replicas(load: float, now: int) -> None:
    assert replicas_for(load, now) <= replicas_for(load + 0.5, now)


@given(loads, counts)
def test_a_replica_goes_only_when_the_others_have_room_to_spare(load: float, now: int) -> None:
    after = replicas_for(load, now)
    if after < now:
        assert load <= after * (1 - SLACK) + 1e-6


@given(st.floats(0.01, 200), counts, st.lists(st.floats(1 - SLACK, 1), min_size=1, max_size=30))
def test_load_that_varies_within_the_slack_never_takes_a_replica_and_gives_it_back(
    peak: float, now: int, shares: list[float]
) -> None:
    numbers = [replicas_for(peak, now)]
    for share in shares:
        numbers.append(replicas_for(peak * share, numbers[-1]))
    assert numbers == sorted(numbers, reverse=True)
    if numbers[0] > now:
        assert set(numbers) == {numbers[0]}


@given(loads, counts)
def test_a_steady_load_is_settled_at_once(load: float, now: int) -> None:
    after = replicas_for(load, now)
    assert replicas_for(load, after) == after


def test_idle_replicas_go() -> None:
    assert replicas_for(0.0, 7) == 0  # Ray keeps `min_replicas`


# ── the sum ──────────────────────────────────────────────────────────────────────────────────────────────────────────

reports = st.lists(st.builds(StageLoad, st.floats(0, 20), st.floats(0, 1)), min_size=1, max_size=8)


@given(reports, st.floats(0, 50))
def test_what_waits_is_as_heavy_as_what_came_lately(replicas: list[StageLoad], queued: float) -> None:
    of_next = sum(report.of_next for report in replicas) / len(replicas)
    expected = sum(report.in_hand for report in replicas) + queued * of_next
    wanted = Stage(replicas, queued=queued, target=1).wants()
    assert math.ceil(expected - 1e-6) <= max(wanted, 1) <= max(math.ceil(expected + 1e-6), 1)


def test_few_heavy_requests_outweigh_many_light_ones() -> None:
    heavy = Stage([StageLoad(2.0, 1.0)], queued=4, requests=6)
    light = Stage([StageLoad(0.004, 0.002)], queued=40, requests=42)
    assert (heavy.wants(), light.wants()) == (6, 1)
    assert (math.ceil(6 / 2), math.ceil(42 / 2)) == (3, 21)  # what a count makes of the two


def test_a_replica_that_has_just_started_counts_as_idle() -> None:
    assert Stage([StageLoad(2.0, 0.5), None], queued=2, target=3).wants() == 3


# ── before anyone is refused ─────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=40)
@given(st.floats(0.02, 5), st.floats(0, 1), st.integers(1, 4), st.integers(1, 4))
def test_a_decoder_that_admission_keeps_busy_asks_for_another_replica(
    decode_s: float, rest_s: float, workers: int, replicas: int
) -> None:
    """Users in plenty, `limit.now` of them let in, all threads at work; Little's law in place of a run."""
    config = AppConfig()
    limit = AdaptiveConcurrencyLimit(1000, config.ingress.target_ttft_s)
    backlog = Backlog(config.decoder.target_backlog_s, workers, clock=lambda: decode_s)
    with backlog.video() as work:
        work.began, work.megapixels, work.share_left = 0.0, 1.0, lambda: 0.0
    report, rate = backlog.load(), workers * replicas / decode_s
    assert report is not None
    _observe(limit, 0, decode_s + rest_s, lone=True)
    loads = []
    for now in range(1, 120):
        stay_s = max(decode_s + rest_s, limit.now / rate)
        in_stage = rate * (stay_s - rest_s)
        loads.append((in_stage - workers * replicas / 2) * report.of_next)  # those on threads are half done
        _observe(limit, 1000 * now, stay_s, lone=False)
    assert fmean(loads[60:]) > replicas


def _observe(limit: AdaptiveConcurrencyLimit, now: float, stay_s: float, *, lone: bool) -> None:
    """As many first tokens as it judges by."""
    for _ in range(max(SAMPLES, limit.now // 2)):
        limit.observe(stay_s, now - stay_s, now, lone=lone, full=not lone)


# ── when nothing is known ────────────────────────────────────────────────────────────────────────────────────────────


def test_requests_are_counted_until_a_replica_has_something_to_say() -> None:
    assert Stage([None], requests=9).wants() == 5
    assert Stage([None, None], requests=0.5, target=2).wants() == 1


def test_requests_are_counted_when_a_replica_falls_silent() -> None:
    replicas = [StageLoad(0.1, 0.1), StageLoad(0.1, 0.1)]
    assert Stage(replicas, requests=9).wants() == 1
    assert Stage(replicas, requests=9, ages_s={1: 600.0}).wants() == 5


def test_reports_are_silent_only_after_two_windows() -> None:
    config = AutoscalingConfig(max_replicas=100, target_ongoing_requests=2)
    limit_s = 2 * (config.look_back_period_s + config.metrics_interval_s)
    for age_s, expected in ((limit_s - 1, 1), (limit_s + 1, 5)):
        assert Stage([StageLoad(0.1, 0.1)], requests=9, ages_s={0: age_s}).wants() == expected


def test_a_stage_that_starts_is_left_alone() -> None:
    assert Stage([], requests=50, target=2).wants() == 2


# ── as Ray carries it ────────────────────────────────────────────────────────────────────────────────────────────────

FILES = ["serve_config.yaml", "k8s/base/serve_config.yaml", "k8s/overlays/prod/serve_config.yaml"]


@pytest.mark.parametrize("file", [*FILES, "k8s/overlays/dev/serve_config.yaml"])
def test_the_files_name_a_policy_that_ray_can_carry_to_its_controller(file: str) -> None:
    entry = serve_files.deployments_of(yaml.safe_load((ROOT / file).read_text(encoding="utf-8")))["VideoDecoder"]
    config = AutoscalingConfig(**entry["autoscaling_config"])
    policy = config.policy.get_policy()
    assert policy is not by_load  # pickled by value, as the controller gets it
    replicas, _ = policy(Stage([StageLoad(1.5, 0.5)], queued=3).context(config))
    assert replicas == 3


@pytest.mark.parametrize("file", FILES[1:])
def test_models_on_a_cluster_are_scaled_by_their_load(file: str) -> None:
    entry = serve_files.deployments_of(yaml.safe_load((ROOT / file).read_text(encoding="utf-8")))["Model"]
    assert AutoscalingConfig(**entry["autoscaling_config"]).policy.policy_function == "deployments.autoscaling:by_load"


def test_a_stage_at_zero_starts_for_the_first_request_and_goes_when_nobody_asks() -> None:
    """With Ray's own way of applying delays and bounds around the policy."""
    config = AutoscalingConfig(min_replicas=0, max_replicas=3, downscale_delay_s=0.0, target_ongoing_requests=2)
    decide = _apply_autoscaling_config(by_load)
    assert decide(Stage([], target=0).context(config))[0] == 0
    assert decide(Stage([], queued=1, requests=1, target=0).context(config))[0] == 1
    assert decide(Stage([], queued=40, requests=40, target=1).context(config))[0] == 1  # it is on its way
    assert decide(Stage([StageLoad(0.1, 0.1)], target=1).context(config))[0] == 1
    assert decide(Stage([StageLoad(0.0, 0.1)], target=1).context(config))[0] == 0
    assert decide(Stage([None], target=1).context(config))[0] == 0
