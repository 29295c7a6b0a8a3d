"""The direct map of bounded layers, from the input to the output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.constraints.holding import Holding
from wellposed.maps.base import FlatMap
from wellposed.numerics.linear_algebra import check_precision


class Feedthrough(Holding, FlatMap):
    """D = γN with ‖N‖₂ < 1: N = (1 − δ)·2(I + FFᵀ)⁻¹F, whose singular values are (1 − δ)·2s/(1 + s²) for singular values s of F.

    Every N with ‖N‖₂ ≤ 1 − δ arises. At F = 0, where it starts, D is zero.

    Args:
        in_features: inputs.
        out_features: outputs.
        log_gamma: logarithm of γ, shared.
        where: device and dtype.
    """

    margin = 0.05

    def __init__(self, in_features: int, out_features: int, log_gamma: nn.Parameter, **where: Any) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = in_features, out_features, None
        self.free = nn.Parameter(torch.zeros(out_features, in_features, **where))
        self.log_gamma = log_gamma

    @property
    def contraction(self) -> Tensor:
        """N, shape (out_features, in_features), with its graph."""
        free = self.free
        check_precision(free.dtype)
        identity = torch.eye(len(free), dtype=free.dtype, device=free.device)
        return (2.0 - 2.0 * self.margin) * torch.linalg.solve(identity + free @ free.t(), free)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """D as it runs."""
        return self.formed("weight", lambda: self.contraction * torch.exp(self.log_gamma))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)

    @override
    def bound_logarithm(self) -> Tensor:
        return self.log_gamma
