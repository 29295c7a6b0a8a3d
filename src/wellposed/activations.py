"""Activation functions with what the theorems need to know of them.

A scalar activation whose slopes lie in [0, 1] is the proximal operator of a convex function f (its subdifferential is
``σ⁻¹ − I``). Operator splitting with a step α needs the resolvent of *α times* that subdifferential, which is σ itself
only when α = 1 or when f is an indicator (ReLU, clamping): applying σ at another step converges to a wrong point.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wellposed.errors import InputError, check, choices


class Activation(ABC):
    """A scalar activation applied to every coordinate of the state.

    Attributes:
        slope_range: smallest and largest slope over the real line, as exact as it is known.
        binary_slopes: whether every derivative is zero or one.
        homogeneous: whether σ(tv) = tσ(v) for t > 0, so that evaluating it errs relative to its value only.
    """

    slope_range: tuple[float, float] = (0.0, 1.0)
    binary_slopes: bool = False
    homogeneous: bool = False

    @abstractmethod
    def __call__(self, value: Tensor) -> Tensor:
        """The activation of a pre-activation, coordinate by coordinate; any shape."""

    @abstractmethod
    def derivative(self, value: Tensor) -> Tensor:
        """A derivative (Clarke selection at kinks) at the pre-activation ``value``; same shape."""

    def derivative_at_output(self, output: Tensor) -> Tensor | None:
        """The derivative written as a function of the output σ(v), where that is possible; otherwise None."""
        return None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Tensors of the state's shape that the activation depends on (none, for a plain function)."""
        return ()

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Activation:
        """The same activation with other tensors in place of ``self.tensors``."""
        return self

    def tensor_gradients(self, value: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        """Cotangents of ``self.tensors`` given the pre-activation and the cotangent of the activation's output."""
        return ()

    def tensor_tangent(self, value: Tensor, tangents: tuple[Tensor, ...]) -> Tensor:
        """Change of the output, at a fixed pre-activation, along tangents of ``self.tensors``."""
        return torch.zeros_like(value)

    @property
    def is_monotone(self) -> bool:
        """Whether all slopes lie in [0, 1], so that the activation is a proximal operator."""
        return self.slope_range[0] >= 0.0 and self.slope_range[1] <= 1.0

    def resolvent(self, value: Tensor, step: float | Tensor) -> Tensor:
        """Resolvent ``(I + step·∂f)⁻¹`` where σ is the proximal operator of f.

        It is σ(w) at the root w of ``step·w + (1 − step)·σ(w) = value``, whose left side has slopes between
        min(step, 1) and max(step, 1); found here by Newton's method kept inside a shrinking bracket.

        Args:
            value: any shape.
            step: the positive step α of the splitting; a tensor (n,) for one per coordinate.
        """
        if not isinstance(step, Tensor) and step == 1.0:
            return self(value)
        self.require_monotone("an operator splitting")
        least = step.clamp_max(1.0) if isinstance(step, Tensor) else min(step, 1.0)
        root = value.clone()
        gap = step * root + (1.0 - step) * self(root) - value
        reach = gap.abs() / least
        low, high = root - reach, root + reach
        enough = 4 * torch.finfo(value.dtype).eps * (1.0 + value.abs())
        for _ in range(64):
            low = torch.where(gap < 0, root, low)
            high = torch.where(gap > 0, root, high)
            newton = root - gap / (step + (1.0 - step) * self.derivative(root))
            inside = (newton >= low) & (newton <= high)
            root = torch.where(gap == 0, root, torch.where(inside, newton, 0.5 * (low + high)))
            gap = step * root + (1.0 - step) * self(root) - value
            if bool((gap.abs() <= enough).all()):
                break
        return self(root)

    def reflect(self, value: Tensor, step: float | Tensor) -> Tensor:
        """Reflected resolvent ``2·resolvent(value) − value``."""
        return 2.0 * self.resolvent(value, step) - value

    def defect(self, output: Tensor, value: Tensor, u: Tensor, step: float | Tensor) -> Tensor:
        """A δ, as small as is easily had, for which ``output`` is exactly σ(value + δ).

        Args:
            output: ``resolvent(u, step)``.
            value: a pre-activation.
            u: see ``output``.
            step: see ``output``.
        """
        # The definition of the resolvent: output = σ(output + (u − output)/step).
        if isinstance(step, Tensor):
            return output + (u - output) / step - value
        return torch.add(output, u - output, alpha=1.0 / step) - value

    def select(self, rows: Tensor) -> Activation:
        """The activation of the samples ``rows`` only (differs from self when it holds per-sample tensors)."""
        return self if not self.tensors else self.rebuild(tuple(tensor[rows] for tensor in self.tensors))

    def to(self, dtype: torch.dtype) -> Activation:
        """The activation with its tensors, if it has any, in another precision."""
        return self if not self.tensors else self.rebuild(tuple(tensor.to(dtype) for tensor in self.tensors))

    def require_monotone(self, purpose: str) -> None:
        """Raise an `InputError` unless all slopes lie in [0, 1]."""
        if not self.is_monotone:
            raise InputError(
                f"activation={self!r}: {purpose} needs slopes within [0, 1], this one has {self.slope_range}; "
                f"use one of {', '.join(monotone_names())}"
            )


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
class PartlyLinear(Activation):
    """The identity on the first coordinates and another activation on the rest.

    Equilibria with linear coordinates contain skip connections: a coordinate that equals its pre-activation.

    Args:
        linear: number of coordinates with the identity.
        rest: the activation of the others, applied coordinate by coordinate to states of shape (batch, n).
    """

    linear: int
    rest: Activation

    def __post_init__(self) -> None:
        check(self.linear >= 0, "linear", self.linear, "must not be negative")
        self.rest.require_monotone("an activation with linear coordinates")

    @property
    def slope_range(self) -> tuple[float, float]:  # type: ignore[override]  # depends on the fields  # noqa: D102
        return (self.rest.slope_range[0], 1.0)

    @property
    def binary_slopes(self) -> bool:  # type: ignore[override]  # depends on the fields  # noqa: D102
        return self.rest.binary_slopes

    def _joined(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first[..., : self.linear], second], -1)

    def __call__(self, value: Tensor) -> Tensor:  # noqa: D102
        return self._joined(value, self.rest(value[..., self.linear :]))

    def derivative(self, value: Tensor) -> Tensor:  # noqa: D102
        return self._joined(torch.ones_like(value), self.rest.derivative(value[..., self.linear :]))

    def derivative_at_output(self, output: Tensor) -> Tensor | None:  # noqa: D102
        rest = self.rest.derivative_at_output(output[..., self.linear :])
        return None if rest is None else self._joined(torch.ones_like(output), rest)

    def resolvent(self, value: Tensor, step: float | Tensor) -> Tensor:  # noqa: D102
        own = step[self.linear :] if isinstance(step, Tensor) else step
        return self._joined(value, self.rest.resolvent(value[..., self.linear :], own))


