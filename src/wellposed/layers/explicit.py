"""Explicit layers with a known Lipschitz constant.

All are of the form ``y = S x + G σ(H x + b)`` with ReLU for σ, S zero or the identity, and a diagonal multiplier Λ that
proves the constant: with D the slopes of σ between two inputs, 0 ≤ D ≤ I.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from wellposed.constraints.holding import Holding
from wellposed.errors import check
from wellposed.layers.inputs import check_numbers, check_samples, in_precision_of
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.linear_algebra import full_precision
from wellposed.numerics.outward import unit_of

_MORE = 1.01  # terms of second order, and the rounding of the bound itself


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
        x = in_precision_of(self, x)
        check_samples(x, (self.in_features,))
        check_numbers(x, self.bias)
        with full_precision(x.device):
            inner, outer, _ = self.maps()
            value = torch.relu(nn.functional.linear(x, inner, self.bias)) @ outer.t()
            return x + value if self.residual else value

    @torch.no_grad()
    def rounding(self, x: Tensor) -> Tensor:
        """Bound on the Euclidean rounding error of ``forward`` per row of x, for the maps as they are formed."""
        inner, outer, _ = (part.double() for part in self.maps())
        unit = 2.0 * unit_of(x.dtype)
        size, bias = euclidean(x), float(self.bias.double().norm())
        reach = float(torch.linalg.matrix_norm(inner)) * size + bias
        outward = float(torch.linalg.matrix_norm(outer))
        terms = inner.shape[1] + outer.shape[1] + 8
        return unit * terms * (outward * reach + (size if self.residual else 0.0)) * _MORE


def checked_hidden(features: int, hidden: int | None) -> int:
    """The number of hidden units of a residual layer: as many as features unless it is given."""
    check(features > 0, "features", features, "must be a positive integer")
    found = features if hidden is None else hidden
    check(found > 0, "hidden", hidden, "must be a positive integer")
    return found
