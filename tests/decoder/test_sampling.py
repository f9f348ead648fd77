import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.decoder.sampling import sample
from deployments.errors import BadRequest
from deployments.types import FrameSampling

LABEL = "messages[0].content[0]"


def chosen(times_s, **sampling) -> list[int]:
    defaults = {"num_frames": None, "fps": None, "max_frames": 1000}
    return sample(np.asarray(times_s, np.float64), FrameSampling(**{**defaults, **sampling}), LABEL).tolist()


def steady(frames: int, fps: float = 30.0) -> np.ndarray:
    return np.arange(frames) / fps


@given(frames=st.integers(1, 2000), count=st.integers(1, 300))
def test_num_frames_of_a_steady_video_are_spread_like_linspace_with_both_ends(frames, count):
    expected = np.linspace(0, frames - 1, min(count, frames)).round().astype(int)
    assert chosen(steady(frames), num_frames=count) == expected.tolist()


def test_rounded_times_of_a_container_count_as_steady():
    assert chosen(np.round(steady(61), 3), num_frames=8) == np.linspace(0, 60, 8).round().astype(int).tolist()


@given(
    gaps=st.lists(st.floats(0.001, 20), max_size=120),
    count=st.integers(1, 40) | st.none(),
    fps=st.floats(0.01, 200),
    max_frames=st.integers(1, 30),
    min_frames=st.integers(1, 30),
)
def test_whatever_the_times_frames_are_distinct_ascending_and_bounded(gaps, count, fps, max_frames, min_frames):
    times_s = np.concatenate([[0.0], np.cumsum(gaps)])
    rate = None if count is not None else fps
    frames = chosen(times_s, num_frames=count, fps=rate, max_frames=max_frames, min_frames=min_frames)
    assert frames == sorted(set(frames))
    assert frames[0] >= 0
    assert frames[-1] < len(times_s)
    assert 1 <= len(frames) <= max_frames
    if count is not None:
        assert len(frames) == min(count, max_frames, len(times_s))
    else:
        assert len(frames) >= min(min_frames, max_frames, len(times_s))


def test_frames_of_a_variable_rate_are_spread_over_time_not_over_numbers():
    still_then_busy = [0.0, *np.linspace(9, 10, 100)]
    busy_then_still = [*np.linspace(0, 1, 100), 10.0]
    assert chosen(still_then_busy, num_frames=3)[1] == 1  # the busy second is only the end
    assert chosen(busy_then_still, num_frames=3)[1] == 99


def test_fps_takes_the_frame_nearest_to_each_tick():
    assert chosen(steady(150), fps=2.0) == [0, 15, 30, 45, 60, 75, 90, 105, 120, 135]
    assert chosen(steady(100, 25.0), fps=1.0) == [0, 25, 50, 75]


@pytest.mark.parametrize("rate", [24, 24_000 / 1001, 25, 30_000 / 1001, 30, 50, 60_000 / 1001, 60])
@pytest.mark.parametrize("fps", [0.5, 1, 2, 4])
def test_a_clock_of_milliseconds_gives_no_frame_more_and_none_less(rate, fps):
    for seconds in (1, 2, 3, 4, 5, 8, 10, 15, 20, 30, 60):
        exact = steady(round(rate * seconds), rate)
        counts = {
            len(chosen(times, fps=fps)) for times in (exact, np.round(exact, 3), np.round(exact * 90_000) / 90_000)
        }
        assert len(counts) == 1
        if rate == int(rate):
            assert counts == {np.ceil(seconds * fps)}


def test_fps_above_the_video_s_own_takes_every_frame_once():
    assert chosen(steady(40), fps=1e9) == list(range(40))
    assert chosen(steady(40), fps=30.0) == list(range(40))


def test_fps_beyond_max_frames_is_spread_over_the_whole_video():
    assert chosen(steady(300), fps=10.0, max_frames=4) == [0, 100, 199, 299]


def test_fps_below_min_frames_is_filled_up():
    assert len(chosen(steady(30), fps=0.1, min_frames=4)) == 4
    assert len(chosen(steady(3), fps=0.1, min_frames=4)) == 3


def test_a_span_is_kept_to():
    assert chosen(steady(300), num_frames=3, start_s=2.0, end_s=4.0) == [60, 90, 120]
    assert chosen(steady(300), fps=1.0, start_s=7.0) == [210, 240, 270]


def test_a_span_between_two_frames_takes_the_one_on_display():
    assert chosen([0.0, 5.0, 10.0], num_frames=4, start_s=6.0, end_s=7.0) == [1]


@pytest.mark.parametrize(
    "span", [{"start_s": 11.0}, {"start_s": 5.0, "end_s": 4.0}, {"start_s": -1.0}, {"end_s": -1.0}]
)
def test_a_span_in_which_nothing_is_shown_is_refused_naming_the_item(span):
    with pytest.raises(BadRequest, match="holds no frame") as refused:
        chosen(steady(300), num_frames=3, **span)
    assert refused.value.param == LABEL


@pytest.mark.parametrize(
    "wrong", [{"num_frames": 0}, {"num_frames": -3}, {"fps": 0.0}, {"fps": -1.0}, {"fps": float("nan")}]
)
def test_counts_below_one_and_rates_not_above_zero_are_refused(wrong):
    with pytest.raises(BadRequest):
        chosen(steady(30), **wrong)