@dataclass(frozen=True)
class Bordered(Activation):
    """Another activation inside of images, and zero in their outermost pixels.

    A circular convolution with 3 × 3 taps of images with a zero border is a zero-padded one of what is inside (the convention of
    the published monotone networks). The zero map has slopes in [0, 1] too: it is the projection onto zero.

    Args:
        rest: the activation inside.
        tiers: channels, height and width of the images that make up a flat state of shape (batch, n), or of the one that is the
            state, (batch, channels, height, width).
    """

    rest: Activation
    tiers: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        self.rest.require_monotone("an activation with a border")

    @property
    def slope_range(self) -> tuple[float, float]:  # type: ignore[override]  # depends on the field  # noqa: D102
        return (0.0, self.rest.slope_range[1])

    @property
    def binary_slopes(self) -> bool:  # type: ignore[override]  # depends on the field  # noqa: D102
        return self.rest.binary_slopes

    @property
    def homogeneous(self) -> bool:  # type: ignore[override]  # depends on the field  # noqa: D102
        return self.rest.homogeneous

    def _inside(self, like: Tensor) -> Tensor:
        mask = _interior(self.tiers, like.dtype, like.device)
        return mask if like.ndim == 2 else mask.reshape(self.tiers[0])

    def __call__(self, value: Tensor) -> Tensor:  # noqa: D102
        return self.rest(value) * self._inside(value)

    def derivative(self, value: Tensor) -> Tensor:  # noqa: D102
        return self.rest.derivative(value) * self._inside(value)

    def derivative_at_output(self, output: Tensor) -> Tensor | None:  # noqa: D102
        rest = self.rest.derivative_at_output(output)
        return None if rest is None else rest * self._inside(output)

    def resolvent(self, value: Tensor, step: float | Tensor) -> Tensor:  # noqa: D102
        return self.rest.resolvent(value, step) * self._inside(value)

    def defect(self, output: Tensor, value: Tensor, u: Tensor, step: float | Tensor) -> Tensor:  # noqa: D102
        # On the border the output is zero, whatever the pre-activation.
        return self.rest.defect(output, value, u, step) * self._inside(value)


