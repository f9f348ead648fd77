"""Patches through a matrix product are what the convolution makes of them."""

import pytest
import torch

from deployments.model.families.patch_conv import PatchConv3d, speed_up_patches


@pytest.mark.parametrize("size", [(2, 14, 14), (4, 28, 14)], ids=["one patch each", "larger than a patch"])
def test_patches_come_out_as_from_the_convolution(size):
    conv = torch.nn.Conv3d(3, 8, (2, 14, 14), stride=(2, 14, 14))
    patches = torch.randn(5, 3, *size)
    with torch.inference_mode():
        wanted = conv(patches)
        speed_up_patches(torch.nn.ModuleList([conv]))
        assert isinstance(conv, PatchConv3d)
        torch.testing.assert_close(conv(patches), wanted)


@pytest.mark.parametrize("settings", [{"stride": 1}, {"stride": 2, "padding": 1}, {"stride": 2, "groups": 3}])
def test_other_convolutions_stay_what_they_are(settings):
    conv = torch.nn.Conv3d(3, 6, 2, **settings)
    speed_up_patches(torch.nn.ModuleList([conv]))
    assert type(conv) is torch.nn.Conv3d
