"""The well-posedness condition of implicit graph networks (Gu et al. 2020): ‖W‖_∞ ≤ κ/λ_pf(A) by projecting each row.

With |σ(a) − σ(b)| ≤ |a − b|, ``X = σ(A X Wᵀ + B)`` has one solution if λ_pf(|W|)·λ_pf(|A|) < 1, and λ_pf(|W|) ≤ ‖W‖_∞. For
positively homogeneous σ nothing is lost: a diagonal rescaling of the features brings ‖W‖_∞ as close to λ_pf(|W|) as is wanted.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wellposed.constraints.base import Projected
from wellposed.constraints.factorisations import formed_once
from wellposed.constraints.holding import Holding
from wellposed.errors import check


def project_rows(matrix: Tensor, radius: float) -> Tensor:
    """Each row's nearest point in the ℓ1 ball, in the Euclidean distance: exact, by sorting; differentiable.

    Rows within a rounding error of the ball count as inside and are left alone, so that a projected point has the gradient of
    the identity: entries at zero go on receiving gradients.

    Args:
        matrix: shape (rows, columns).
        radius: of the ball, positive.
    """
    inner = radius * (1.0 - (matrix.shape[1] + 16) * torch.finfo(matrix.dtype).eps)
    size = matrix.abs().double()
    ordered = size.sort(1, descending=True).values
    counts = torch.arange(1, matrix.shape[1] + 1, dtype=size.dtype, device=matrix.device)
    thresholds = (ordered.cumsum(1) - inner) / counts
    last = (ordered > thresholds).sum(1, keepdim=True).clamp_min(1) - 1
    threshold = thresholds.gather(1, last).clamp_min(0.0)
    inside = size.detach().sum(1, keepdim=True) <= radius
    return torch.where(inside, matrix, matrix.sign() * (size - threshold).clamp_min(0.0).to(matrix))


class RowBounded(Holding, Projected):
    """A square weight whose rows have absolute sums of at most ``radius``, whatever its parameter.

    The weight that runs is the projection of the parameter. Calling `project` after each optimiser step, as the training
    command does, keeps the parameter itself in the set and makes this projected gradient descent.

    Args:
        size: rows and columns.
        radius: the bound.
        device: where the parameter is created.
        dtype: its dtype.
    """

    def __init__(
        self, size: int, radius: float, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        check(0.0 < radius < float("inf"), "radius", radius, "must be positive and finite")
        self.radius = radius
        self.free = nn.Parameter(torch.empty(size, size, device=device, dtype=dtype))
        nn.init.uniform_(self.free, -(size**-0.5), size**-0.5)
        self.project()

    @property
    def weight(self) -> Tensor:
        """The weight as it runs, with its graph."""
        return self.formed("weight", self._form)

    def _form(self) -> Tensor:
        radius = self.radius
        return formed_once(self, f"rows of {radius}", lambda free: project_rows(free, radius), self.free)

    @torch.no_grad()
    def project(self) -> None:
        """Move the parameter to its projection."""
        self.free.copy_(self.weight)

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"size={self.free.shape[0]}, radius={self.radius:g}"
