"""Residual layers that a semidefinite program bounds (Araujo et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.errors import checked_options
from wellposed.layers.explicit import ExplicitBlock, checked_hidden
from wellposed.numerics.outward import enlarged, enlarged_entries, rounding_constant
from wellposed.numerics.verified import spectral_norm_upper_bound


class SLL(ExplicitBlock):
    """``x − HᵀT σ(H x + b)`` with ``T_i = 2/Σ_j |HHᵀ|_ij q_j/q_i`` (Araujo et al. 2023): 0 ⪯ HᵀTDH ⪯ 2I for slopes D.

    Args:
        features: features of x and y.
        hidden: rows of H; None for ``features``.
        device: where the parameters are created.
        dtype: their dtype.
    """

    residual = True

    @checked_options
    def __init__(
        self,
        features: int,
        hidden: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = checked_hidden(features, hidden)
        self.in_features = self.out_features = features
        self.free = nn.Parameter(torch.empty(hidden, features, device=device, dtype=dtype))
        nn.init.normal_(self.free, std=features**-0.5)
        self.log_q = nn.Parameter(torch.zeros(hidden, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(hidden, device=device, dtype=dtype))

    @override
    def _form(self) -> tuple[Tensor, Tensor, Tensor]:
        # By differences of logarithms: single q may underflow, their ratios matter.
        products = (self.free @ self.free.t()).abs()
        ratios = torch.exp((self.log_q - self.log_q[:, None]).masked_fill(products == 0.0, -torch.inf))
        sums = (products * ratios).sum(1)
        scale = 2.0 / (sums + torch.finfo(sums.dtype).tiny)
        return self.free, -self.free.t() * scale, scale

    @override
    @torch.no_grad()
    def lipschitz(self) -> float:
        """``max(1, ‖HᵀTH‖₂ − 1)``, and what rounding G = −HᵀT adds to it."""
        inner, outer, scale = (part.double() for part in self.maps())
        scaled = scale.sqrt()[:, None] * inner
        norm = enlarged_entries(spectral_norm_upper_bound(scaled), min(scaled.shape) ** 0.5, 2)
        rounding = rounding_constant(8) * float(outer.norm())  # of the product and the sum below, which nearly cancel
        missed = spectral_norm_upper_bound(outer + inner.t() * scale) + rounding
        rounded = missed * spectral_norm_upper_bound(inner)
        return enlarged(max(1.0, enlarged(norm**2, 1) - 1.0) + rounded, 4)
