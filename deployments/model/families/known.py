"""What is known of model families by name: one table, which the tests hold to what they verify.

Everything else is found out of a model's own signatures and by trial (`families.family`, `forward.self_check`). A
family that is not here is served if it passes the checks at the start, with a warning that its media are untested.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Quirk:
    """What a family's signatures do not tell."""

    video_token_is_image_token: bool = False
    """Frames of a video stand in the prompt as picture placeholders."""
    both_ways: Literal["", "all", "sliding"] = ""
    """In which layers tokens of one picture attend to each other both ways: a prefill chunk may not cut through it."""
    frames_apart: bool = False
    """The vision tower looks at one frame (or pair of frames) of a clip at a time: they can be encoded apart."""
    refused: str | None = None
    """Why the family can not be served."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one family."""

    quirk: Quirk = Quirk()
    verified: bool = False
    """Whether the tests hold its answers about media against `generate`."""
    part: str | None = None
    """The class of transformers that is loaded out of a checkpoint which holds more than what is served."""


_FRAMES_APART = Quirk(frames_apart=True)
_GLM = Quirk(video_token_is_image_token=True, frames_apart=True)
FAMILIES = {
    "gemma3": Known(Quirk(both_ways="all"), verified=True),
    "gemma4": Known(Quirk(both_ways="sliding", frames_apart=True), verified=True),
    "glm46v": Known(_GLM),
    "glm4v": Known(_GLM, verified=True),
    "glm4v_moe": Known(_GLM),
    "idefics3": Known(verified=True),
    "internvl": Known(verified=True),
    "llava": Known(verified=True),
    "llava_onevision": Known(verified=True),
    "mistral3": Known(verified=True),
    "mllama": Known(Quirk(refused="pictures enter by cross-attention, whose cache can not be shared by a batch")),
    "paligemma": Known(
        Quirk(refused="its whole prompt attends both ways, so that a prefill can not be cut into chunks")
    ),
    "qwen2_5_omni": Known(part="Qwen2_5OmniThinkerForConditionalGeneration"),
    "qwen2_5_omni_thinker": Known(_FRAMES_APART, verified=True),
    "qwen2_5_vl": Known(_FRAMES_APART, verified=True),
    "qwen2_vl": Known(_FRAMES_APART, verified=True),
    "qwen3_5": Known(_FRAMES_APART, verified=True),
    "qwen3_5_moe": Known(_FRAMES_APART),
    "qwen3_omni_moe": Known(part="Qwen3OmniMoeThinkerForConditionalGeneration"),
    "qwen3_omni_moe_thinker": Known(_FRAMES_APART, verified=True),
    "qwen3_vl": Known(_FRAMES_APART, verified=True),
    "qwen3_vl_moe": Known(_FRAMES_APART, verified=True),
    "smolvlm": Known(verified=True),
}
"""By `model_type`."""


def known(model_type: str) -> Known:
    """What is known of a family; the text part of a checkpoint counts as its family."""
    return FAMILIES.get(model_type.removesuffix("_text"), Known())
