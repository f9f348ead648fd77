import itertools
import statistics

from benchmarks.kit.load.arrivals import OpenLoop


def test_same_seed_gives_the_same_arrivals_and_another_seed_others():
    plan = OpenLoop(rate=10, duration_s=20)
    assert list(plan.due_s(1)) == list(plan.due_s(1)) != list(plan.due_s(2))


def test_arrivals_ascend_within_the_duration():
    due = list(OpenLoop(rate=50, duration_s=4).due_s(3))
    assert due == sorted(due)
    assert 0 < due[0] < due[-1] < 4


def test_arrivals_are_a_poisson_process():
    due = list(OpenLoop(rate=100, duration_s=100).due_s(0))
    gaps = [later - earlier for earlier, later in itertools.pairwise(due)]
    assert abs(len(due) - 10_000) < 400  # four standard deviations of the count
    assert abs(statistics.stdev(gaps) / statistics.fmean(gaps) - 1) < 0.05  # exponential: deviation equals mean
