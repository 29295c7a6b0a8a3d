"""Blocks that functions and operators become: activations, products and sums with constants, other shapes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wellposed.activations import Activation, ReLU
from wellposed.errors import InputError, checked_fields


@checked_fields
class Elementwise(nn.Module):
    """A known activation, applied to every entry.

    Args:
        activation: the function, with its slopes.
    """

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return self.activation(x)

    def lipschitz(self) -> float:
        """The largest size of a slope."""
        return max(abs(slope) for slope in self.activation.slope_range)


def block_of_activation(sigma: Activation) -> nn.Module:
    """The block that computes an activation of every entry; ReLU has torch's own."""
    return nn.ReLU() if sigma == ReLU() else Elementwise(sigma)


class Rescale(nn.Module):
    """``x * scale``, or ``x / scale``, with a constant that broadcasts to the shape of x.

    Args:
        scale: finite numbers; none of them zero for a quotient.
        divide: whether it is a quotient.
    """

    scale: Tensor

    def __init__(self, scale: Tensor, *, divide: bool = False) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().clone())
        self.divide = divide

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that the constant broadcasts to, to the same."""
        return same_shape(x, x / self.scale if self.divide else x * self.scale)

    def lipschitz(self) -> float:
        """The largest factor, rounded up."""
        size = self.scale.detach().double().abs()
        return math.nextafter(1.0 / float(size.amin()), math.inf) if self.divide else float(size.amax())


class Shift(nn.Module):
    """``x + shift`` with a constant that broadcasts to the shape of x.

    Args:
        shift: finite numbers.
    """

    shift: Tensor

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that the constant broadcasts to, to the same."""
        return same_shape(x, x + self.shift)


class Reshape(nn.Module):
    """Every sample in another shape.

    Args:
        shape: of one sample; at most one entry may be −1.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, ...) to (batch, *shape)."""
        return x.reshape(len(x), *self.shape)


def same_shape(x: Tensor, value: Tensor) -> Tensor:
    """The value, if it has the shape of the input: a constant that blows the input up would have another constant.

    Raises:
        InputError: it has another shape.
    """
    if value.shape != x.shape:
        raise InputError(
            f"x: has shape {tuple(x.shape)}, which a constant of this network would blow up to {tuple(value.shape)}"
        )
    return value


def constant_like(value: Tensor | float | int, dtype: torch.dtype) -> Tensor:
    """A constant in the precision that torch computes with when it meets a tensor of this dtype."""
    return value.detach().to(dtype) if isinstance(value, Tensor) else torch.tensor(value, dtype=dtype, device="cpu")
