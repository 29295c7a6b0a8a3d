"""Piecewise linear activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wellposed.activations.base import Activation
from wellposed.activations.knowledge import Concavity, TorchForm
from wellposed.errors import InputError, check, checked_fields

F: Any = functional  # its functions have many signatures


@dataclass(frozen=True)
class ReLU(Activation):
    """``max(v, 0)``: the projection onto the nonnegative orthant, so its resolvent is itself at every step."""

    homogeneous = binary_slopes = is_own_resolvent = True
    kinks = (0.0,)
    torch_forms = (
        TorchForm(
            lambda: ReLU(), modules=(nn.ReLU,), functions=(torch.relu, F.relu), methods=("relu",),
            writers=(torch.relu_, F.relu_),
        ),
    )  # fmt: skip

    @override
    def __call__(self, value: Tensor) -> Tensor:
        return torch.relu(value)

    @override
    def derivative(self, value: Tensor) -> Tensor:
        return (value > 0).to(value.dtype)

    @override
    def derivative_at_output(self, output: Tensor) -> Tensor:
        # Not the sign alone: rounding may have put an output below zero. Comparing and converting takes several times as long.
        return torch.relu(torch.sign(output.detach()))

    @override
    def slopes_between(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return (lower >= 0).to(lower), (upper > 0).to(upper)

    @override
    def resolvent(self, value: Tensor, step: float | Tensor) -> Tensor:
        return torch.relu(value)

    @override
    def reflect(self, value: Tensor, step: float | Tensor) -> Tensor:
        return value.abs()

    @override
    def reflection(self, step: float | Tensor) -> Callable[[Tensor], Tensor]:
        return torch.abs

    @override
    def defect(self, output: Tensor, value: Tensor, u: Tensor, step: float | Tensor) -> Tensor:
        # Where the output is zero, every negative pre-activation is as good as any other.
        # In arithmetic: torch.where costs as much as a matrix product.
        gap = output - value
        return torch.minimum(gap, torch.sign(output).mul_(gap))


@checked_fields
@dataclass(frozen=True)
class LeakyReLU(Activation):
    """``v`` for v ≥ 0 and ``negative_slope·v`` below, with 0 < negative_slope ≤ 1."""

    negative_slope: float = 0.01

    homogeneous = True
    kinks = (0.0,)
    torch_forms = (
        TorchForm(
            lambda negative_slope: LeakyReLU(negative_slope), {"negative_slope": 0.01},
            modules=(nn.LeakyReLU,), functions=(F.leaky_relu,),
        ),
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(0.0 < self.negative_slope <= 1.0, "negative_slope", self.negative_slope, "must lie in (0, 1]")

    @property
    @override
    def slope_range(self) -> tuple[float, float]:  # type: ignore[override]  # depends on the field
        return (self.negative_slope, 1.0)

    @override
    def __call__(self, value: Tensor) -> Tensor:
        return torch.nn.functional.leaky_relu(value, self.negative_slope)

    @override
    def derivative(self, value: Tensor) -> Tensor:
        return torch.where(value > 0, torch.ones_like(value), self.negative_slope)

    @override
    def derivative_at_output(self, output: Tensor) -> Tensor:
        return self.derivative(output)

    @override
    def slopes_between(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return (
            torch.where(lower >= 0, torch.ones_like(lower), self.negative_slope),
            torch.where(upper > 0, torch.ones_like(upper), self.negative_slope),
        )

    @override
    def resolvent(self, value: Tensor, step: float | Tensor) -> Tensor:
        slope = self.negative_slope / (step + (1.0 - step) * self.negative_slope)
        return torch.where(value >= 0, value, slope * value)


@checked_fields
@dataclass(frozen=True)
class Clamp(Activation):
    """Clamping to [low, high], of which either may be infinite: a projection, so its resolvent is itself at every step."""

    low: float = -1.0
    high: float = 1.0

    binary_slopes = is_own_resolvent = True
    torch_forms = (
        TorchForm(
            lambda low, high: clamped(low, high), {"min_val": -1.0, "max_val": 1.0},
            modules=(nn.Hardtanh, nn.ReLU6), functions=(F.hardtanh,), writers=(F.hardtanh_,),
        ),
        TorchForm(lambda: Clamp(0.0, 6.0), functions=(F.relu6,)),
        TorchForm(
            lambda low, high: clamped(low, high), {"min": None, "max": None},
            functions=(torch.clamp, torch.clip), methods=("clamp", "clip"),
        ),
    )  # fmt: skip

    @property
    @override
    def kinks(self) -> tuple[float, ...]:  # type: ignore[override]  # depends on the fields
        return tuple(bound for bound in (self.low, self.high) if math.isfinite(bound))

    @property
    @override
    def concavity(self) -> Concavity | None:  # type: ignore[override]  # depends on the fields
        """From zero to the upper bound σ is the identity, and its elasticity largest just before the kink."""
        if self.low > 0.0 or not 0.0 < self.high < math.inf:
            return None
        return Concavity(modulus=lambda floor: max(0.0, 1.0 - floor / self.high))

    @override
    def __call__(self, value: Tensor) -> Tensor:
        return value.clamp(self.low, self.high)

    @override
    def derivative(self, value: Tensor) -> Tensor:
        return ((value > self.low) & (value < self.high)).to(value.dtype)

    @override
    def derivative_at_output(self, output: Tensor) -> Tensor:
        return self.derivative(output)

    @override
    def slopes_between(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        inside, outside = (lower >= self.low) & (upper <= self.high), (upper <= self.low) | (lower >= self.high)
        return inside.to(lower), (~outside).to(upper)

    @override
    def resolvent(self, value: Tensor, step: float | Tensor) -> Tensor:
        return self(value)


@dataclass(frozen=True)
class Identity(Activation):
    """``v`` itself: slope one everywhere."""

    homogeneous = is_own_resolvent = True
    kinks = ()

    @property
    @override
    def slope_range(self) -> tuple[float, float]:  # type: ignore[override]  # a constant of its own
        return (1.0, 1.0)

    @override
    def __call__(self, value: Tensor) -> Tensor:
        return value

    @override
    def derivative(self, value: Tensor) -> Tensor:
        return torch.ones_like(value)

    @override
    def derivative_at_output(self, output: Tensor) -> Tensor:
        return torch.ones_like(output)

    @override
    def slopes_between(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(lower), torch.ones_like(upper)

    @override
    def resolvent(self, value: Tensor, step: float | Tensor) -> Tensor:
        return value


def clamped(low: Any, high: Any) -> Clamp:
    """Clamping to bounds of which either may be None, as for ``torch.clamp``.

    Raises:
        InputError: they are not numbers, or out of order.
    """
    bounds = (-math.inf if low is None else low, math.inf if high is None else high)
    numbers = all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in bounds)
    if not numbers or not bounds[0] <= bounds[1]:
        raise InputError(f"clamps to [{low!r:.40}, {high!r:.40}]; needs two numbers in order")
    return Clamp(float(bounds[0]), float(bounds[1]))
