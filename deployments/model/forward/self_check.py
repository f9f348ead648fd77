"""Before a model is served: does the engine's way through it give what its plain forward gives? And a warm-up.

Random ids go through a prefill in two chunks and decode steps beside an idle slot; the logits are held against one
plain forward over the whole. A family whose caches, masks or positions the engine does not understand is found here, at
start, and refused by name. Media can not be made up without the model's processor: `VERIFIED` lists the families whose
media the tests hold against `model.generate`.
"""

import logging

import torch

from deployments.errors import InternalError
from deployments.model.families.family import Family
from deployments.model.forward.decode_step import Row
from deployments.model.forward.joint_attention import install
from deployments.model.forward.joint_pass import Chunk
from deployments.model.forward.runner import ModelRunner
from deployments.model.kv_cache.cache import SlotCache
from deployments.model.kv_cache.spans import PrefillSpan

VERIFIED = frozenset(
    {
        "gemma3",
        "gemma4",
        "glm4v",
        "idefics3",
        "internvl",
        "llava",
        "llava_onevision",
        "mistral3",
        "qwen2_5_omni_thinker",
        "qwen2_5_vl",
        "qwen2_vl",
        "qwen3_5",
        "qwen3_omni_moe_thinker",
        "qwen3_vl",
        "qwen3_vl_moe",
        "smolvlm",
    }
)

_PROMPT_TOKENS, _STEPS = 12, 4
_TOLERANCE = {torch.float64: 0.01, torch.float32: 0.01}
_LOW_PRECISION_TOLERANCE = 0.25
"""In standard deviations of the logits. Rounding depends on shapes, and some layers compute in less than the model's
own precision; a wrong mask or position moves logits by whole deviations."""

logger = logging.getLogger(__name__)


@torch.inference_mode()
def check_text(runner: ModelRunner) -> None:
    """Raise `InternalError` naming the family when the engine's logits are not the plain forward's."""
    family, cache = runner.family, runner.cache
    total = min(_PROMPT_TOKENS + _STEPS, cache.max_length)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, min(family.vocab_size, 100), (total,), generator=generator)
    positions = family.with_axes(torch.arange(total, device=runner.device)[None])
    wanted = family.model(input_ids=ids[None].to(runner.device), position_ids=positions, use_cache=False).logits[0]
    first = total - _STEPS
    found = [
        _prefill(runner, cache, ids[: first // 2], 0),
        _prefill(runner, cache, ids[first // 2 : first], first // 2),
    ]
    rows = [_row(0, 0, active=False)] * min(1, cache.num_slots - 1)
    if rows:
        cache.copy_slot(0, 1, first)
    for place in range(first, total):
        logits_RV = runner.decode([*rows, _row(int(ids[place]), place, active=True)])
        found.append(logits_RV[-1])
    expected = [wanted[first // 2 - 1], wanted[first - 1], *wanted[first:]]
    for mine, plain in zip(found, expected, strict=True):
        spread = float(plain.float().std()) or 1.0
        difference = float((mine.float() - plain.float()).abs().max())
        if not difference <= _TOLERANCE.get(runner.dtype, _LOW_PRECISION_TOLERANCE) * spread:
            raise InternalError(
                f"models of the family {family.name!r} are not served: the engine's logits differ from the plain "
                f"forward's by {difference:.3g}"
            )


@torch.inference_mode()
def check_joint(runner: ModelRunner) -> None:
    """Let chunks and decode steps share a pass where its logits are the plain forward's."""
    family, cache = runner.family, runner.cache
    total = min(_PROMPT_TOKENS + _STEPS, cache.max_length)
    if not cache.joins or cache.num_slots < 2 or total < 8 or not family.joins or not install(family.text_config):
        return
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(10, min(family.vocab_size, 100), (total,), generator=generator)
    positions = family.with_axes(torch.arange(total, device=runner.device)[None])
    wanted = family.model(input_ids=ids[None].to(runner.device), position_ids=positions, use_cache=False).logits[0]
    step, middle = total - 2, total // 2
    _prefill(runner, cache, ids[:step], 0)
    ids_T = ids.to(runner.device)
    found = []
    for start, stop in ((0, middle), (middle, total)):
        chunk = Chunk(PrefillSpan(1, start, stop - start), ids_T[start:stop], None)
        found.append(runner.joint_pass.run([chunk], [_row(int(ids[step]), step, active=True)], {}))
        step += 1
    plain = wanted[[middle - 1, total - 2, total - 1, total - 1]].float()
    difference = float((torch.cat(found) - plain).abs().max())
    runner.joint = difference <= _TOLERANCE.get(runner.dtype, _LOW_PRECISION_TOLERANCE) * (float(plain.std()) or 1.0)
    if not runner.joint:
        logger.warning("%r: prompts and answers are computed in passes of their own (%.3g)", family.name, difference)


def warn_unverified(family: Family) -> None:
    """Say so when nothing but the text path of a family is known to be right."""
    if family.features and family.name not in VERIFIED:
        kinds = ", ".join(sorted(family.features))
        logger.warning("the family %r is served untested: its %s inputs have not been compared", family.name, kinds)


@torch.inference_mode()
def warm_up(runner: ModelRunner) -> None:
    """Run decode steps of the shapes to come, so that the first requests do not pay for one-time work."""
    for rows, length in runner.decode_shapes:
        runner.decode([_row(1, length, active=True)] * rows)


def _prefill(runner: ModelRunner, cache: SlotCache, ids: torch.Tensor, start: int) -> torch.Tensor:
    """Logits [V] after a chunk of text in slot 0."""
    family = runner.family
    cache.at(PrefillSpan(0, start, len(ids)))
    places = torch.arange(start, start + len(ids), device=runner.device)
    result = family.model(
        input_ids=ids[None].to(runner.device),
        position_ids=family.with_axes(places[None]),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    cache.done()
    logits_V: torch.Tensor = result.logits[0, -1]
    return logits_V


def _row(token_id: int, length: int, *, active: bool) -> Row:
    return Row(token_id, length, (0, 0, 0), active)
