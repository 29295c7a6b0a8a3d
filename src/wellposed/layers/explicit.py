"""Explicit layers with a known Lipschitz constant: sandwich layers, SDP-based and ordinary residual layers.

All are of the form ``y = S x + G σ(H x + b)`` with ReLU for σ, S zero or the identity, and a diagonal multiplier Λ that
proves the constant: with D the slopes of σ between two inputs, 0 ≤ D ≤ I.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from wellposed.constraints.holding import Holding
from wellposed.constraints.orthogonal import cayley_orthogonal
from wellposed.errors import check
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.linear_algebra import full_precision
from wellposed.numerics.verified import spectral_norm_upper_bound


class ExplicitBlock(Holding, ABC):
    """``y = S x + G σ(H x + b)`` with a proved Lipschitz constant.

    Attributes:
        in_features: features of x.
        out_features: features of y.
        residual: whether S is the identity; else it is zero.
        bias: b, shape (hidden,).
    """

    in_features: int
    out_features: int
    residual: bool
    bias: nn.Parameter

    forms = ("maps",)

    def maps(self) -> tuple[Tensor, Tensor, Tensor]:
        """H of shape (hidden, in_features), G of shape (out_features, hidden), and the diagonal of Λ; with their graph."""
        return self.formed("maps", self._form)

    @abstractmethod
    def _form(self) -> tuple[Tensor, Tensor, Tensor]:
        """H, G and the diagonal of Λ, formed from the free parameters."""

    @abstractmethod
    def lipschitz(self) -> float:
        """Upper bound of the constant for the stored numbers."""

    def check_parts(self) -> None:
        """Raise an error if the parameters have other shapes than the features that the layer says."""
        inner, outer, scale = self.maps()
        hidden = self.bias.shape
        shapes = inner.shape == (*hidden, self.in_features) and outer.shape == (self.out_features, *hidden)
        square = not self.residual or self.in_features == self.out_features
        check(
            len(hidden) == 1 and shapes and square and scale.shape == hidden,
            "maps",
            tuple(inner.shape),
            "do not fit together",
        )

    def nominal(self) -> float:
        """The constant that Λ proves in exact arithmetic."""
        return 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Shape (*, in_features) to (*, out_features)."""
        with full_precision(x.device):
            inner, outer, _ = self.maps()
            value = torch.relu(nn.functional.linear(x, inner, self.bias)) @ outer.t()
            return x + value if self.residual else value

    @torch.no_grad()
    def rounding(self, x: Tensor) -> Tensor:
        """Bound on the Euclidean rounding error of ``forward`` per row of x, for the maps as they are formed."""
        inner, outer, _ = (part.double() for part in self.maps())
        unit = torch.finfo(x.dtype).eps
        size, bias = euclidean(x), float(self.bias.double().norm())
        reach = float(torch.linalg.matrix_norm(inner)) * size + bias
        outward = float(torch.linalg.matrix_norm(outer))
        terms = inner.shape[1] + outer.shape[1] + 8
        return unit * terms * (outward * reach + (size if self.residual else 0.0)) * 1.01


class Sandwich(ExplicitBlock):
    """``√2 AᵀΨ σ(√2 Ψ⁻¹B x + b)`` with AAᵀ + BBᵀ = I: a layer of an LBDN (Wang & Manchester 2023).

    Args:
        in_features: features of x.
        out_features: features of y, and of the hidden state.
        device: where the parameters are created.
        dtype: their dtype.
    """

    residual = False

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

    def _form(self) -> tuple[Tensor, Tensor, Tensor]:
        frame = cayley_orthogonal(self.free)
        scale = torch.exp(self.log_scale)
        inner = 2.0**0.5 * frame[self.out_features :].t() / scale[:, None]
        return inner, 2.0**0.5 * frame[: self.out_features] * scale, scale.square()

    @torch.no_grad()
    def lipschitz(self) -> float:
        """``‖[ΨH, Ψ⁻¹Gᵀ]‖₂²/2``: 2Λ ⪰ (ΛHHᵀΛ + GᵀG)/γ is Condition 2 of an equilibrium network with W = 0."""
        return 0.5 * spectral_norm_upper_bound(self.balanced()) ** 2 * (1.0 + 1e-14)

    @torch.no_grad()
    def balanced(self) -> Tensor:
        """``[ΨH, Ψ⁻¹Gᵀ]``, float64, shape (hidden, in_features + out_features)."""
        inner, outer, _ = (part.double() for part in self.maps())
        scale = torch.exp(self.log_scale.double())[:, None]
        return torch.cat([inner * scale, outer.t() / scale], 1)


