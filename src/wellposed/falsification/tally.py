"""How a method of the campaign fares."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SURE = 1e-9  # relative: what rounding of the judgement may add up to


@dataclass
class Tally:
    """What became of one method.

    Attributes:
        trials: pairs or points judged.
        violations: of them, those that contradict the certificate.
        refused: networks or inputs that were not certified.
        closest: the largest observed share of a claimed constant or error.
    """

    trials: int = 0
    violations: int = 0
    refused: int = 0
    closest: float = 0.0

    def judge(self, observed: Tensor, claimed: Tensor | float) -> None:
        """Count trials whose observed values must not exceed claimed ones."""
        limit = torch.as_tensor(claimed, dtype=torch.float64, device="cpu").expand_as(observed)
        self.trials += observed.numel()
        self.violations += int((~(observed <= limit * (1.0 + SURE))).sum())
        positive = (limit > 0.0) & torch.isfinite(observed)
        if bool(positive.any()):
            self.closest = max(self.closest, float((observed / limit)[positive].max()))
