"""What counts as growth."""

import random

import pytest

from benchmarks.cluster.soak import slope


def noisy(per_hour: float, noise: float, minutes: int = 14) -> list[tuple[float, float]]:
    source = random.Random(1)
    return [(at, 1000 + per_hour * at / 3600 + source.gauss(0, noise)) for at in range(360, 60 * (6 + minutes), 15)]


def test_a_leak_is_found_under_noise_and_its_size_with_it() -> None:
    found = slope(noisy(per_hour=300, noise=5))
    assert found.low < 300 < found.high
    assert found.verdict == "grows"


def test_noise_alone_is_no_growth() -> None:
    assert slope(noisy(per_hour=0, noise=5)).verdict == "flat"


def test_noise_in_which_growth_could_hide_is_told() -> None:
    assert slope(noisy(per_hour=0, noise=400)).verdict == "unclear"


def test_growth_of_less_than_a_hundredth_an_hour_is_none() -> None:
    assert slope(noisy(per_hour=5, noise=0)).verdict == "flat"


def test_the_slope_is_that_of_the_line() -> None:
    found = slope([(60.0 * minute, 10.0 + 2.0 * minute) for minute in range(10)])
    assert found.per_hour == pytest.approx(120)
    assert (found.low, found.high) == (pytest.approx(120), pytest.approx(120))
