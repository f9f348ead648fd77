"""Draws recorded as CUDA graphs, for a few numbers of rows: launched one by one, their many small kernels take longer
than a decode step of few rows.

Shape legend: R rows, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch

from deployments.model.sampling.candidates import Drawn, DrawSettings, draw


@dataclass(frozen=True, slots=True)
class _Recorded:
    graph: Any
    drawn: Drawn


class RecordedDraws:
    """Belongs to the engine's thread."""

    @torch.inference_mode()
    def __init__(self, vocab_size: int, max_rows: int, device: torch.device) -> None:
        self.max_rows = max_rows
        self._logits = torch.zeros((max_rows, vocab_size), device=device)
        greedy = torch.tensor([[0.0, 1.0, vocab_size, 0.0, 0.0]], dtype=torch.float64)
        self._host = greedy.expand(max_rows, 5).contiguous().pin_memory()
        self._columns = self._host.to(device)
        self._recorded: dict[int, _Recorded] = {}
        pool = None
        counts = {1 << exponent for exponent in range(max_rows.bit_length()) if 1 << exponent < max_rows}
        for count in sorted(counts | {max_rows}, reverse=True):
            logits_RV, settings = self._logits[:count], DrawSettings.of(self._columns[:count])
            draw(logits_RV, settings)  # libraries set themselves up at their first call
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                drawn = draw(logits_RV, DrawSettings.of(self._columns[:count]))
            pool = graph.pool()
            self._recorded[count] = _Recorded(graph, drawn)

    def draw(self, logits_RV: torch.Tensor, columns_R5: torch.Tensor) -> Drawn:
        """As `candidates.draw`; settings come from the host, results are overwritten by the next call."""
        rows = len(logits_RV)
        recorded = self._recorded[min(count for count in self._recorded if count >= rows)]
        self._logits[:rows].copy_(logits_RV)
        self._host[:rows].copy_(columns_R5)
        self._columns[:rows].copy_(self._host[:rows], non_blocking=True)
        recorded.graph.replay()
        drawn = recorded.drawn
        return Drawn(drawn.tokens_R[:rows], drawn.wide_R[:rows], drawn.broken_R[:rows])
