"""The contract of an activation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.activations.knowledge import Concavity, TorchForm
from wellposed.errors import CertificateError, InputError
from wellposed.numerics.outward import TINY, above, below, enlarged

_UNITS = 2.0**-49  # by how much a function evaluated in float64 may err: sixteen units in the last place


class Activation(ABC):
    """A scalar activation applied to every coordinate of the state.

    Attributes:
        slope_range: smallest and largest slope over the real line, as exact as it is known.
        binary_slopes: whether every derivative is zero or one.
        homogeneous: whether σ(tv) = tσ(v) for t > 0, so that evaluating it errs relative to its value only.
        is_own_resolvent: whether the resolvent is the activation itself at every step, as for projections.
        relative_error: of values and derivatives in float64; for derivatives it is absolute where units are saturated, as
            their formulas subtract from one.
        kinks: in increasing order, where slopes change of an activation that is linear in between; None for others.
        concavity: that it is nonnegative and concave on the positive axis, or None where that is not so.
        torch_forms: what of torch computes activations of this class.
    """

    slope_range: tuple[float, float] = (0.0, 1.0)
    binary_slopes: bool = False
    homogeneous: bool = False
    is_own_resolvent: bool = False
    relative_error: float = 1e-14
    kinks: tuple[float, ...] | None = None
    concavity: Concavity | None = None
    torch_forms: tuple[TorchForm, ...] = ()

    @abstractmethod
    def __call__(self, value: Tensor) -> Tensor:
        """The activation of a pre-activation, coordinate by coordinate; any shape."""

    @abstractmethod
    def derivative(self, value: Tensor) -> Tensor:
        """A derivative (Clarke selection at kinks) at the pre-activation ``value``; same shape."""

    def derivative_bound(self, value: Tensor) -> Tensor:
        """At least the derivative at a pre-activation in float64, rounding included."""
        error = self.relative_error
        return enlarged(self.derivative(value) / (1.0 - error), 2) + max(_UNITS, error)

    def derivative_at_output(self, output: Tensor) -> Tensor | None:
        """The derivative written as a function of the output σ(v), where that is possible; otherwise None."""
        return None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Tensors of the state's shape that the activation depends on (none, for a plain function)."""
        return ()

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Activation:
        """The activation with other tensors in place of ``self.tensors``."""
        return self

    def tensor_gradients(self, value: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        """Cotangents of ``self.tensors`` given the pre-activation and the cotangent of the activation's output."""
        return ()

    def tensor_tangent(self, value: Tensor, tangents: tuple[Tensor, ...]) -> Tensor:
        """Change of the output, at a fixed pre-activation, along tangents of ``self.tensors``."""
        return torch.zeros_like(value)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the activation between two pre-activations, float64, rounding included; attained where it increases.

        With all slopes in [s, t], σ(x) is at least σ(l) + min(s, 0)(u − l) and at least σ(u) − max(t, 0)(u − l).

        Args:
            lower: l, float64, any shape that the activation takes.
            upper: u ≥ l, of the shape of ``lower``.
        """
        at_lower, at_upper = self(lower), self(upper)
        off_lower, off_upper = self._blur(lower, at_lower), self._blur(upper, at_upper)
        least, largest = at_lower - off_lower, at_upper + off_upper
        if self.slope_range[0] >= 0.0:
            return least, largest
        falling, rising = (
            enlarged(max(slope, 0.0) * (upper - lower), 2) for slope in (-self.slope_range[0], self.slope_range[1])
        )
        least = torch.maximum(least - falling, at_upper - off_upper - rising)
        largest = torch.minimum(largest + falling, at_lower + off_lower + rising)
        return below(least), above(largest)

    def slopes_between(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of (σ(u) − σ(v))/(u − v) for all u ≠ v between two pre-activations; those of the real line unless more is known.

        Args:
            lower: float64, any shape that the activation takes.
            upper: at least ``lower``, of its shape.
        """
        least, largest = self.slope_range
        return torch.full_like(lower, least), torch.full_like(upper, largest)

    def _blur(self, value: Tensor, found: Tensor) -> Tensor:
        """By how much σ(value) may err: ``relative_error``, some units in the last place of its argument, and what underflows."""
        size = found.abs()
        units = _UNITS * torch.maximum(size, torch.minimum(value.abs(), size + 1.0) * (found != 0.0))
        # |σ| is at most |found| / (1 − relative_error).
        units = torch.maximum(units, enlarged(size * (self.relative_error / (1.0 - self.relative_error)), 3))
        return units if self.homogeneous or self.binary_slopes else units + TINY

    @property
    def is_monotone(self) -> bool:
        """Whether all slopes lie in [0, 1], so that the activation is a proximal operator."""
        return self.slope_range[0] >= 0.0 and self.slope_range[1] <= 1.0

    @property
    def interior(self) -> Activation:
        """The activation of coordinates that are not on a border which is kept zero; itself where there is no border."""
        return self

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
        limits = torch.finfo(value.dtype)
        # Over the larger of step and one: no product of finite numbers overflows.
        larger = step.clamp_min(1.0) if isinstance(step, Tensor) else max(step, 1.0)
        own, other, target = step / larger, (1.0 - step) / larger, (value / larger).clamp(-limits.max, limits.max)
        root = value.clamp(-limits.max, limits.max)
        gap = own * root + other * self(root) - target
        reach = gap.abs() / (step.clamp_max(1.0) / larger if isinstance(step, Tensor) else min(step, 1.0) / larger)
        low, high = (root - reach).clamp_min(-limits.max), (root + reach).clamp_max(limits.max)
        enough = 4 * limits.eps * (1.0 / larger + target.abs())
        for _ in range(64):
            low = torch.where(gap < 0, root, low)
            high = torch.where(gap > 0, root, high)
            newton = root - gap / (own + other * self.derivative(root))
            inside = (newton >= low) & (newton <= high)
            root = torch.where(gap == 0, root, torch.where(inside, newton, 0.5 * low + 0.5 * high))
            gap = own * root + other * self(root) - target
            if bool((gap.abs() <= enough).all()):
                break
        return self(root)

    def reflect(self, value: Tensor, step: float | Tensor) -> Tensor:
        """Reflected resolvent ``2·resolvent(value) − value``."""
        return 2.0 * self.resolvent(value, step) - value

    def reflection(self, step: float | Tensor) -> Callable[[Tensor], Tensor]:
        """`reflect` at one step, for loops that call it many times."""
        return lambda value: self.reflect(value, step)

    def defect(self, output: Tensor, value: Tensor, u: Tensor, step: float | Tensor) -> Tensor:
        """A δ, as small as is easily had, for which ``output`` is exactly σ(value + δ).

        Args:
            output: ``resolvent(u, step)``.
            value: a pre-activation.
            u: what the resolvent was taken of.
            step: the step of that resolvent.
        """
        # The definition of the resolvent: output = σ(output + (u − output)/step).
        if isinstance(step, Tensor):
            return output + (u - output) / step - value
        return torch.add(output, u - output, alpha=1.0 / step) - value

    def select(self, rows: Tensor | slice) -> Activation:
        """The activation of the samples ``rows`` only (differs from self when it holds per-sample tensors)."""
        return self if not self.tensors else self.rebuild(tuple(tensor[rows] for tensor in self.tensors))

    def to(self, dtype: torch.dtype) -> Activation:
        """The activation with its tensors, if it has any, in another precision."""
        return self if not self.tensors else self.rebuild(tuple(tensor.to(dtype) for tensor in self.tensors))

    def require_zero_at_zero(self, name: str) -> None:
        """Refuse σ(0) ≠ 0, for theorems that bound ‖z*‖ by ‖Ux + b‖/m.

        Args:
            name: of the argument, for the error.

        Raises:
            CertificateError: σ(0) is not zero.
        """
        if float(self(torch.zeros((), dtype=torch.float64, device="cpu"))) != 0.0:
            raise CertificateError(f"{name}: the theorem needs an activation that is zero at zero, not {self!r}")

    def require_monotone(self, purpose: str) -> None:
        """Raise an `InputError` unless all slopes lie in [0, 1]."""
        if not self.is_monotone:
            from wellposed.activations.registry import monotone_names

            raise InputError(
                f"activation={self!r}: {purpose} needs slopes within [0, 1], this one has {self.slope_range}; "
                f"use one of {', '.join(monotone_names())}"
            )
