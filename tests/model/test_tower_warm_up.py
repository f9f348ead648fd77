"""Every tower whose inputs are known is warm before the first request."""

import pytest

from deployments.model.families.family import Family
from deployments.model.forward.tower_warm_up import warm_up_towers
from deployments.types import MediaKind
from tests.support.tiny_families import FAMILIES


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "qwen2_5_omni", "qwen3_omni_moe", "llava"])
def test_pictures_clips_and_sounds_are_encoded_once(name, device):
    family = Family(FAMILIES[name].build(device=device))
    assert warm_up_towers(family) == {MediaKind(kind) for kind in FAMILIES[name].media}
