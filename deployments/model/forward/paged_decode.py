"""Attention of a decode step: one query a row, over keys and values that lie in pages of one flat store.

On a card a kernel reads the pages in place (`kernels.decode`). The reference here gathers them: for a CPU, for types
that the kernel does not compute in (float64, in tests), and to hold the kernel against. Neither asks the device for
anything: both can be recorded in a CUDA graph.

Shape legend: R rows, H query heads, K key/value heads, D head dimension, T tokens of the store, P pages of a table,
L = P * page size keys that a table reaches.
"""

import torch

_KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def paged_decode(
    query_RHD: torch.Tensor,
    keys_TKD: torch.Tensor,
    values_TKD: torch.Tensor,
    tables_RP: torch.Tensor,
    lengths_R: torch.Tensor,
    *,
    page_size: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """[R, H, D]: each row's query over its own keys, itself included; zeros for rows of length 0.

    `tables_RP` int32: numbers of a row's pages; `lengths_R` int32: keys that a row has; a row looks at the last
    `window` of them. Query heads that share a key/value head follow each other. `softcap` bounds scores by a tanh.
    """
    if out is None:
        out = torch.empty_like(query_RHD, memory_format=torch.contiguous_format)
    if query_RHD.is_cuda and query_RHD.dtype in _KERNEL_DTYPES:
        from deployments.model.kernels import decode

        return decode.paged_decode(
            query_RHD,
            keys_TKD,
            values_TKD,
            tables_RP,
            lengths_R,
            page_size=page_size,
            scale=scale,
            window=window,
            softcap=softcap,
            out=out,
        )
    places_RL = (tables_RP.long()[:, :, None] * page_size + _count(page_size, tables_RP)).flatten(1)
    keys_RLKD, values_RLKD = keys_TKD[places_RL], values_TKD[places_RL]
    n_L, lengths_R1 = _count(places_RL.shape[1], tables_RP), lengths_R.long()[:, None]
    seen_RL = n_L < lengths_R1
    if window is not None:
        seen_RL = seen_RL & (n_L >= lengths_R1 - window)
    rows, heads, dim = query_RHD.shape
    query_RKGD = query_RHD.view(rows, keys_TKD.shape[1], -1, dim)
    scores_RKGL = torch.einsum("rkgd,rlkd->rkgl", query_RKGD, keys_RLKD) * scale
    if softcap is not None:
        scores_RKGL = softcap * torch.tanh(scores_RKGL / softcap)
    scores_RKGL = scores_RKGL.masked_fill(~seen_RL[:, None, None], torch.finfo(scores_RKGL.dtype).min)
    weights_RKGL = scores_RKGL.softmax(-1) * seen_RL[:, None, None]  # of a row without keys: zeros
    return out.copy_(torch.einsum("rkgl,rlkd->rkgd", weights_RKGL, values_RLKD).reshape(rows, heads, dim))


def _count(size: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(size, device=like.device)
