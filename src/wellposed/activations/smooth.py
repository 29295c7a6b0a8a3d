"""Smooth activations: their functions are right at the ends of every precision."""

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
from wellposed.errors import InputError, checked_fields
from wellposed.numerics.outward import enlarged, error_of

F: Any = functional  # its functions have many signatures


@checked_fields
@dataclass(frozen=True)
class Smooth(Activation):
    """A smooth activation given by its function, derivative and, where known, derivative in terms of the output.

    Attributes:
        name: under which it is known.
        function: σ.
        slope: σ'.
        slope_at_output: σ' as a function of σ.
        range_of_slopes: see `Activation.slope_range`.
        steepest: where the slope is largest, if it falls on both sides of there; ∞ where it grows everywhere, None where it does
            neither.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    slope_at_output: Callable[[Tensor], Tensor] | None = None
    range_of_slopes: tuple[float, float] = (0.0, 1.0)
    steepest: float | None = 0.0

    @property
    @override
    def slope_range(self) -> tuple[float, float]:  # type: ignore[override]  # depends on the field
        return self.range_of_slopes

    @property
    @override
    def concavity(self) -> Concavity | None:  # type: ignore[override]  # a part of the list below
        return _CONCAVE.get(self.name) if SMOOTH.get(self.name) is self else None

    @override
    def __call__(self, value: Tensor) -> Tensor:
        return self.function(value)

    @override
    def derivative(self, value: Tensor) -> Tensor:
        return self.slope(value)

    @override
    def derivative_at_output(self, output: Tensor) -> Tensor | None:
        return None if self.slope_at_output is None else self.slope_at_output(output)

    @override
    def slopes_between(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        if self.steepest is None:
            return super().slopes_between(lower, upper)
        peak = torch.minimum(torch.maximum(torch.full_like(lower, self.steepest), lower), upper)
        least, largest = torch.minimum(self.slope(lower), self.slope(upper)), self.derivative_bound(peak)
        off = enlarged(error_of(least.abs(), 2) + 2.0 * self.relative_error * (1.0 + least.abs()), 3)
        return (least - off).clamp_min(self.range_of_slopes[0]), largest.clamp_max(self.range_of_slopes[1])

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return _smooth_named, (self.name,)  # the functions have no names to pickle


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


def _form(name: str, **places: Any) -> TorchForm:
    """What of torch is one of the activations below, without options."""
    return TorchForm(lambda: SMOOTH[name], **places)


def _elu_of(alpha: float) -> Activation:
    if alpha != 1.0:
        raise InputError(f"alpha={alpha!r}: the exponential linear unit is known for alpha=1 only")
    return SMOOTH["elu"]


def _gelu_of(approximate: str) -> Activation:
    if approximate != "none":
        raise InputError(f"approximate={approximate!r}: gelu is known without approximation only")
    return SMOOTH["gelu"]


_LIST = (
    Smooth("tanh", torch.tanh, lambda v: 4.0 * torch.sigmoid(2.0 * v) * torch.sigmoid(-2.0 * v), lambda z: 1.0 - z * z),
    Smooth(
        "sigmoid", torch.sigmoid, lambda v: torch.sigmoid(v) * torch.sigmoid(-v), lambda z: z * (1.0 - z), (0.0, 0.25)
    ),
    Smooth("softplus", _softplus, torch.sigmoid, lambda z: -torch.expm1(-z), steepest=math.inf),
    Smooth(
        "softsign",
        lambda v: F.softsign(_finite(v)),
        lambda v: (1.0 + v.abs()).reciprocal().square(),
        lambda z: (1.0 - z.abs()) ** 2,
    ),
    Smooth("arctan", torch.atan, lambda v: _length(v).reciprocal().square(), lambda z: torch.cos(z) ** 2),
    Smooth(
        "isru",
        lambda v: _finite(v) / _length(_finite(v)),
        lambda v: _length(v).reciprocal() ** 3,
        lambda z: (1.0 - z * z).clamp_min(0.0) ** 1.5,
    ),
    Smooth("arcsinh", torch.asinh, lambda v: _length(v).reciprocal(), lambda z: 1.0 / torch.cosh(z)),
    # Odd extensions of functions that theorems use on the positive axis only.
    Smooth("logarithm", _odd(torch.log1p), lambda v: 1.0 / (1.0 + v.abs()), lambda z: torch.exp(-z.abs())),
    Smooth("exponential", _odd(lambda v: -torch.expm1(-v)), lambda v: torch.exp(-v.abs()), lambda z: 1.0 - z.abs()),
    Smooth("elu", F.elu, _elu_slope, lambda z: torch.where(z > 0, torch.ones_like(z), 1.0 + z), steepest=math.inf),
    Smooth("silu", lambda v: F.silu(_finite(v)), _silu_slope, range_of_slopes=(-0.0999, 1.0999), steepest=None),
    Smooth("gelu", _gelu, _gelu_slope, range_of_slopes=(-0.1290, 1.1290), steepest=None),
)
SMOOTH: dict[str, Smooth] = {entry.name: entry for entry in _LIST}
_CONCAVE = {
    **dict.fromkeys(("tanh", "softsign", "arctan", "isru", "arcsinh", "logarithm", "exponential"), Concavity()),
    "sigmoid": Concavity(lowest_floor=-2.0),
}
Smooth.torch_forms = (
    _form("tanh", modules=(nn.Tanh,), functions=(torch.tanh, F.tanh), methods=("tanh",)),
    _form(
        "sigmoid",
        modules=(nn.Sigmoid,),
        functions=(torch.sigmoid, F.sigmoid, torch.special.expit),
        methods=("sigmoid",),
    ),
    _form("softsign", modules=(nn.Softsign,), functions=(F.softsign,)),
    _form("arctan", functions=(torch.atan, torch.arctan), methods=("atan", "arctan")),
    _form("arcsinh", functions=(torch.asinh, torch.arcsinh), methods=("asinh", "arcsinh")),
    _form("silu", modules=(nn.SiLU,), functions=(F.silu,)),
    TorchForm(_elu_of, {"alpha": 1.0}, modules=(nn.ELU,), functions=(F.elu,)),
    TorchForm(_gelu_of, {"approximate": "none"}, modules=(nn.GELU,), functions=(F.gelu,)),
)


def _smooth_named(name: str) -> Smooth:
    return SMOOTH[name]