@functools.lru_cache(maxsize=16)
def _interior(tiers: tuple[tuple[int, int, int], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    masks = []
    with torch.inference_mode(False):  # it is kept, and may be needed for a gradient later
        for channels, height, width in tiers:
            mask = torch.zeros(channels, height, width, dtype=dtype, device=device)
            mask[:, 1:-1, 1:-1] = 1.0
            masks.append(mask.flatten())
        return torch.cat(masks)


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


class DiagonalLinear(Activation):
    """``slopes ∘ v`` with one slope per sample and coordinate: the activation of the adjoint problem."""

    homogeneous = True

    def __init__(self, slopes: Tensor, *, binary: bool = False) -> None:
        self.slopes = slopes
        self.binary_slopes = binary
        self._factors: tuple[float | Tensor, Tensor, Tensor] | None = None

    def _scaled(self, step: float | Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the resolvent and of the reflection, computed once for a step."""
        if self._factors is None or self._factors[0] is not step:
            factor = self.slopes if self.binary_slopes else self.slopes / (step + (1.0 - step) * self.slopes)
            self._factors = (step, factor, 2.0 * factor - 1.0)
        return self._factors[1:]

    @property
    def tensors(self) -> tuple[Tensor, ...]:  # noqa: D102
        return (self.slopes,)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> DiagonalLinear:  # noqa: D102
        return DiagonalLinear(*tensors, binary=self.binary_slopes)

    def tensor_gradients(self, value: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        return (cotangent * value,)

    def tensor_tangent(self, value: Tensor, tangents: tuple[Tensor, ...]) -> Tensor:  # noqa: D102
        return tangents[0] * value

    def __call__(self, value: Tensor) -> Tensor:  # noqa: D102
        return self.slopes * value

    def derivative(self, value: Tensor) -> Tensor:  # noqa: D102
        return self.slopes

    def derivative_at_output(self, output: Tensor) -> Tensor:  # noqa: D102
        return self.slopes

    def resolvent(self, value: Tensor, step: float | Tensor) -> Tensor:  # noqa: D102
        return self._scaled(step)[0] * value

    def reflect(self, value: Tensor, step: float | Tensor) -> Tensor:  # noqa: D102
        return self._scaled(step)[1] * value

    def defect(self, output: Tensor, value: Tensor, u: Tensor, step: float | Tensor) -> Tensor:  # noqa: D102
        # Where the slope is zero, so is the output, whatever the pre-activation.
        if self.binary_slopes:
            return (output - value) * self.slopes
        return super().defect(output, value, u, step).masked_fill(self.slopes == 0, 0.0)


def _softplus(value: Tensor) -> Tensor:
    # torch's own softplus switches to the identity at 20, with a step down: it is not monotone.
    return torch.logaddexp(value, torch.zeros_like(value))


def _elu_slope(value: Tensor) -> Tensor:
    return torch.where(value > 0, torch.ones_like(value), value.clamp(max=0).exp())


def _silu_slope(value: Tensor) -> Tensor:
    gate = torch.sigmoid(value)
    return gate * (1.0 + value * (1.0 - gate))


def _gelu_slope(value: Tensor) -> Tensor:
    density = torch.exp(-0.5 * value * value) / (2.0 * torch.pi) ** 0.5
    return 0.5 * (1.0 + torch.erf(value / 2.0**0.5)) + value * density


_REGISTRY: dict[str, Activation] = {
    "relu": ReLU(),
    "leaky_relu": LeakyReLU(),
    "hardtanh": Clamp(),
    "relu6": Clamp(0.0, 6.0),
    "identity": Identity(),
    "tanh": Smooth("tanh", torch.tanh, lambda v: 1.0 - torch.tanh(v) ** 2, lambda z: 1.0 - z * z),
    "sigmoid": Smooth(
        "sigmoid",
        torch.sigmoid,
        lambda v: torch.sigmoid(v) * (1.0 - torch.sigmoid(v)),
        lambda z: z * (1.0 - z),
        (0.0, 0.25),
    ),
    "softplus": Smooth("softplus", _softplus, torch.sigmoid, lambda z: -torch.expm1(-z)),
    "softsign": Smooth(
        "softsign", torch.nn.functional.softsign, lambda v: 1.0 / (1.0 + v.abs()) ** 2, lambda z: (1.0 - z.abs()) ** 2
    ),
    "arctan": Smooth("arctan", torch.atan, lambda v: 1.0 / (1.0 + v * v), lambda z: torch.cos(z) ** 2),
    "isru": Smooth(
        "isru",
        lambda v: v * torch.rsqrt(1.0 + v * v),
        lambda v: (1.0 + v * v) ** -1.5,
        lambda z: (1.0 - z * z).clamp_min(0.0) ** 1.5,
    ),
    "arcsinh": Smooth("arcsinh", torch.asinh, lambda v: torch.rsqrt(1.0 + v * v), lambda z: 1.0 / torch.cosh(z)),
    # Odd extensions of functions that theorems use on the positive axis only.
    "logarithm": Smooth(
        "logarithm",
        lambda v: torch.sign(v) * torch.log1p(v.abs()),
        lambda v: 1.0 / (1.0 + v.abs()),
        lambda z: torch.exp(-z.abs()),
    ),
    "exponential": Smooth(
        "exponential",
        lambda v: -torch.sign(v) * torch.expm1(-v.abs()),
        lambda v: torch.exp(-v.abs()),
        lambda z: 1.0 - z.abs(),
    ),
    "elu": Smooth(
        "elu", torch.nn.functional.elu, _elu_slope, lambda z: torch.where(z > 0, torch.ones_like(z), 1.0 + z)
    ),
    "silu": Smooth("silu", torch.nn.functional.silu, _silu_slope, None, (-0.0999, 1.0999)),
    "gelu": Smooth("gelu", torch.nn.functional.gelu, _gelu_slope, None, (-0.1290, 1.1290)),
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
