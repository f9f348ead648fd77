"""The demo model, a tiny Qwen2.5-Omni thinker that answers questions on simple shapes and tones; how it was made."""

from pathlib import Path

CHECKPOINT_DIR: Path = Path(__file__).parent / "checkpoint"
"""Folder that `AutoProcessor` and `AutoModelForMultimodalLM` load: safetensors, tokenizer, processor, chat template."""
