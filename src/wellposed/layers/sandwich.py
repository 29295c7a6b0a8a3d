"""Sandwich layers (Wang & Manchester 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.constraints.orthogonal import cayley_orthogonal
from wellposed.errors import check, checked_options
from wellposed.layers.explicit import ExplicitBlock
from wellposed.numerics.outward import enlarged, enlarged_entries
from wellposed.numerics.verified import spectral_norm_upper_bound


class Sandwich(ExplicitBlock):
    """``√2 AᵀΨ σ(√2 Ψ⁻¹B x + b)`` with AAᵀ + BBᵀ = I: a layer of an LBDN (Wang & Manchester 2023).

    Args:
        in_features: features of x.
        out_features: features of y, and of the hidden state.
        device: where the parameters are created.
        dtype: their dtype.
    """

    residual = False

    @checked_options
    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check(in_features > 0, "in_features", in_features, "must be a positive integer")
        check(out_features > 0, "out_features", out_features, "must be a positive integer")
        self.in_features, self.out_features = in_features, out_features
        self.free = nn.Parameter(torch.empty(in_features + out_features, out_features, device=device, dtype=dtype))
        nn.init.normal_(self.free, std=out_features**-0.5)
        self.log_scale = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype))

    @override
    def _form(self) -> tuple[Tensor, Tensor, Tensor]:
        frame = cayley_orthogonal(self.free)
        scale = torch.exp(self.log_scale)
        inner = 2.0**0.5 * frame[self.out_features :].t() / scale[:, None]
        return inner, 2.0**0.5 * frame[: self.out_features] * scale, scale.square()

    @override
    @torch.no_grad()
    def lipschitz(self) -> float:
        """``‖[ΨH, Ψ⁻¹Gᵀ]‖₂²/2``: 2Λ ⪰ (ΛHHᵀΛ + GᵀG)/γ is Condition 2 of an equilibrium network with W = 0."""
        both = self.balanced()
        norm = enlarged_entries(spectral_norm_upper_bound(both), min(both.shape) ** 0.5, 1)
        return enlarged(0.5 * norm**2, 1)

    @torch.no_grad()
    def balanced(self) -> Tensor:
        """``[ΨH, Ψ⁻¹Gᵀ]``, float64, shape (hidden, in_features + out_features)."""
        inner, outer, _ = (part.double() for part in self.maps())
        scale = torch.exp(self.log_scale.double())[:, None]
        return torch.cat([inner * scale, outer.t() / scale], 1)
