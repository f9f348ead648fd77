"""Patches are frames in another order: nothing is lost, and the order is the processors' own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.media.patches import PatchStack, frames_of
from deployments.types import PatchRule

RULES = st.builds(PatchRule, patch=st.sampled_from([2, 7, 14, 16]), merge=st.integers(1, 3), temporal=st.integers(1, 3))


def stacked(frames_THWC: np.ndarray, rule: PatchRule) -> PatchStack:
    stack = PatchStack(rule, *frames_THWC.shape[:3])
    for number in reversed(range(len(frames_THWC))):
        stack.put(number, list(np.moveaxis(frames_THWC[number], -1, 0)))
    return stack


@given(rule=RULES, frames=st.integers(1, 7), high=st.integers(1, 3), wide=st.integers(1, 3))
def test_frames_come_back_from_their_patches(rule, frames, high, wide):
    factor = rule.patch * rule.merge
    frames_THWC = np.random.default_rng(0).integers(0, 256, (frames, high * factor, wide * factor, 3), np.uint8)
    stack = stacked(frames_THWC, rule)
    patches = stack.finish()
    assert patches.shape == (np.prod(stack.grid), 3 * rule.temporal * rule.patch**2)
    assert np.array_equal(frames_of(patches, stack.grid, rule, frames), frames_THWC)


def test_the_last_frame_fills_a_row_that_lacks_frames():
    frames_THWC = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    rule = PatchRule(patch=4, merge=1, temporal=4)
    stack = stacked(frames_THWC, rule)
    whole = frames_of(stack.finish(), stack.grid, rule, 8)
    assert all(np.array_equal(frame, frames_THWC[4]) for frame in whole[4:])


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_planes_need_not_lie_in_order_in_memory(turns):
    frames_THWC = np.random.default_rng(0).integers(0, 256, (1, 28, 56, 3), np.uint8)
    turned = np.ascontiguousarray(np.rot90(frames_THWC, turns, (1, 2)))
    rule = PatchRule(patch=14, merge=2, temporal=1)
    stack = PatchStack(rule, *turned.shape[:3])
    stack.put(0, [np.rot90(frames_THWC[0, ..., channel], turns) for channel in range(3)])
    assert np.array_equal(stack.finish(), stacked(turned, rule).finish())
