"""Tokens that the device has chosen and the host has not seen: what the next pass begins with, without a wait between.

Shape legend: R rows of a pass, S places.
"""

import torch


class LatestTokens:
    """Lies at a fixed address: recorded steps read it."""

    def __init__(self, num_places: int, device: torch.device) -> None:
        self._tokens_S = torch.zeros(num_places, dtype=torch.int64, device=device)

    def put(self, tokens_R: torch.Tensor) -> None:
        """These were chosen last; what was before is forgotten."""
        self._tokens_S[: len(tokens_R)].copy_(tokens_R)

    def among(self, ids_R: torch.Tensor, sources_R: torch.Tensor) -> torch.Tensor:
        """`ids_R`, but for rows whose token is one of the latest: `sources_R` says which, -1 none."""
        return torch.where(sources_R >= 0, self._tokens_S[sources_R.clamp(min=0)], ids_R)
