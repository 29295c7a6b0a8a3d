"""Ordinary residual layers, with the constant that norms give."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.errors import checked_options
from wellposed.layers.explicit import ExplicitBlock, checked_hidden
from wellposed.numerics.outward import enlarged
from wellposed.numerics.verified import spectral_norm_upper_bound


class Residual(ExplicitBlock):
    """``x + G σ(H x + b)`` with any G and H, and the Lipschitz constant 1 + ‖G‖₂‖H‖₂.

    Λ = (‖G‖₂/‖H‖₂)·I proves that constant: with γ = 1 + ‖G‖‖H‖, (γ − 1/γ)(2λ − ‖G‖²/γ) = (‖G‖/γ + λ‖H‖)² for λ = ‖G‖/‖H‖.

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
        inner = nn.Linear(features, hidden, device=device, dtype=dtype)
        self.inner, self.bias = inner.weight, inner.bias
        self.outer = nn.Linear(hidden, features, bias=False, device=device, dtype=dtype).weight

    @override
    def _form(self) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            sizes = [torch.linalg.matrix_norm(part.double(), 2) for part in (self.outer, self.inner)]
            multiplier = (sizes[0] / sizes[1]).clamp(1e-30, 1e30).to(self.bias)
        return self.inner, self.outer, multiplier.expand(len(self.bias))

    @override
    def nominal(self) -> float:
        """``1 + ‖G‖₂‖H‖₂``."""
        return self.lipschitz()

    @override
    @torch.no_grad()
    def lipschitz(self) -> float:
        """``1 + ‖G‖₂‖H‖₂``."""
        return enlarged(1.0 + spectral_norm_upper_bound(self.outer) * spectral_norm_upper_bound(self.inner), 2)
