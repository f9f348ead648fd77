"""A rank's part of a loaded model: heads of its attentions, columns of its MLPs and of its head. Plain tensors.

Query, key, value, gate and up projections are cut by columns, output and down projections by rows, whose products the
ranks sum; a head gives each rank a part of the vocabulary. What is not recognised stays whole on every rank, which is
right whatever it computes: norms, embeddings, routers, layers with linear attention, towers.

Done before anything is fused: merged projections and gates are then merged from what is left.
"""

import logging
from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from deployments.core.model_config import indivisible
from deployments.errors import InternalError
from deployments.model.parallel.ranks import Ranks

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")

logger = logging.getLogger(__name__)


class SummedLinear(nn.Linear):
    """Its input is this rank's part; the ranks' products are summed."""

    ranks: Ranks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = self.ranks.sum(functional.linear(x, self.weight))
        return whole if self.bias is None else whole + self.bias


class JoinedLinear(nn.Linear):
    """Computes this rank's part of the output; every rank gets all of it. `out_features` is the whole."""

    ranks: Ranks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ranks.joined(functional.linear(x, self.weight, self.bias))


def shard(model: Any, ranks: Ranks) -> None:
    """Leave this rank's part of the model. Raises `InternalError` saying what can not be divided."""
    text_config = model.config.get_text_config(decoder=True)
    if (why := indivisible(model.config.to_dict(), ranks.size)) is not None:
        raise InternalError(why)
    done: Counter[str] = Counter()
    for module in _decoder(model, text_config).modules():
        for kind, cut in (("attentions", _cut_attention), ("MLPs", _cut_mlp), ("groups of experts", _cut_experts)):
            done[kind] += cut(module, ranks)
    head = model.get_output_embeddings()
    if type(head) is nn.Linear and head.out_features % ranks.size == 0:
        _columns(head, ranks)
        _swap(head, JoinedLinear, ranks)
        head.out_features *= ranks.size
        done["heads"] += 1
    if not done["attentions"]:
        raise InternalError(f"models of the family {model.config.model_type!r} can not be divided among ranks")
    logger.info("divided among %d ranks: %s", ranks.size, ", ".join(f"{n} {kind}" for kind, n in done.items()))


def _decoder(model: Any, text_config: Any) -> Any:
    """The language model: the towers beside it have layers of the same names."""
    found = [m for m in model.modules() if getattr(m, "config", None) is text_config and hasattr(m, "layers")]
    if not found:
        raise InternalError(f"models of the family {model.config.model_type!r} can not be divided: no decoder is found")
    return found[0]


def _cut_attention(module: Any, ranks: Ranks) -> bool:
    """By heads. Layers that share others' keys have no key and value projections of their own."""
    q, k, v, o = (getattr(module, name, None) for name in _PROJECTIONS)
    columns = [linear for linear in (q, k, v) if linear is not None]
    if q is None or o is None or not _plain(o, *columns):
        return False
    head_dim = int(module.head_dim)
    for width in (o.in_features, *(linear.out_features for linear in columns)):
        _divides(width // head_dim, "heads", ranks)
    others = (parameter for name, parameter in module.named_parameters() if name.split(".")[0] not in _PROJECTIONS)
    if any(tuple(parameter.shape) != (head_dim,) for parameter in others):
        raise InternalError("an attention of this model has weights of its heads that can not be divided")
    for linear in columns:
        _columns(linear, ranks)
    _rows(o, ranks)
    return True


def _cut_mlp(module: Any, ranks: Ranks) -> bool:
    """By the width of the gate, which may be one matrix with what it gates."""
    pair = [getattr(module, name, None) for name in ("gate_proj", "up_proj")]
    both, down = getattr(module, "gate_up_proj", None), getattr(module, "down_proj", None)
    if _plain(*pair, down):
        cut, parts = pair, 1
    elif _plain(both, down):
        cut, parts = [both], 2
    else:
        return False
    assert down is not None
    _divides(down.in_features, "columns of a gate", ranks)
    for linear in cut:
        _columns(linear, ranks, parts)
    _rows(down, ranks)
    return True


def _cut_experts(module: Any, ranks: Ranks) -> bool:
    """Each expert by the width of its gate: [E, 2 F, D] and [E, D, F]. Every rank routes all tokens alike."""
    both, down = getattr(module, "gate_up_proj", None), getattr(module, "down_proj", None)
    if not isinstance(both, nn.Parameter) or not isinstance(down, nn.Parameter) or both.ndim != 3:
        return False
    if both.shape[1] != 2 * down.shape[2] or both.shape[2] != down.shape[1]:
        raise InternalError("the experts of this model are laid out in a way that can not be divided")
    _divides(down.shape[2], "columns of an expert", ranks)
    module.gate_up_proj = _part(both, 1, ranks, parts=2)
    module.down_proj = _part(down, 2, ranks)
    module.register_forward_hook(lambda _module, _inputs, out: ranks.sum(out))
    return True


def _plain(*linears: Any) -> bool:
    return all(type(linear) is nn.Linear for linear in linears)


def _divides(number: int, what: str, ranks: Ranks) -> None:
    if number % ranks.size:
        raise InternalError(f"engine.tensor_parallel: {ranks.size} ranks do not divide {number} {what} of this model")


def _columns(linear: Any, ranks: Ranks, parts: int = 1) -> None:
    linear.weight = _part(linear.weight, 0, ranks, parts)
    if linear.bias is not None:
        linear.bias = _part(linear.bias, 0, ranks, parts)
    linear.out_features //= ranks.size


def _rows(linear: Any, ranks: Ranks) -> None:
    linear.weight = _part(linear.weight, 1, ranks)
    linear.in_features //= ranks.size
    _swap(linear, SummedLinear, ranks)


def _part(weight: torch.Tensor, axis: int, ranks: Ranks, parts: int = 1) -> nn.Parameter:
    """This rank's share of each of `parts` equal parts along an axis, in memory of its own."""
    apart = torch.unflatten(weight.detach(), axis, (parts, ranks.size, -1)).select(axis + 1, ranks.rank)
    return nn.Parameter(apart.flatten(axis, axis + 1).clone(), requires_grad=False)


def _swap(linear: Any, kind: type[nn.Linear], ranks: Ranks) -> None:
    linear.__class__ = kind
    linear.ranks = ranks
