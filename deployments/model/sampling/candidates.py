"""Drawing each row's next token in a few passes over its logits, without a sort of the whole vocabulary.

Rows with limits (top-p, top-k, min-p) draw among the most likely `CANDIDATES` tokens: what limits leave is mostly
there, and the probability of what lies behind is known from the normaliser. A row whose limits reach further is told
apart (`wide_R`), for the caller to draw it from the whole (`draw_from_all`). Rows without limits draw from the whole,
block by block. Nothing here asks the device for anything: a step with `draw` can be recorded in a CUDA graph.

Shape legend: R rows, V vocabulary, C candidates, B blocks.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

CANDIDATES = 1024
_BLOCK = 512
_BELOW_ONE = 1 - 2.0**-53


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """How rows draw, on the device: [R, 1] each."""

    temperature: torch.Tensor
    """float32; 0: the most likely token."""
    top_p: torch.Tensor
    top_k: torch.Tensor
    """The vocabulary's size: no limit."""
    min_p: torch.Tensor
    uniform: torch.Tensor
    """float64, in [0, 1)."""

    @classmethod
    def of(cls, columns_R5: torch.Tensor) -> "DrawSettings":
        """From one float64 tensor with these columns."""
        temperature, top_p, top_k, min_p = columns_R5[:, :4].float().T[:, :, None]
        return cls(temperature, top_p, top_k, min_p, columns_R5[:, 4:])

    def rows(self, index: torch.Tensor) -> "DrawSettings":
        """Of some rows alone."""
        return DrawSettings(
            self.temperature[index], self.top_p[index], self.top_k[index], self.min_p[index], self.uniform[index]
        )


@dataclass(frozen=True, slots=True)
class Drawn:
    """A step's tokens, on the device."""

    tokens_R: torch.Tensor
    """int64."""
    wide_R: torch.Tensor
    """bool: the row's limits leave more than the candidates; its token is not to be used."""
    broken_R: torch.Tensor
    """bool: the row's logits are not numbers."""


def draw(logits_RV: torch.Tensor, settings: DrawSettings) -> Drawn:
    """A token for each row by inverse transform: the first whose cumulated probability passes the uniform number.

    `logits_RV` float32. Limited rows cumulate from the most likely token on, others in the order of token ids.
    """
    vocabulary = logits_RV.shape[-1]
    greedy_R1 = settings.temperature == 0
    scaled_RV = logits_RV / settings.temperature.masked_fill(greedy_R1, 1.0)
    normaliser_R1 = scaled_RV.logsumexp(-1, keepdim=True)
    best_RC, ids_RC = scaled_RV.topk(min(CANDIDATES, vocabulary), dim=-1)
    probs_RC = (best_RC - normaliser_R1).exp()
    kept_RC, before_RC = _kept(probs_RC, settings)
    picked_R1 = _first_beyond((probs_RC * kept_RC).double(), settings.uniform)
    limited_R1 = (settings.top_p < 1) | (settings.top_k < vocabulary) | (settings.min_p > 0)
    tokens_R1 = ids_RC.gather(-1, torch.where(greedy_R1, torch.zeros_like(picked_R1), picked_R1))
    plain_R1 = _from_blocks((scaled_RV - normaliser_R1).exp(), settings.uniform)
    tokens_R1 = torch.where(limited_R1 | greedy_R1, tokens_R1, plain_R1)
    # More may follow a last candidate that is kept, unless a limit ends with it or nothing is left.
    reached_R1 = before_RC[:, -1:] + probs_RC[:, -1:]
    ends_R1 = (settings.top_k <= CANDIDATES) | (reached_R1 >= settings.top_p) | (probs_RC[:, -1:] == 0)
    wide_R1 = kept_RC[:, -1:] & ~ends_R1 & limited_R1 & ~greedy_R1 & (vocabulary > CANDIDATES)
    return Drawn(tokens_R1[:, 0], wide_R1[:, 0], logits_RV.sum(-1).isnan())


def draw_from_all(logits_RV: torch.Tensor, settings: DrawSettings) -> torch.Tensor:
    """int64 [R]: as limited rows of `draw`, whatever their limits leave, by a sort of the vocabulary."""
    best_RV, ids_RV = (logits_RV / settings.temperature).sort(dim=-1, descending=True, stable=True)
    probs_RV = best_RV.softmax(-1)
    kept_RV, _ = _kept(probs_RV, settings)
    picked_R1 = _first_beyond((probs_RV * kept_RV).double(), settings.uniform)
    return ids_RV.gather(-1, picked_R1)[:, 0]


def _kept(probs_RC: torch.Tensor, settings: DrawSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """bool [R, C]: which of the most likely tokens the limits leave, the first one always; and the probability before
    each."""
    before_RC = probs_RC.cumsum(-1) - probs_RC
    places_C = torch.arange(probs_RC.shape[-1], device=probs_RC.device)
    kept_RC = (places_C[None] < settings.top_k) & (before_RC < settings.top_p)
    kept_RC = kept_RC & (probs_RC >= probs_RC[:, :1] * settings.min_p)
    return kept_RC | (places_C[None] == 0), before_RC


def _first_beyond(weights_RC: torch.Tensor, uniform_R1: torch.Tensor) -> torch.Tensor:
    """int64 [R, 1]: where the cumulated weights pass that share of their sum; the weight there is above zero."""
    cumulated_RC = weights_RC.cumsum(-1)
    total_R1 = cumulated_RC[:, -1:]
    threshold_R1 = torch.minimum(uniform_R1 * total_R1, total_R1 * _BELOW_ONE)
    return torch.searchsorted(cumulated_RC, threshold_R1, right=True).clamp_(max=weights_RC.shape[-1] - 1)


def _from_blocks(probs_RV: torch.Tensor, uniform_R1: torch.Tensor) -> torch.Tensor:
    """int64 [R, 1]: `_first_beyond` in two steps, the block and the place in it, so that little is cumulated."""
    rows, vocabulary = probs_RV.shape
    probs_RBN = pad(probs_RV, (0, -vocabulary % _BLOCK)).view(rows, -1, _BLOCK)
    cumulated_RB = probs_RBN.sum(-1, dtype=torch.float64).cumsum(-1)
    total_R1 = cumulated_RB[:, -1:]
    threshold_R1 = torch.minimum(uniform_R1 * total_R1, total_R1 * _BELOW_ONE)
    block_R1 = torch.searchsorted(cumulated_RB, threshold_R1, right=True).clamp_(max=cumulated_RB.shape[-1] - 1)
    before_R1 = pad(cumulated_RB, (1, 0)).gather(-1, block_R1)
    inside_RN = probs_RBN.gather(1, block_R1[:, :, None].expand(-1, -1, _BLOCK))[:, 0].double()
    mass_R1 = inside_RN.sum(-1, keepdim=True)
    share_R1 = ((threshold_R1 - before_R1) / mass_R1).clamp(0, _BELOW_ONE)
    return block_R1 * _BLOCK + _first_beyond(inside_RN, share_R1)
