"""Activations that differ from coordinate to coordinate."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.activations.base import Activation
from wellposed.errors import check


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
    @override
    def slope_range(self) -> tuple[float, float]:  # type: ignore[override]  # depends on the fields
        return (self.rest.slope_range[0], 1.0)

    @property
    @override
    def relative_error(self) -> float:  # type: ignore[override]  # depends on the fields
        return self.rest.relative_error

    @property
    @override
    def kinks(self) -> tuple[float, ...] | None:  # type: ignore[override]  # depends on the field
        return self.rest.kinks

    @property
    @override
    def binary_slopes(self) -> bool:  # type: ignore[override]  # depends on the fields
        return self.rest.binary_slopes

    def _joined(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first[..., : self.linear], second], -1)

    @override
    def __call__(self, value: Tensor) -> Tensor:
        return self._joined(value, self.rest(value[..., self.linear :]))

    @override
    def derivative(self, value: Tensor) -> Tensor:
        return self._joined(torch.ones_like(value), self.rest.derivative(value[..., self.linear :]))

    @override
    def derivative_at_output(self, output: Tensor) -> Tensor | None:
        rest = self.rest.derivative_at_output(output[..., self.linear :])
        return None if rest is None else self._joined(torch.ones_like(output), rest)

    @override
    def slopes_between(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        least, largest = self.rest.slopes_between(lower[..., self.linear :], upper[..., self.linear :])
        return self._joined(torch.ones_like(lower), least), self._joined(torch.ones_like(upper), largest)

    @override
    def resolvent(self, value: Tensor, step: float | Tensor) -> Tensor:
        own = step[self.linear :] if isinstance(step, Tensor) else step
        return self._joined(value, self.rest.resolvent(value[..., self.linear :], own))


_EDGES = ((..., 0, slice(None)), (..., -1, slice(None)), (..., 0), (..., -1))  # of images


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
    @override
    def slope_range(self) -> tuple[float, float]:  # type: ignore[override]  # depends on the field
        return (0.0, self.rest.slope_range[1])

    @property
    @override
    def relative_error(self) -> float:  # type: ignore[override]  # depends on the fields
        return self.rest.relative_error

    @property
    @override
    def kinks(self) -> tuple[float, ...] | None:  # type: ignore[override]  # depends on the field
        return self.rest.kinks

    @property
    @override
    def binary_slopes(self) -> bool:  # type: ignore[override]  # depends on the field
        return self.rest.binary_slopes

    @property
    @override
    def homogeneous(self) -> bool:  # type: ignore[override]  # depends on the field
        return self.rest.homogeneous

    @property
    @override
    def is_own_resolvent(self) -> bool:  # type: ignore[override]  # depends on the field
        return self.rest.is_own_resolvent

    @property
    @override
    def interior(self) -> Activation:
        return self.rest

    def _inside(self, like: Tensor) -> Tensor:
        mask = _interior(self.tiers, like.dtype, like.device)
        return mask if like.ndim == 2 else mask.reshape(self.tiers[0])

    @override
    def __call__(self, value: Tensor) -> Tensor:
        return self.rest(value) * self._inside(value)

    @override
    def derivative(self, value: Tensor) -> Tensor:
        return self.rest.derivative(value) * self._inside(value)

    @override
    def derivative_at_output(self, output: Tensor) -> Tensor | None:
        rest = self.rest.derivative_at_output(output)
        return None if rest is None else rest * self._inside(output)

    @override
    def slopes_between(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        least, largest = self.rest.slopes_between(lower, upper)
        return least * self._inside(lower), largest * self._inside(upper)

    @override
    def resolvent(self, value: Tensor, step: float | Tensor) -> Tensor:
        return self.rest.resolvent(value, step) * self._inside(value)

    @override
    def reflect(self, value: Tensor, step: float | Tensor) -> Tensor:
        if value.ndim == 2:
            return super().reflect(value, step)
        found = self.rest.reflect(value, step)
        for edge in _EDGES:  # few pixels, where masks would be read for all
            found[edge] = -value[edge]
        return found

    @override
    def defect(self, output: Tensor, value: Tensor, u: Tensor, step: float | Tensor) -> Tensor:
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


class DiagonalLinear(Activation):
    """``slopes ∘ v`` with one slope per sample and coordinate: the activation of the adjoint problem."""

    homogeneous = True
    kinks = ()

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
    @override
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.slopes,)

    @override
    def rebuild(self, tensors: tuple[Tensor, ...]) -> DiagonalLinear:
        return DiagonalLinear(*tensors, binary=self.binary_slopes)

    @override
    def tensor_gradients(self, value: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        return (cotangent * value,)

    @override
    def tensor_tangent(self, value: Tensor, tangents: tuple[Tensor, ...]) -> Tensor:
        return tangents[0] * value

    @override
    def __call__(self, value: Tensor) -> Tensor:
        return self.slopes * value

    @override
    def derivative(self, value: Tensor) -> Tensor:
        return self.slopes

    @override
    def derivative_at_output(self, output: Tensor) -> Tensor:
        return self.slopes

    @override
    def slopes_between(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return self.slopes, self.slopes

    @override
    def resolvent(self, value: Tensor, step: float | Tensor) -> Tensor:
        return self._scaled(step)[0] * value

    @override
    def reflect(self, value: Tensor, step: float | Tensor) -> Tensor:
        return self._scaled(step)[1] * value

    @override
    def reflection(self, step: float | Tensor) -> Callable[[Tensor], Tensor]:
        return functools.partial(torch.mul, self._scaled(step)[1])

    @override
    def defect(self, output: Tensor, value: Tensor, u: Tensor, step: float | Tensor) -> Tensor:
        # Where the slope is zero, so is the output, whatever the pre-activation.
        if self.binary_slopes:
            return (output - value) * self.slopes
        return super().defect(output, value, u, step).masked_fill(self.slopes == 0, 0.0)
