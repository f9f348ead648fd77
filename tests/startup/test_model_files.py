"""What is no checkpoint is found by its files, in a folder or on the hub."""

import json
import shutil
from pathlib import Path

import pytest

from deployments.config import AppConfig
from deployments.core.checkpoint import DEMO_CHECKPOINT_DIR
from deployments.startup.model_files import read_model_files
from deployments.startup.settings import WrongSetting


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_CHECKPOINT_DIR, tmp_path / "checkpoint"))


def refusal(model: Path | str) -> str:
    with pytest.raises(WrongSetting) as wrong:
        read_model_files(AppConfig(model=str(model)))
    return str(wrong.value)


def test_the_weights_are_counted_from_their_headers() -> None:
    files = read_model_files(AppConfig())
    weights = DEMO_CHECKPOINT_DIR / "model.safetensors"
    assert files.stored_bytes == weights.stat().st_size
    assert files.parameters is not None
    assert files.parameters * 4 <= weights.stat().st_size < files.parameters * 4 + 2**20  # float32, and a header


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no folder" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", "no config.json that names a model_type"),
        ("model.safetensors", "has no weights"),
        ("tokenizer*.json", "has no tokenizer"),
    ],
)
def test_a_folder_without_what_makes_a_checkpoint(checkpoint: Path, missing: str, said: str) -> None:
    for path in checkpoint.glob(missing):
        path.unlink()
    assert said in refusal(checkpoint)


def test_weights_that_were_cut_short(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "is cut short" in refusal(checkpoint)
    weights.write_bytes(whole[:1000])
    assert "holds no weights that can be read" in refusal(checkpoint)


def test_a_config_that_is_no_json(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("{", encoding="utf-8")
    assert "is no checkpoint" in refusal(checkpoint)
    (checkpoint / "config.json").write_text(json.dumps([]), encoding="utf-8")
    assert "is no checkpoint" in refusal(checkpoint)


def test_what_can_be_no_id_of_the_hub() -> None:
    assert "neither a folder nor the id of a model" in refusal("a b")
