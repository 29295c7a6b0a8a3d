"""Norms a little above those that the library proves: the checker of certificate files counts rounding in its own, coarser way.

None of this is a part of a proof: a constant that is too small for the checker is refused by it.
"""

from __future__ import annotations

from torch import Tensor

from wellposed.numerics.outward import rounding_constant

ROOM = 1.0 + 2e-12  # for a few operations of the checker, which it rounds by up to half as much


def checkable_norm(weight: Tensor, value: float) -> float:
    """A norm of a matrix that products of its rows can prove.

    Args:
        weight: the matrix.
        value: a proved bound of its norm.
    """
    size = weight.detach().double().cpu().abs() / value if value > 0.0 else weight.detach().double().cpu()
    size = size if size.shape[0] <= size.shape[1] else size.t()
    products = rounding_constant(size.shape[1] + 8) * float((size @ size.t()).sum(1).amax())
    factorisation = rounding_constant(len(size) + 8) * len(size)
    return value * (1.0 + 4.0 * products + 8.0 * factorisation)


def checkable_convolution_norm(kernel: Tensor, value: float) -> float:
    """A norm of a convolution that its matrices at every frequency can prove.

    Args:
        kernel: shape (out_channels, in_channels, rows, columns).
        value: a proved bound of its norm.
    """
    taps = kernel.detach().double().cpu().abs().sum((2, 3)) / value if value > 0.0 else kernel.new_zeros(1, 1).double()
    products = rounding_constant(kernel[0].numel() + 96) * float(taps.square().sum())
    factorisation = rounding_constant(2 * len(kernel) + 16) * len(kernel)
    return value * (1.0 + 8.0 * products + 64.0 * factorisation)
