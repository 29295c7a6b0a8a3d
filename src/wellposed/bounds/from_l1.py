"""Constants from ℓ1 to the Euclidean norm, in the best diagonal metric.

A change of the input may be made coordinate by coordinate, so that the constant of x ↦ C z* is the largest of those for single
columns u_j of U. With N = ΛH + HᵀΛ − CᵀC ≻ 0, H = I − W, the condition of `diagonal_metric` for one column is
γ² ≥ u_jᵀΛN⁻¹Λu_j: one Λ serves them all. It is looked for by descent; the proof solves N X = ΛU approximately and bounds what is
missing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wellposed.bounds.diagonal_metric import DenseMetricProblem, DiagonalBound
from wellposed.numerics.outward import rounding_constant
from wellposed.numerics.verified import is_positive_semidefinite, near_one

_STEPS = 100
_SHARPNESS = 20.0  # of the smooth maximum over the columns
_HARDEST = 4  # columns that the condition itself is proved for, too: it is what files are checked by


class ColumnMetricProblem:
    """The stored numbers of one layer z = σ(Wz + Ux + b).

    Args:
        matrix: W, shape (n, n), float64.
        weight: U, shape (n, inputs), float64.
        metric: a positive λ in which W is well posed.
    """

    def __init__(self, matrix: Tensor, weight: Tensor, metric: Tensor) -> None:
        self._matrix, self._metric = matrix, metric
        self._weight, self._exponent = near_one(weight, "U")  # U is 2 to that power times this
        self._whole = DenseMetricProblem(matrix, weight, metric)
        self._displacement = torch.eye(len(matrix), dtype=torch.float64) - matrix

    @torch.no_grad()
    def bound(self, output: Tensor) -> DiagonalBound | None:
        """A nearly least proved constant of x ↦ C z*, or None where none could be proved.

        Args:
            output: C, shape (outputs, n).
        """
        start = self._whole.bound(output)
        if start is None:
            return None
        seen, exponent = near_one(output, "C")
        scaled = torch.ldexp(start.multipliers, torch.tensor(-2.0 * exponent))
        multipliers = self._descend(scaled, seen)
        squares = self._proved(multipliers, seen)
        if squares is None or abs(exponent + self._exponent) > 900:
            return None
        back = torch.ldexp(multipliers, torch.tensor(2.0 * exponent))
        hardest = squares.topk(min(_HARDEST, len(squares))).indices.tolist()
        columns = [DenseMetricProblem(self._matrix, self._weight[:, j : j + 1], self._metric) for j in hardest]
        slack = 1e-10
        while slack < 1e-2:
            root = math.sqrt(float(squares.amax())) * (1.0 + slack)
            value = math.ldexp(root, exponent)
            if root > 0.0 and all(column.proves(output, back, value) for column in columns):
                return DiagonalBound(math.ldexp(root, exponent + self._exponent) * (1.0 + 1e-9), back)
            slack *= 8.0
        return None

    def _descend(self, multipliers: Tensor, seen: Tensor) -> Tensor:
        """Multipliers for which the largest column is small, from some that are feasible."""
        start = multipliers.log()
        scales = [start + shift for shift in torch.linspace(0.0, 3.0, 13).tolist()]
        measured = [(self._largest(point, seen), k) for k, point in enumerate(scales)]
        best, place = min(measured)
        kept = scales[place]
        point = kept.clone().requires_grad_()
        optimizer = torch.optim.Adam([point], lr=0.05)
        for _ in range(_STEPS):
            with torch.enable_grad():
                squares = self._squares(point, seen)
                if squares is None:  # outside of where N is positive definite
                    with torch.no_grad():
                        point.copy_(kept + 0.01)
                    continue
                value = float(squares.detach().amax())
                if value < best:
                    best, kept = value, point.detach().clone()
                loss = torch.logsumexp(_SHARPNESS * squares.clamp_min(1e-300).log(), 0)
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
        return kept.exp()

    def _largest(self, point: Tensor, seen: Tensor) -> float:
        squares = self._squares(point, seen)
        return math.inf if squares is None else float(squares.amax())

    def _squares(self, logarithms: Tensor, seen: Tensor) -> Tensor | None:
        """u_jᵀΛN⁻¹Λu_j for all columns, with the graph; None where N is not positive definite."""
        scale = logarithms.exp()
        half = scale[:, None] * self._displacement
        factor, failed = torch.linalg.cholesky_ex(half + half.t() - seen.t() @ seen)
        if int(failed):
            return None
        return torch.linalg.solve_triangular(factor, scale[:, None] * self._weight, upper=False).square().sum(0)

    def _proved(self, multipliers: Tensor, seen: Tensor) -> Tensor | None:
        """Upper bounds of the same, rounding included; None where N is not proved positive definite."""
        size = len(self._matrix)
        rounding = rounding_constant(len(seen) + 16)
        half = multipliers[:, None] * self._displacement
        terms = multipliers[:, None] * (torch.eye(size, dtype=torch.float64) + self._matrix.abs())
        normal = half + half.t() - seen.t() @ seen
        sizes = terms + terms.t() + seen.abs().t() @ seen.abs()
        least = 0.5 * float(torch.linalg.eigvalsh(normal)[0])
        error = rounding * float(sizes.sum(1).max()) + 4.0 * 2.0**-53 * abs(least)
        eye = torch.eye(size, dtype=torch.float64)
        if not least > 0.0 or not is_positive_semidefinite((normal - least * eye).numpy(), error):
            return None
        driven = multipliers[:, None] * self._weight
        solved = torch.linalg.solve_ex(normal, driven)[0]
        unit = rounding_constant(size + 16) + rounding
        missed = (driven - normal @ solved).norm(dim=0)
        missed = missed + (unit * (driven.abs() + sizes @ solved.abs())).norm(dim=0)
        square = (driven * solved).sum(0) + unit * (driven.abs() * solved.abs()).sum(0)
        return (square + missed * (solved.norm(dim=0) + missed / least)) * (1.0 + 1e-12)
