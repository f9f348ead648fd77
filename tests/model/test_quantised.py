"""Checkpoints with packed weights are brought to the device as they are read, and what lacks its package says so."""

import json

import pytest
import torch

from deployments.config import AppConfig
from deployments.errors import InternalError
from deployments.model.loading import load_model
from tests.support.tiny_families import FAMILIES


def test_format_whose_package_is_missing_ends_the_start_with_its_name(tmp_path):
    FAMILIES["llava"].build(dtype=torch.float32).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InternalError, match="awq"):
        load_model(AppConfig(model=str(tmp_path)), torch.device("cpu"))
