"""Draws recorded as CUDA graphs, for a few numbers of rows: launched one by one, their many small kernels take longer
than a decode step of few rows.

Shape legend: R rows, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from deployments.model.forward.recorder import Recorder
from deployments.model.forward.staged import Staged
from deployments.model.sampling.candidates import Drawn, DrawSettings, draw


@dataclass(frozen=True, slots=True)
class _Recorded:
    replay: Callable[[], object]
    drawn: Drawn


class RecordedDraws:
    """Belongs to the engine's thread."""

    @torch.inference_mode()
    def __init__(self, vocab_size: int, max_rows: int, device: torch.device, recorder: Recorder) -> None:
        self.max_rows = max_rows
        self._logits = torch.zeros((max_rows, vocab_size), device=device)
        greedy = torch.tensor([[0.0, 1.0, vocab_size, 0.0, 0.0]], dtype=torch.float64)
        self._columns = Staged(greedy.expand(max_rows, 5), device)
        counts = {1 << exponent for exponent in range(max_rows.bit_length()) if 1 << exponent < max_rows}
        self._recorded = {count: self._record(count, recorder) for count in sorted(counts | {max_rows}, reverse=True)}

    def _record(self, count: int, recorder: Recorder) -> _Recorded:
        logits_RV, columns_R5 = self._logits[:count], self._columns.there[:count]
        return _Recorded(*recorder.record(lambda: draw(logits_RV, DrawSettings.of(columns_R5))))

    def draw(self, logits_RV: torch.Tensor, columns_R5: torch.Tensor) -> Drawn:
        """As `candidates.draw`; settings come from the host, results are overwritten by the next call."""
        rows = len(logits_RV)
        recorded = self._recorded[min(count for count in self._recorded if count >= rows)]
        self._logits[:rows].copy_(logits_RV)
        self._columns.to_fill()[:rows].copy_(columns_R5)
        self._columns.send()
        recorded.replay()
        drawn = recorded.drawn
        return Drawn(drawn.tokens_R[:rows], drawn.wide_R[:rows], drawn.broken_R[:rows])
