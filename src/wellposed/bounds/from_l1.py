"""Constants from ℓ1 to the Euclidean norm, in the best diagonal metric: the bound ``"columns"``.

A change of the input may be made coordinate by coordinate, so that the constant of x ↦ C z* is the largest of those for single
columns u_j of U. With N = ΛH + HᵀΛ − CᵀC ≻ 0, H = I − W, the inequality of `metric_inequality` for one column is
γ² ≥ u_jᵀΛN⁻¹Λu_j: one Λ serves them all. It is looked for by descent; the proof solves N X = ΛU approximately and bounds what is
missing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.bounds.diagonal_metric import DenseMetricProblem
from wellposed.bounds.metric_inequality import DiagonalBound, MetricInequality, least_proved
from wellposed.bounds.search.column_descent import descend
from wellposed.bounds.tail_method import FlatTailMethod
from wellposed.bounds.tail_problem import SUM_OF_OUTPUTS
from wellposed.numerics.outward import UNIT, enlarged, rounding_constant
from wellposed.numerics.verified import is_positive_semidefinite, near_one

_SLACK = 1e-10
_SHARES_INSIDE = (1e-8, 1e-6, 1e-4, 1e-2)  # by which multipliers are moved inside their condition
_HARDEST = 4  # columns that the inequality itself is proved for, too: it is what files are checked by
_LARGEST_EXPONENT = 900  # of two, of scales that are taken out of C and U


class ColumnMetricProblem(MetricInequality):
    """The stored numbers of one layer z = σ(Wz + Ux + b), and constants of x ↦ C z* from ℓ1 to the Euclidean norm.

    Args:
        matrix: W, shape (n, n), float64.
        weight: U, shape (n, inputs), float64.
        metric: a positive λ in which W is well posed.
        roundings: how many roundings of float64 the entries of U may be off.
    """

    def __init__(self, matrix: Tensor, weight: Tensor, metric: Tensor, roundings: int = 0) -> None:
        self._matrix, self._metric, self._roundings = matrix, metric, roundings
        self._weight, self._exponent = near_one(weight, "U")  # U is 2 to that power times this
        self._whole = DenseMetricProblem(matrix, weight, metric, roundings=roundings)
        self._displacement = torch.eye(len(matrix), dtype=torch.float64, device="cpu") - matrix

    @override
    def proves(self, output: Tensor, multipliers: Tensor, value: float, shares: Tensor | None = None) -> bool:
        fits = multipliers.shape == (len(self._matrix),) and output.shape[1:] == multipliers.shape
        usable = fits and bool(torch.isfinite(multipliers).all() and (multipliers > 0.0).all())
        if not usable or not (0.0 < value < math.inf) or not bool(torch.isfinite(output).all()):
            return False
        seen, exponent = near_one(output, "C")
        least = self._constant(torch.ldexp(multipliers.double(), torch.tensor(-2.0 * exponent, device="cpu")), seen)
        if least is None or abs(exponent + self._exponent) > _LARGEST_EXPONENT:
            return False
        return math.ldexp(least, exponent + self._exponent) <= value

    @override
    @torch.no_grad()
    def bound(self, output: Tensor, start: Tensor | None = None, deadline: float = math.inf) -> DiagonalBound | None:
        found = self._whole.bound(output, None, deadline)
        if found is None:
            return None
        seen, exponent = near_one(output, "C")
        back = torch.tensor(-2.0 * exponent, device="cpu")
        descended = descend(self._displacement, self._weight, seen, torch.ldexp(found.multipliers, back))
        best = self._proved(output, descended)
        # N may be singular where the search and the descent end, so that nothing is proved there.
        for share in () if best is not None else _SHARES_INSIDE:
            best = best or self._proved(output, torch.ldexp(self._whole.inside(found, share).multipliers, back))
        return best

    def _proved(self, output: Tensor, multipliers: Tensor) -> DiagonalBound | None:
        """The constant of some multipliers, which are of C near one; None where none is proved."""
        seen, exponent = near_one(output, "C")
        squares = self._squares(multipliers, seen)
        if squares is None or abs(exponent + self._exponent) > _LARGEST_EXPONENT:
            return None
        least = math.sqrt(max(float(squares.amax()), 0.0))
        if not least > 0.0:
            return None
        back = torch.ldexp(multipliers, torch.tensor(2.0 * exponent, device="cpu"))
        hardest = squares.topk(min(_HARDEST, len(squares))).indices.tolist()
        columns = [self._column(place) for place in hardest]

        def claim(slack: float) -> DiagonalBound:
            return DiagonalBound(math.ldexp(least * (1.0 + slack), exponent + self._exponent), back)

        def proves(claimed: DiagonalBound) -> bool:
            by_column = math.ldexp(claimed.value, -self._exponent)
            return all(column.proves(output, back, by_column) for column in columns)

        return least_proved(claim, proves, slack=_SLACK)

    def _column(self, place: int) -> DenseMetricProblem:
        """The layer as a function of one coordinate of its input."""
        column = self._weight[:, place : place + 1]
        return DenseMetricProblem(self._matrix, column, self._metric, roundings=self._roundings)

    def _constant(self, multipliers: Tensor, seen: Tensor) -> float | None:
        """Upper bound of the largest column's constant, rounding included; None where N is not proved positive definite."""
        squares = self._squares(multipliers, seen)
        return None if squares is None else enlarged(math.sqrt(max(float(squares.amax()), 0.0)), 1)

    def _squares(self, multipliers: Tensor, seen: Tensor) -> Tensor | None:
        """Upper bounds of u_jᵀΛN⁻¹Λu_j for all columns, rounding included; None where N is not proved positive definite.

        With NX = ΛU − R, that is (ΛU)ᵀX + RᵀN⁻¹ΛU, and N⁻¹ΛU = X + N⁻¹R has at most the norm ‖X‖ + ‖R‖/least eigenvalue.
        """
        size = len(self._matrix)
        rounding = rounding_constant(len(seen) + 16)
        half = multipliers[:, None] * self._displacement
        terms = multipliers[:, None] * (torch.eye(size, dtype=torch.float64, device="cpu") + self._matrix.abs())
        normal = half + half.t() - seen.t() @ seen
        sizes = terms + terms.t() + seen.abs().t() @ seen.abs()
        least = 0.5 * float(torch.linalg.eigvalsh(normal)[0])
        error = rounding * float(sizes.sum(1).max()) + 4.0 * UNIT * abs(least)
        eye = torch.eye(size, dtype=torch.float64, device="cpu")
        if not least > 0.0 or not is_positive_semidefinite((normal - least * eye).numpy(), error):
            return None
        driven = multipliers[:, None] * self._weight
        solved = torch.linalg.solve_ex(normal, driven)[0]
        # Of the products, and of the entries of N, of Λ and of U.
        unit = rounding_constant(size + 16 + self._roundings) + rounding
        missed = (driven - normal @ solved).norm(dim=0)
        missed = missed + (unit * (driven.abs() + sizes @ solved.abs())).norm(dim=0)
        square = (driven * solved).sum(0) + unit * (driven.abs() * solved.abs()).sum(0)
        return enlarged(square + missed * (solved.norm(dim=0) + missed / least), size + 8)


class Columns(FlatTailMethod):
    """The best diagonal metric for single input coordinates, for all outputs together and for every class margin."""

    name, norms = "columns", ("1",)
    reason = "best diagonal metric, by single inputs for ℓ1"
    inequality, reading = ColumnMetricProblem, SUM_OF_OUTPUTS
