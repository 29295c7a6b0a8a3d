"""The positive part of an offset, as positive concave layers need it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.outward import TINY, UNIT, rounding_constant
from wellposed.solvers.a_posteriori import ExactOffset

# By how many units of float64 the function may err, relative to its value: exponential, logarithm and two sums.
UNITS = 16


@dataclass(frozen=True)
class PositivePart:
    """``floor + softplus(βv)/β``, or ``max(v, 0)`` where the floor is zero: increases, with slopes in [0, 1], from its floor on.

    Attributes:
        floor: at least zero.
        sharpness: β.
    """

    floor: float
    sharpness: float

    def __call__(self, value: Tensor) -> Tensor:
        """The function, entry by entry."""
        if self.floor == 0.0:
            return torch.relu(value)
        if self.sharpness == 1.0:
            return self.floor + torch.logaddexp(value, torch.zeros_like(value))
        return self.floor + torch.logaddexp(self.sharpness * value, torch.zeros_like(value)) / self.sharpness

    def slope(self, value: Tensor) -> Tensor:
        """The derivative of the function, which increases."""
        return (value > 0.0).to(value) if self.floor == 0.0 else torch.sigmoid(self.sharpness * value)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the function between two arguments, float64, rounding included.

        Args:
            lower: any shape, float64.
            upper: of the shape of ``lower``.
        """
        lowest, highest = self(lower), self(upper)
        # With β a product rounds before the exponential: by at most an absolute 1/(eβ) units.
        product = 0.0 if self.sharpness == 1.0 or self.floor == 0.0 else UNIT / self.sharpness
        least = lowest - rounding_constant(UNITS) * lowest - product
        return least.clamp_min(self.floor), highest + rounding_constant(UNITS) * highest + product + TINY

    def exact(self, inside: ExactOffset) -> ExactOffset:
        """The function of what is known with an error, in float64."""
        value = self(inside.value)
        # With β a product rounds before the exponential: by at most an absolute 1/(eβ) units.
        product = 0.0 if self.sharpness == 1.0 else 1.0 / self.sharpness
        size = euclidean(value) + (self.floor + product) * float(value[0].numel()) ** 0.5
        return ExactOffset(value, inside.error + rounding_constant(UNITS) * size)