class SLL(ExplicitBlock):
    """``x − HᵀT σ(H x + b)`` with ``T_i = 2/Σ_j |HHᵀ|_ij q_j/q_i`` (Araujo et al. 2023): 0 ⪯ HᵀTDH ⪯ 2I for slopes D.

    Args:
        features: features of x and y.
        hidden: rows of H; None for ``features``.
        device: where the parameters are created.
        dtype: their dtype.
    """

    residual = True

    def __init__(
        self,
        features: int,
        hidden: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = _checked_hidden(features, hidden)
        self.in_features = self.out_features = features
        self.free = nn.Parameter(torch.empty(hidden, features, device=device, dtype=dtype))
        nn.init.normal_(self.free, std=features**-0.5)
        self.log_q = nn.Parameter(torch.zeros(hidden, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(hidden, device=device, dtype=dtype))

    def _form(self) -> tuple[Tensor, Tensor, Tensor]:
        # By differences of logarithms: single q may underflow, their ratios matter.
        products = (self.free @ self.free.t()).abs()
        ratios = torch.exp((self.log_q - self.log_q[:, None]).masked_fill(products == 0.0, -torch.inf))
        sums = (products * ratios).sum(1)
        scale = 2.0 / (sums + torch.finfo(sums.dtype).tiny)
        return self.free, -self.free.t() * scale, scale

    @torch.no_grad()
    def lipschitz(self) -> float:
        """``max(1, ‖HᵀTH‖₂ − 1)``, and what rounding G = −HᵀT adds to it."""
        inner, outer, scale = (part.double() for part in self.maps())
        norm = spectral_norm_upper_bound(scale.sqrt()[:, None] * inner)
        rounding = 2.0**-50 * float(outer.norm())  # of the product and the sum below
        missed = spectral_norm_upper_bound(outer + inner.t() * scale) + rounding
        rounded = missed * spectral_norm_upper_bound(inner)
        return (max(1.0, norm**2 * (1.0 + 1e-14) - 1.0) + rounded) * (1.0 + 1e-14)


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

    def __init__(
        self,
        features: int,
        hidden: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = _checked_hidden(features, hidden)
        self.in_features = self.out_features = features
        inner = nn.Linear(features, hidden, device=device, dtype=dtype)
        self.inner, self.bias = inner.weight, inner.bias
        self.outer = nn.Linear(hidden, features, bias=False, device=device, dtype=dtype).weight

    def _form(self) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            sizes = [torch.linalg.matrix_norm(part.double(), 2) for part in (self.outer, self.inner)]
            multiplier = (sizes[0] / sizes[1]).clamp(1e-30, 1e30).to(self.bias)
        return self.inner, self.outer, multiplier.expand(len(self.bias))

    def nominal(self) -> float:
        """``1 + ‖G‖₂‖H‖₂``."""
        return self.lipschitz()

    @torch.no_grad()
    def lipschitz(self) -> float:
        """``1 + ‖G‖₂‖H‖₂``."""
        return (1.0 + spectral_norm_upper_bound(self.outer) * spectral_norm_upper_bound(self.inner)) * (1.0 + 1e-14)


def _checked_hidden(features: int, hidden: int | None) -> int:
    """The number of hidden units of a residual layer: as many as features unless it is given."""
    check(features > 0, "features", features, "must be a positive integer")
    found = features if hidden is None else hidden
    check(found > 0, "hidden", hidden, "must be a positive integer")
    return found
