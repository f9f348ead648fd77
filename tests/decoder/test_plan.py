"""The plan against a model of what decoders need: each frame leans on frames since a keyframe, in either direction."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deployments.decoder.plan import PacketTable, Run, plan_runs


@st.composite
def tables(draw) -> tuple[PacketTable, list[int]]:
    """A stream of groups of pictures, and for each packet the first packet that must be decoded for it.

    In an open group, the pictures after the keyframe may be shown before it: they lean on the group before as well.
    """
    pts, is_key, needs = [], [], []
    group_start, shown_until = 0, 0
    for size in draw(st.lists(st.integers(1, 8), min_size=1, max_size=6)):
        previous_start, group_start = group_start, len(pts)
        leading = draw(st.integers(0, min(3, size - 1))) if pts else 0
        times = list(range(shown_until, shown_until + size))
        key_time, leading_times, trailing = times[leading], times[:leading], times[leading + 1 :]
        pts += [key_time, *draw(st.permutations(leading_times)), *draw(st.permutations(trailing))]
        is_key += [True] + [False] * (size - 1)
        needs += [group_start] + [previous_start] * leading + [group_start] * len(trailing)
        shown_until += size
    gap = draw(st.integers(1, 3000))
    hidden = draw(st.integers(0, len(pts) - 1))
    times_of = np.array(pts, np.int64) * gap
    return PacketTable(times_of, np.array(is_key), times_of < hidden * gap), needs


@given(tables(), st.data())
def test_runs_hold_everything_that_the_targets_lean_on(table_and_needs, data):
    table, needs = table_and_needs
    targets = data.draw(st.lists(st.sampled_from(range(len(needs))), min_size=1, unique=True))
    runs = plan_runs(table, np.array(targets))
    for target in targets:
        run = next(run for run in runs if run.start <= target < run.stop)
        assert run.start <= needs[target]


@given(tables(), st.data())
def test_runs_are_ascending_apart_and_end_with_a_target(table_and_needs, data):
    table, needs = table_and_needs
    targets = data.draw(st.lists(st.sampled_from(range(len(needs))), min_size=1, unique=True))
    runs = plan_runs(table, np.array(targets))
    for run, following in pairwise(runs):
        assert run.stop < following.start
    for run in runs:
        assert run.stop - 1 in targets
        assert table.is_key[run.start]


@given(tables())
def test_the_display_order_is_by_time_without_hidden_packets(table_and_needs):
    table, _ = table_and_needs
    order = table.display_order()
    assert (np.diff(table.pts[order]) > 0).all()
    assert set(order.tolist()) == set(np.flatnonzero(~table.is_hidden).tolist())


def test_a_group_without_targets_is_not_decoded():
    table = PacketTable(np.arange(30), np.arange(30) % 10 == 0, np.zeros(30, np.bool_))
    assert plan_runs(table, np.array([3, 25])) == (Run(0, 4), Run(20, 26))


def test_a_file_of_keyframes_is_decoded_frame_by_frame():
    table = PacketTable(np.arange(9), np.ones(9, np.bool_), np.zeros(9, np.bool_))
    assert plan_runs(table, np.array([8, 0, 4])) == (Run(0, 1), Run(4, 5), Run(8, 9))


def test_a_file_that_begins_without_a_keyframe_is_decoded_from_its_first_packet():
    table = PacketTable(np.arange(9), np.arange(9) == 5, np.zeros(9, np.bool_))
    assert plan_runs(table, np.array([2])) == (Run(0, 3),)


def test_shared_times_are_noticed():
    pts, no = np.array([0, 2, 2]), np.zeros(3, np.bool_)
    assert not PacketTable(pts, no, no).has_distinct_times()
    assert PacketTable(pts, no, np.array([False, True, False])).has_distinct_times()
