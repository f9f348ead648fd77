"""The simulation agrees with what can be said without one."""

import pytest

from benchmarks.cluster.pipeline_sim import KindCosts, ModelCosts, Pipeline, cpus_needed

MODEL = ModelCosts(step_s=0.010, step_per_sequence_s=0.0, max_running=8, tokens=11)


def kind(fetch: float = 0.0, decode: float = 0.0, preprocess: float = 0.0, prefill: float = 0.02) -> KindCosts:
    return KindCosts({"fetch": fetch, "decode": decode, "preprocess": preprocess}, prefill, front_cpu_s=0.01)


def test_the_slower_side_sets_the_rate() -> None:
    costs = {"clip": kind(fetch=0.01, decode=0.08, preprocess=0.01)}
    for cpus in (1, 2):
        outcome = Pipeline(costs, MODEL, {"clip": 1}, cpus=cpus, users=32).run(1000, 100)
        assert outcome.rate == pytest.approx(cpus / 0.1, rel=0.03)
        assert outcome.cpus_busy == pytest.approx(1, abs=0.03)


def test_a_lone_request_takes_the_sum_of_its_parts() -> None:
    costs = {"clip": kind(fetch=0.01, decode=0.08, preprocess=0.01)}
    outcome = Pipeline(costs, MODEL, {"clip": 1}, cpus=4, users=1).run(1000, 100)
    assert outcome.latency_s == pytest.approx(0.1 + 0.02 + 10 * 0.010)
    assert outcome.rate == pytest.approx(1 / outcome.latency_s, rel=0.02)


def test_with_cpus_in_plenty_the_model_is_always_busy() -> None:
    outcome = Pipeline({"text": kind(preprocess=0.001)}, MODEL, {"text": 1}, cpus=32, users=32).run(1000, 100)
    assert outcome.model_busy == pytest.approx(1, abs=0.02)


def test_on_one_machine_everything_takes_from_the_same_cores() -> None:
    costs = {"text": kind(preprocess=0.01)}
    model = ModelCosts(step_s=0.0, step_per_sequence_s=0.001, max_running=8, tokens=11)
    outcome = Pipeline(costs, model, {"text": 1}, cpus=1, users=16, shared_cpus=True).run(1000, 100)
    assert outcome.rate == pytest.approx(1 / (0.01 + 0.01 + 0.02 + 10 * 0.001), rel=0.03)


def test_the_cpus_needed_are_those_that_keep_up_with_the_model() -> None:
    costs = {"clip": kind(decode=0.3)}
    cpus, with_them, plenty = cpus_needed(costs, MODEL, {"clip": 1}, share=0.95, answers=500)
    assert with_them.rate >= 0.95 * plenty.rate
    assert cpus == pytest.approx(0.3 * plenty.rate, abs=1.5)


def test_a_mix_costs_what_its_parts_cost() -> None:
    costs = {"text": kind(decode=0.0, preprocess=0.02), "clip": kind(decode=0.18, preprocess=0.02)}
    outcome = Pipeline(costs, MODEL, {"text": 0.5, "clip": 0.5}, cpus=1, users=32).run(4000, 100)
    assert outcome.rate == pytest.approx(1 / 0.11, rel=0.05)
