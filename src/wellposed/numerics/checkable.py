"""Norms a little above those that the library proves: the checker of certificate files counts rounding in its own, coarser way.

None of this is a part of a proof: a constant that is too small for the checker is refused by it.
"""

from __future__ import annotations

import math

from torch import Tensor

from wellposed.numerics.outward import rounding_constant

ROOM = 1.0 + 1e-12  # for the rounding of a few operations of the checker


def checkable_norm(weight: Tensor, value: float) -> float:
    """A norm of a matrix that products of its rows can prove.

    Args:
        weight: the matrix.
        value: a proved bound of its norm.
    """
    size = weight.detach().double().cpu().abs() / value if value > 0.0 else weight.detach().double().cpu()
    size = size if size.shape[0] <= size.shape[1] else size.t()
    terms = float((size @ size.t()).sum(1).amax())
    return value * (
        1.0 + 4.0 * rounding_constant(size.shape[1] + 8) * terms + 8.0 * rounding_constant(len(size) + 8) * len(size)
    )


def checkable_convolution_norm(kernel: Tensor, value: float) -> float:
    """A norm of a convolution that its matrices at every frequency can prove.

    Args:
        kernel: shape (out_channels, in_channels, rows, columns).
        value: a proved bound of its norm.
    """
    taps = kernel.detach().double().cpu().abs().sum((2, 3)) / value if value > 0.0 else kernel.new_zeros(1, 1).double()
    terms = float(taps.square().sum())
    return value * (
        1.0
        + 8.0 * rounding_constant(kernel[0].numel() + 96) * terms
        + 64.0 * rounding_constant(2 * len(kernel) + 16) * len(kernel)
    )


def rounded_product(*values: float) -> float:
    """A product, rounded up."""
    return math.nextafter(math.prod(values) * (1.0 + 4e-16 * len(values)), math.inf)
