"""An interior-point method for Lipschitz bounds in diagonal metrics.

It finds the least t = γ² with S(λ, t) = ΛH + HᵀΛ − CᵀC − ΛGΛ/t ⪰ 0, H = I − W and G = UUᵀ: the Schur complement of Condition 2 of
Revay, Wang & Manchester (2020). The derivative of S along λ_i has rank two, so gradient and Hessian of the barrier
−log det S − r·log t, r the rank of G, are a few products of matrices of the size of W: no semidefinite program of the size of
the input is ever formed. How S is held is the barrier's affair: `frequency_barrier` has one. What is returned proves
nothing.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

_CENTRED = 0.7  # Newton decrement at which a point counts as near the central path
_SHARE = 0.9  # of the way to the optimum, as the tangent of the central path has it
_LARGEST_STEPS = 400


@dataclass(frozen=True, eq=False)
class Point:
    """A point with S(λ, t) ≻ 0.

    Attributes:
        multipliers: λ, shape (n,).
        square: t.
        steps: Newton steps that it took.
        gap: how much of ``square`` may be above the optimum, as a fraction.
        dual: X ⪰ 0 with XS near zero, shape (n, n), up to a factor, where the search has one.
    """

    multipliers: Tensor
    square: float
    steps: int
    gap: float
    dual: Tensor | None = None


class Barrier(ABC):
    """−log det S(λ, t) − r·log t.

    Attributes:
        parameter: its gap to the optimum is this over the weight of the objective.
    """

    parameter: float

    @abstractmethod
    def interior(self, metric: Tensor) -> tuple[Tensor, float] | None:
        """A multiple of a metric, and a t, well inside; None where ΛH + HᵀΛ is not positive definite."""

    @abstractmethod
    def value(self, multipliers: Tensor, square: float) -> float:
        """The barrier; infinite outside."""

    @abstractmethod
    def derivatives(self, multipliers: Tensor, square: float) -> tuple[Tensor, Tensor]:
        """Gradient and Hessian, λ first, then t; shapes (n + 1,) and (n + 1, n + 1)."""


def minimise(barrier: Barrier, metric: Tensor, *, tolerance: float = 1e-6, deadline: float = math.inf) -> Point | None:
    """The least t, to a relative tolerance.

    Args:
        barrier: of the problem.
        metric: positive λ with ΛH + HᵀΛ ≻ 0 to start from, float64, shape (n,).
        tolerance: relative gap to the optimum at which to stop.
        deadline: of `time.monotonic`, at which to stop with what there is.

    Returns:
        None where ΛH + HᵀΛ is not positive definite at the start.
    """
    start = barrier.interior(metric)
    if start is None:
        return None
    multipliers, square = start
    if not (0.0 < square < math.inf) or not bool(torch.isfinite(multipliers).all() and (multipliers > 0.0).all()):
        return None
    weight = barrier.parameter / square
    steps = 0
    while steps < _LARGEST_STEPS and time.monotonic() < deadline:
        steps += 1
        try:
            gradient, hessian = barrier.derivatives(multipliers, square)
        except torch.linalg.LinAlgError:  # inside by less than rounding
            break
        scale = torch.cat([multipliers, multipliers.new_tensor([square])])
        factor = _factor(scale[:, None] * hessian * scale)
        direction, decrement = _newton(gradient, factor, scale, weight)
        if decrement < _CENTRED:
            if barrier.parameter / weight <= tolerance * square:
                break
            # Along the tangent of the central path, which is nearly straight as a function of 1/weight.
            tangent = scale * torch.cholesky_solve(scale[:, None] * _last(scale)[:, None], factor)[:, 0]
            share = _SHARE
            while share > 0.1:
                trial = multipliers - share * weight * tangent[:-1], square - share * weight * float(tangent[-1])
                if math.isfinite(_objective(barrier, *trial, 0.0)):
                    break
                share *= 0.8
            multipliers, square = trial if share > 0.1 else (multipliers, square)
            weight = weight / (1.0 - share) if share > 0.1 else 2.0 * weight
            continue
        found = _search(barrier, multipliers, square, direction, decrement, weight)
        if found is None:  # at the limit of float64
            break
        multipliers, square = found
    return Point(multipliers, square, steps, barrier.parameter / (weight * square))


def _objective(barrier: Barrier, multipliers: Tensor, square: float, weight: float) -> float:
    """The objective with a weight plus the barrier; infinite outside."""
    if square <= 0.0 or bool((multipliers <= 0.0).any()):
        return math.inf
    return weight * square + barrier.value(multipliers, square)


def _search(
    barrier: Barrier, multipliers: Tensor, square: float, direction: Tensor, decrement: float, weight: float
) -> tuple[Tensor, float] | None:
    """The first point along a direction, from the full step on, that lowers the objective enough."""
    before, length = _objective(barrier, multipliers, square, weight), 1.0
    while length > 1e-8:
        trial = multipliers + length * direction[:-1], square + length * float(direction[-1])
        if _objective(barrier, *trial, weight) < before - 0.05 * length * decrement**2:
            return trial
        length *= 0.6
    return None


def _factor(scaled: Tensor) -> Tensor:
    """The Cholesky factor of a scaled Hessian, raised a little where rounding left it indefinite."""
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if int(failed):
        scaled.diagonal().add_(1e-10 * scaled.diagonal().mean())
        factor = torch.linalg.cholesky_ex(scaled)[0]
    return factor


def _newton(gradient: Tensor, factor: Tensor, scale: Tensor, weight: float) -> tuple[Tensor, float]:
    """Newton's direction for the objective with a weight plus the barrier, and its decrement."""
    whole = gradient.clone()
    whole[-1] += weight
    direction = -scale * torch.cholesky_solve((scale * whole)[:, None], factor)[:, 0]
    return direction, max(-float(whole @ direction), 0.0) ** 0.5


def _last(like: Tensor) -> Tensor:
    """The last unit vector: the gradient of the objective t."""
    unit = torch.zeros_like(like)
    unit[-1] = 1.0
    return unit
