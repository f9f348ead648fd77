"""Before a model is served: does the engine's way through it give what its plain forward gives? And a warm-up.

Random ids go through a prefill in two chunks and decode steps, two sequences side by side; the logits are held against
plain forwards over the whole. A family whose caches, masks or positions the engine does not understand is found here,
at start, and refused by name. Media can not be made up without the model's processor: `families.known` has the families
whose media the tests hold against `model.generate`.
"""

import logging

import torch

from deployments.errors import InternalError
from deployments.model.families.family import Family
from deployments.model.families.known import known
from deployments.model.forward.batch import Chunk, Row
from deployments.model.forward.runner import ModelRunner

_PROMPT_TOKENS, _STEPS = 12, 4
_TOLERANCE = {torch.float64: 0.01, torch.float32: 0.01}
_LOW_PRECISION_TOLERANCE = 0.25
"""Root mean square, in standard deviations of the logits. Rounding depends on shapes, and some layers compute in less
than the model's own precision; a wrong mask or position moves logits by whole deviations."""

logger = logging.getLogger(__name__)


@torch.inference_mode()
def check_text(runner: ModelRunner) -> None:
    """Raise `InternalError` naming the family when the engine's logits are not the plain forward's.

    Two sequences of unequal length go through the same passes: chunks beside chunks, then chunks beside decode rows.
    """
    family, cache = runner.family, runner.cache
    total = min(_PROMPT_TOKENS + _STEPS, cache.max_length)
    if total < _STEPS + 2:
        return
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(min(10, family.vocab_size - 1), min(family.vocab_size, 100), (2, total), generator=generator)
    positions = family.with_axes(torch.arange(total, device=runner.device)[None])
    wanted = [
        family.model(input_ids=row[None].to(runner.device), position_ids=positions, use_cache=False).logits[0]
        for row in ids
    ]
    tables = [cache.open() for _ in ids] if cache.pool.num_pages > 1 else [cache.open()]
    for table in tables:
        if not cache.reserve(table, total):
            raise InternalError("the KV cache has no room for the self-check")
    first = total - _STEPS
    lengths = [first, first // 2][: len(tables)]
    pairs = []
    for start in (0, 1):  # a prompt in two chunks, the second one of one token for the shorter sequence
        chunks = []
        for row, table, length in zip(ids, tables, lengths, strict=True):
            low, high = (0, length // 2) if not start else (length // 2, length)
            chunks.append(Chunk(row[low:high], low, None, table))
        logits = runner.run([], [(chunk, None) for chunk in chunks])
        stops = [chunk.start + len(chunk.ids_Q) for chunk in chunks]
        pairs += [(logits[i], wanted[i][stop - 1]) for i, stop in enumerate(stops)]
    for _ in range(_STEPS):
        rows = [
            Row(int(row[length]), length, (0, 0, 0), table)
            for row, table, length in zip(ids, tables, lengths, strict=True)
        ]
        logits = runner.run(rows, [])
        pairs += [(logits[i], wanted[i][length]) for i, length in enumerate(lengths)]
        lengths = [length + 1 for length in lengths]
    for table in tables:
        cache.close(table)
    for mine, plain in pairs:
        check_close(family.name, runner.dtype, mine, plain)


def check_close(family: str, dtype: torch.dtype, mine: torch.Tensor, plain: torch.Tensor) -> None:
    """Raise `InternalError` naming the family where logits differ by more than rounding explains."""
    spread = float(plain.float().std()) or 1.0
    difference = float((mine.float() - plain.float()).square().mean().sqrt())
    if not difference <= _TOLERANCE.get(dtype, _LOW_PRECISION_TOLERANCE) * spread:
        raise InternalError(
            f"models of the family {family!r} are not served: the engine's logits differ from the plain forward's by "
            f"{difference / spread:.3g} of their spread"
        )


def warn_unverified(family: Family) -> None:
    """Say so when nothing but the text path of a family is known to be right."""
    if family.features and not known(family.name).verified:
        kinds = ", ".join(sorted(family.features))
        logger.warning("the family %r is served untested: its %s inputs have not been compared", family.name, kinds)


@torch.inference_mode()
def warm_up(runner: ModelRunner, max_rows: int, chunk_tokens: int) -> None:
    """Run passes of the shapes to come, so that the first requests do not pay for one-time work."""
    cache = runner.cache
    counts = sorted({min(1 << exponent, max_rows) for exponent in range(max_rows.bit_length() + 1)})
    table = cache.open()
    if cache.reserve(table, 2):
        for count in counts:
            runner.run([Row(1, 1, (0, 0, 0), table)] * count, [])
    longest = min(chunk_tokens, cache.max_length)
    for tokens in (64, 512, longest) if runner.device.type == "cuda" else ():
        if tokens <= longest and cache.reserve(table, min(tokens + 1, longest)):
            chunk = Chunk(torch.ones(tokens, dtype=torch.int64), 0, None, table)
            runner.run([], [(chunk, None)])
            if tokens < longest and max_rows > 1:  # beside answers, as it will be
                runner.run([Row(1, tokens, (0, 0, 0), table)], [(chunk, None)])
    cache.close(table)
