"""Scalar activations, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wellposed.activations.base import Activation
from wellposed.errors import check, choices


@dataclass(frozen=True)
class ReLU(Activation):
    """``max(v, 0)``: the projection onto the nonnegative orthant, so its resolvent is itself at every step."""

    homogeneous = True

    binary_slopes = True

    def __call__(self, value: Tensor) -> Tensor:  # noqa: D102
        return torch.relu(value)

    def derivative(self, value: Tensor) -> Tensor:  # noqa: D102
        return (value > 0).to(value.dtype)

    def derivative_at_output(self, output: Tensor) -> Tensor:  # noqa: D102
        return torch.sign(output)

    def resolvent(self, value: Tensor, step: float | Tensor) -> Tensor:  # noqa: D102
        return torch.relu(value)

    def reflect(self, value: Tensor, step: float | Tensor) -> Tensor:  # noqa: D102
        return value.abs()

    def defect(self, output: Tensor, value: Tensor, u: Tensor, step: float | Tensor) -> Tensor:  # noqa: D102
        # Where the output is zero, every negative pre-activation is as good as any other.
        # In arithmetic: torch.where costs as much as a matrix product.
        gap = output - value
        return torch.minimum(gap, gap * torch.sign(output))


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """``v`` for v ≥ 0 and ``negative_slope·v`` below, with 0 < negative_slope ≤ 1."""

    homogeneous = True

    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        check(0.0 < self.negative_slope <= 1.0, "negative_slope", self.negative_slope, "must lie in (0, 1]")

    @property
    def slope_range(self) -> tuple[float, float]:  # type: ignore[override]  # depends on the field  # noqa: D102
        return (self.negative_slope, 1.0)

    def __call__(self, value: Tensor) -> Tensor:  # noqa: D102
        return torch.nn.functional.leaky_relu(value, self.negative_slope)

    def derivative(self, value: Tensor) -> Tensor:  # noqa: D102
        return torch.where(value > 0, torch.ones_like(value), self.negative_slope)

    def derivative_at_output(self, output: Tensor) -> Tensor:  # noqa: D102
        return self.derivative(output)

    def resolvent(self, value: Tensor, step: float | Tensor) -> Tensor:  # noqa: D102
        slope = self.negative_slope / (step + (1.0 - step) * self.negative_slope)
        return torch.where(value >= 0, value, slope * value)


@dataclass(frozen=True)
class Clamp(Activation):
    """Clamping to [low, high]: a projection, so its resolvent is itself at every step."""

    low: float = -1.0
    high: float = 1.0

    binary_slopes = True

    def __call__(self, value: Tensor) -> Tensor:  # noqa: D102
        return value.clamp(self.low, self.high)

    def derivative(self, value: Tensor) -> Tensor:  # noqa: D102
        return ((value > self.low) & (value < self.high)).to(value.dtype)

    def derivative_at_output(self, output: Tensor) -> Tensor:  # noqa: D102
        return self.derivative(output)

    def resolvent(self, value: Tensor, step: float | Tensor) -> Tensor:  # noqa: D102
        return self(value)


@dataclass(frozen=True)
class Identity(Activation):
    """``v`` itself: slope one everywhere."""

    homogeneous = True

    @property
    def slope_range(self) -> tuple[float, float]:  # type: ignore[override]  # a constant of its own  # noqa: D102
        return (1.0, 1.0)

    def __call__(self, value: Tensor) -> Tensor:  # noqa: D102
        return value

    def derivative(self, value: Tensor) -> Tensor:  # noqa: D102
        return torch.ones_like(value)

    def derivative_at_output(self, output: Tensor) -> Tensor:  # noqa: D102
        return torch.ones_like(output)

    def resolvent(self, value: Tensor, step: float | Tensor) -> Tensor:  # noqa: D102
        return value


@dataclass(frozen=True)
class Smooth(Activation):
    """A smooth activation given by its function, derivative and, where known, derivative in terms of the output."""

    name: str
    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    slope_at_output: Callable[[Tensor], Tensor] | None = None
    range_of_slopes: tuple[float, float] = (0.0, 1.0)

    @property
    def slope_range(self) -> tuple[float, float]:  # type: ignore[override]  # depends on the field  # noqa: D102
        return self.range_of_slopes

    def __call__(self, value: Tensor) -> Tensor:  # noqa: D102
        return self.function(value)

    def derivative(self, value: Tensor) -> Tensor:  # noqa: D102
        return self.slope(value)

    def derivative_at_output(self, output: Tensor) -> Tensor | None:  # noqa: D102
        return None if self.slope_at_output is None else self.slope_at_output(output)

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return activation, (self.name,)  # the functions have no names to pickle


def _softplus(value: Tensor) -> Tensor:
    # torch's own softplus switches to the identity at 20, with a step down: it is not monotone.
    return torch.logaddexp(value, torch.zeros_like(value))


def _elu_slope(value: Tensor) -> Tensor:
    return torch.where(value > 0, torch.ones_like(value), value.clamp(max=0).exp())


def _finite(value: Tensor) -> Tensor:
    """Infinite entries as the largest finite ones, where functions are at their limits as far as a dtype can tell."""
    largest = torch.finfo(value.dtype).max
    return value.clamp(-largest, largest)


def _silu_slope(value: Tensor) -> Tensor:
    value = _finite(value)
    return torch.sigmoid(value) * (1.0 + value * torch.sigmoid(-value))


def _gelu(value: Tensor) -> Tensor:
    # torch's own cancels in the negative tail, and is infinite at the largest numbers.
    value = _finite(value)
    return value * (0.5 * torch.erfc(-value / 2.0**0.5))


def _gelu_slope(value: Tensor) -> Tensor:
    value = _finite(value)
    density = torch.exp(-0.5 * value * value) / (2.0 * torch.pi) ** 0.5
    return 0.5 * torch.erfc(-value / 2.0**0.5) + value * density


def _length(value: Tensor) -> Tensor:
    """√(1 + v²), whose square may be beyond the dtype."""
    return torch.hypot(value, torch.ones_like(value))


def _odd(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The odd extension of a function that is zero at zero, from the positive axis; autograd is right at zero too."""
    return lambda v: function(v.clamp_min(0.0)) - function(torch.relu(-v))


