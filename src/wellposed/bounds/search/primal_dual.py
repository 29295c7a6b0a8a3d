"""A primal-dual method for the best diagonal metric of any W, as n × n matrices.

With λ divided by γ² and τ = 1/γ² the inequality of `wellposed.bounds.metric_inequality` is S(λ, τ) = ΛH + HᵀΛ − ΛGΛ − τCᵀC ⪰ 0,
H = I − W and G = UUᵀ, and the largest τ is a concave problem with as many unknowns as W has rows: where it is feasible does not
depend on C but through τ, so that all C of a network start from the same point. Steps keep S ≻ 0 and a dual X ≻ 0, whose product
goes to zero; the first ones in float32. Every iterate is feasible, wherever the search stops; none proves anything.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from wellposed.bounds.search.interior_point import Point
from wellposed.bounds.search.primal_dual_step import Iterate, Lengths, Newton, Numbers
from wellposed.numerics.linear_algebra import largest_singular_value

_GAP = 2e-10  # to the optimum, relative and for every row of W, at which the search stops
_ROUGH_GAP = 1e-3  # up to which float32 does
_RAY = 0.75  # of the largest multiple of the first metric with ΛH + HᵀΛ ⪰ ΛGΛ, where searches start
_START = 0.97  # of the largest τ there; nearer to it, searches of badly scaled layers end early
_FIRST_LENGTHS = (0.7, 0.7)  # as they are guessed
_LARGEST_STEPS = 100


class PrimalDualSearch:
    """Searches for one layer; all arguments float64.

    Args:
        displacement: H, shape (n, n).
        gram: G, shape (n, n).
        metric: positive λ with M(λ) = ΛH + HᵀΛ ≻ 0 to start from, shape (n,).
    """

    def __init__(self, displacement: Tensor, gram: Tensor, metric: Tensor) -> None:
        self._displacement, self._metric = displacement, metric
        self._driven = float(torch.linalg.eigvalsh(gram)[-1].clamp_min(0.0)) ** 0.5 if len(gram) else 0.0
        self._gram = gram / self._driven**2 if self._driven > 0.0 else gram

    @cached_property
    def _begin(self) -> Tensor | None:
        """A multiple of the metric with ΛH + HᵀΛ ≻ ΛGΛ; None where M is not positive definite."""
        metric = self._metric
        half = metric[:, None] * self._displacement
        factor, failed = torch.linalg.cholesky_ex(half + half.t())
        if int(failed) or not bool((metric > 0.0).all()):
            return None
        through = torch.linalg.solve_triangular(factor, metric[:, None] * self._gram * metric, upper=False)
        through = torch.linalg.solve_triangular(factor, through.t(), upper=False)
        return metric * (_RAY / float(torch.linalg.eigvalsh(0.5 * (through + through.t()))[-1]))

    def least_square(self, output: Tensor, deadline: float = math.inf) -> Point | None:
        """The least t = γ² and its metric.

        Args:
            output: C, shape (outputs, n).
            deadline: of `time.monotonic`, at which the search stops with what it has.

        Returns:
            None where M(λ) is not positive definite at the start, or C or U is zero.
        """
        with torch.inference_mode():  # where operations on small matrices cost less
            found = self._searched(output, deadline)
        if found is None:
            return None
        at, square, steps = found
        return Point(at.multipliers.clone(), square, steps, at.gap / at.reciprocal, at.dual.clone())

    @property
    def inside(self) -> Tensor:
        """Some λ/γ² with S(λ, τ) ≻ 0 for τ = 0: M is away from zero there, as it need not be at the optimum.

        S is concave, so that a share s of it and the rest of a point (λ, τ) make a point inside at (1 − s)·τ.
        """
        assert self._begin is not None  # where a search found something
        return self._begin / self._driven**2

    @cached_property
    def _at_begin(self) -> tuple[Tensor, Tensor]:
        """ΛH + HᵀΛ − ΛGΛ at the start, and its inverse."""
        assert self._begin is not None
        condition = _condition(self._displacement, self._gram, self._begin)
        return condition, torch.cholesky_inverse(torch.linalg.cholesky_ex(condition)[0])

    def _start(self, numbers: Numbers) -> Iterate | None:
        """An iterate with the λ at which all searches start, whose X is a multiple of S⁻¹; None where it is not inside."""
        assert self._begin is not None
        condition, inverse = self._at_begin
        # As S is A − τCᵀC, its inverse is A⁻¹ + A⁻¹Cᵀ(1/τ − CA⁻¹Cᵀ)⁻¹CA⁻¹.
        through = inverse @ numbers.output
        image = numbers.output.t() @ through
        reciprocal = _START / float(largest_singular_value(image))
        if not 0.0 < reciprocal < math.inf:
            return None
        room = image.neg()
        room.diagonal().add_(1.0 / reciprocal)
        added, failed = torch.linalg.solve_ex(room, through.t())
        if int(failed):
            return None
        inverse = inverse + through @ added
        dual = inverse / float((inverse * numbers.seen).sum())
        return Iterate(self._begin, reciprocal, condition - reciprocal * numbers.seen, dual)

    def _searched(self, output: Tensor, deadline: float) -> tuple[Iterate, float, int] | None:
        seen = float(largest_singular_value(output))
        if not (seen > 0.0 and self._driven > 0.0 and math.isfinite(seen * self._driven)) or self._begin is None:
            return None
        scaled = output / seen
        numbers = Numbers(self._displacement, self._gram, scaled.t().contiguous(), scaled.t() @ scaled)
        at = self._start(numbers)
        if at is None:
            return None
        rough, first, lengths = _approach(*_in_float32(numbers, at), _FIRST_LENGTHS, deadline, _ROUGH_GAP)
        finer = _in_float64(numbers, rough)
        at, lengths = (at, _FIRST_LENGTHS) if finer is None else (finer, lengths)
        at, second, _ = _approach(numbers, at, lengths, deadline, _GAP * len(at.multipliers))
        largest = max(_largest_reciprocal(numbers, at.multipliers), at.reciprocal)
        square = (seen * self._driven) ** 2 / largest
        return replace(at, multipliers=at.multipliers * (seen**2 / largest)), square, first + second


def _approach(
    numbers: Numbers, at: Iterate, lengths: Lengths, deadline: float, goal: float
) -> tuple[Iterate, int, Lengths]:
    """An iterate with a relative gap as small as the goal, or as it gets, the number of steps there, and the last lengths."""
    steps = 0
    while steps < _LARGEST_STEPS and time.monotonic() < deadline and at.gap > goal * at.reciprocal:
        newton = Newton.at(numbers, at)
        moved = None if newton is None else newton.step(lengths)
        if moved is None:  # at the limit of the precision
            break
        at, lengths = moved
        steps += 1
    return at, steps, lengths


def _condition(displacement: Tensor, gram: Tensor, multipliers: Tensor) -> Tensor:
    """ΛH + HᵀΛ − ΛGΛ."""
    half = multipliers[:, None] * (displacement - 0.5 * gram * multipliers)
    return half + half.t()


def _largest_reciprocal(numbers: Numbers, multipliers: Tensor) -> float:
    """The largest τ with S ⪰ 0 for a λ; zero where there is none."""
    factor, failed = torch.linalg.cholesky_ex(_condition(numbers.displacement, numbers.gram, multipliers))
    if int(failed):
        return 0.0
    through = torch.linalg.solve_triangular(factor, numbers.output, upper=False)
    return 1.0 / float(largest_singular_value(through)) ** 2


def _in_float32(numbers: Numbers, at: Iterate) -> tuple[Numbers, Iterate]:
    lower = Numbers(**{name: part.float() for name, part in vars(numbers).items()})
    return lower, replace(at, multipliers=at.multipliers.float(), slack=at.slack.float(), dual=at.dual.float())


def _in_float64(numbers: Numbers, rough: Iterate) -> Iterate | None:
    """An iterate of float32 as one of float64; None where it is not inside."""
    multipliers, dual = rough.multipliers.double(), rough.dual.double()
    slack = _condition(numbers.displacement, numbers.gram, multipliers) - rough.reciprocal * numbers.seen
    inside = all(int(torch.linalg.cholesky_ex(part)[1]) == 0 for part in (slack, dual))
    return Iterate(multipliers, rough.reciprocal, slack, dual) if inside else None
