"""Clips that come straight from the decoder: one tensor of a request, and no memory kept by who handed them on."""

import numpy as np

from deployments.model.multimodal.pixels import add_clips


def test_clips_become_one_tensor_in_their_order():
    clips = [{"patches": np.full((rows, 6), rows, np.uint8)} for rows in (2, 3)]
    tensors = {"video_grid_thw": np.ones((2, 3), np.int64)}
    add_clips(tensors, clips)
    assert tensors["pixel_values_videos"][:, 0].tolist() == [2, 2, 3, 3, 3]


def test_a_lone_clip_is_not_copied_and_its_dict_holds_it_no_longer():
    patches = np.zeros((2, 6), np.uint8)
    clip, tensors = {"patches": patches}, {}
    add_clips(tensors, [clip])
    assert tensors["pixel_values_videos"] is patches
    assert clip == {}