_REGISTRY: dict[str, Activation] = {
    "relu": ReLU(),
    "leaky_relu": LeakyReLU(),
    "hardtanh": Clamp(),
    "relu6": Clamp(0.0, 6.0),
    "identity": Identity(),
    "tanh": Smooth(
        "tanh", torch.tanh, lambda v: 4.0 * torch.sigmoid(2.0 * v) * torch.sigmoid(-2.0 * v), lambda z: 1.0 - z * z
    ),
    "sigmoid": Smooth(
        "sigmoid",
        torch.sigmoid,
        lambda v: torch.sigmoid(v) * torch.sigmoid(-v),
        lambda z: z * (1.0 - z),
        (0.0, 0.25),
    ),
    "softplus": Smooth("softplus", _softplus, torch.sigmoid, lambda z: -torch.expm1(-z)),
    "softsign": Smooth(
        "softsign",
        lambda v: torch.nn.functional.softsign(_finite(v)),
        lambda v: (1.0 + v.abs()).reciprocal().square(),
        lambda z: (1.0 - z.abs()) ** 2,
    ),
    "arctan": Smooth("arctan", torch.atan, lambda v: _length(v).reciprocal().square(), lambda z: torch.cos(z) ** 2),
    "isru": Smooth(
        "isru",
        lambda v: _finite(v) / _length(_finite(v)),
        lambda v: _length(v).reciprocal() ** 3,
        lambda z: (1.0 - z * z).clamp_min(0.0) ** 1.5,
    ),
    "arcsinh": Smooth("arcsinh", torch.asinh, lambda v: _length(v).reciprocal(), lambda z: 1.0 / torch.cosh(z)),
    # Odd extensions of functions that theorems use on the positive axis only.
    "logarithm": Smooth(
        "logarithm",
        _odd(torch.log1p),
        lambda v: 1.0 / (1.0 + v.abs()),
        lambda z: torch.exp(-z.abs()),
    ),
    "exponential": Smooth(
        "exponential",
        _odd(lambda v: -torch.expm1(-v)),
        lambda v: torch.exp(-v.abs()),
        lambda z: 1.0 - z.abs(),
    ),
    "elu": Smooth(
        "elu", torch.nn.functional.elu, _elu_slope, lambda z: torch.where(z > 0, torch.ones_like(z), 1.0 + z)
    ),
    "silu": Smooth("silu", lambda v: torch.nn.functional.silu(_finite(v)), _silu_slope, None, (-0.0999, 1.0999)),
    "gelu": Smooth("gelu", _gelu, _gelu_slope, None, (-0.1290, 1.1290)),
}


def activation(which: str | Activation) -> Activation:
    """Look up an activation by name, or pass one through.

    Raises:
        InputError: no activation has that name.
    """
    if isinstance(which, Activation):
        return which
    choices("activation", which, tuple(_REGISTRY))
    return _REGISTRY[which]


def monotone_names() -> tuple[str, ...]:
    """Names of the activations whose slopes lie in [0, 1]."""
    return tuple(name for name, entry in _REGISTRY.items() if entry.is_monotone)


def monotone_name(which: Activation) -> str | None:
    """The name of an activation whose slopes lie in [0, 1], or None if it has none."""
    return next((name for name in monotone_names() if _REGISTRY[name] == which), None)
