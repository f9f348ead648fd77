"""Where the checkpoint of `config.model` is; the one place outside `demo/` that knows the word `demo`."""

from pathlib import Path

from deployments.config import AppConfig

DEMO = "demo"
DEMO_CHECKPOINT_DIR = Path(__file__).parent.parent / "demo" / "checkpoint"


def resolve_model(config: AppConfig) -> str:
    """What every `from_pretrained` is given: a local folder, or a Hugging Face id (with `config.hub_options()`)."""
    return str(DEMO_CHECKPOINT_DIR) if config.model == DEMO else config.model
