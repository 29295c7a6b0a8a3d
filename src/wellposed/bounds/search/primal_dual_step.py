"""One step of the primal-dual method for the best diagonal metric: predictor, corrector, and how far both S and X stay inside.

The derivative A_i of S along λ_i is e_ik_iᵀ + k_ie_iᵀ, k_i the row i of K = H − GΛ, so that every trace of products of such
matrices with X and S⁻¹ is an entry of KX, KXKᵀ, KS⁻¹ or KS⁻¹Kᵀ (the direction of Helmberg, Rendl, Vanderbei & Wolkowicz 1996,
corrected as by Mehrotra 1992; −ΛGΛ curves S, which the corrector counts).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wellposed.bounds.search.step_lengths import longest

# Complementarity that a step aims at, over the present one: a multiple of what the last step fell short, and at least so much.
_CENTRING, _LEAST_CENTRE = 0.7, 0.03


@dataclass(frozen=True, eq=False, repr=False)
class Numbers:
    """H, G and C of S(λ, τ) = ΛH + HᵀΛ − ΛGΛ − τCᵀC, with CᵀC as ``seen`` and Cᵀ as ``output``; of one precision."""

    displacement: Tensor
    gram: Tensor
    output: Tensor
    seen: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Iterate:
    """Where a search is: λ and τ with S ≻ 0, and X ≻ 0."""

    multipliers: Tensor
    reciprocal: float
    slack: Tensor
    dual: Tensor

    @cached_property
    def gap(self) -> float:
        """Tr XS, by which τ is below the optimum, once X is feasible."""
        return float((self.dual * self.slack).sum())


Lengths = tuple[float, float]  # of the steps of S and of X, as multiples of what the equations say


class Newton:
    """The equations of one step."""

    def __init__(self, numbers: Numbers, at: Iterate, inverse: Tensor) -> None:
        self._numbers, self._at, self._inverse = numbers, at, inverse
        self._rows = numbers.displacement - numbers.gram * at.multipliers  # K
        self._driven, self._through = self._rows @ at.dual, self._rows @ inverse  # KX, KS⁻¹
        self._dual_seen, self._seen = at.dual @ numbers.output, inverse @ numbers.output  # XCᵀ, S⁻¹Cᵀ

    @classmethod
    def at(cls, numbers: Numbers, at: Iterate) -> Newton | None:
        """The equations there; None at the limit of float64."""
        factor, failed = torch.linalg.cholesky_ex(at.slack)
        if int(failed):
            return None
        return cls(numbers, at, torch.cholesky_inverse(factor).t())  # in the memory order of other matrices

    def _factor(self) -> tuple[Tensor, Tensor] | None:
        """Of the scaled matrix of the equations, with its scale; None where it is not positive definite.

        Rows of W can be of very different sizes; without the scale, the factorisation fails long before the optimum.
        """
        numbers, dual, inverse, size = self._numbers, self._at.dual, self._inverse, len(self._rows)
        matrix = dual.new_empty(size + 1, size + 1)
        block = self._driven * self._through.t()
        block = torch.add(block, block.t(), out=matrix[:size, :size])
        block.addcmul_(self._driven @ self._rows.t(), inverse)
        block.addcmul_((self._through @ self._rows.t()).add_(numbers.gram, alpha=2.0), dual)
        mixed = (self._driven @ numbers.output) * self._seen + self._dual_seen * (self._through @ numbers.output)
        matrix[:size, size] = matrix[size, :size] = -mixed.sum(1)
        matrix[size, size] = ((numbers.output.t() @ self._dual_seen) * (numbers.output.t() @ self._seen)).sum()
        scale = matrix.diagonal().rsqrt()
        factor, failed = torch.linalg.cholesky_ex(matrix.mul_(scale).mul_(scale[:, None]))
        return None if int(failed) else (factor, scale)

    def _along(self, symmetric: Tensor) -> Tensor:
        """Traces of a symmetric matrix with the derivatives of S along λ and τ, of shape (n + 1,)."""
        last = -(self._numbers.output * (symmetric @ self._numbers.output)).sum()
        return torch.cat([2.0 * (self._rows * symmetric).sum(1), last[None]])

    def _turned(self, direction: Tensor) -> Tensor:
        """ΔS S⁻¹ along a direction, to the first order."""
        along = direction[:-1, None]
        found = torch.addmm(along * self._through, self._rows.t(), along * self._inverse)
        return found.addmm_(self._numbers.output, self._seen.t(), alpha=-float(direction[-1]))

    def _curved(self, direction: Tensor) -> Tensor:
        """What S falls short along a direction, to the second order."""
        return direction[:-1, None] * self._numbers.gram * direction[:-1]

    def step(self, guess: Lengths) -> tuple[Iterate, Lengths] | None:
        """The next iterate, and the lengths of its step; None where there is none.

        Args:
            guess: of the lengths.
        """
        solved = self._factor()
        if solved is None:
            return None
        factor, scale = solved
        dual, inverse = self._at.dual, self._inverse
        centre = min(max(_CENTRING * (1.0 - min(guess)), _LEAST_CENTRE), 0.8) * self._at.gap / len(dual)

        def solve(right: Tensor) -> Tensor:
            return scale * torch.cholesky_solve((scale * right)[:, None], factor)[:, 0]

        right = dual.new_zeros(len(dual) + 1)
        right[-1] = 1.0
        first = solve(right)
        turned, curved = self._turned(first), self._curved(first)
        predicted = _symmetric(dual @ turned).neg_().sub_(dual)
        second = _symmetric(torch.addmm(predicted @ turned, dual, curved @ inverse, alpha=-1.0))
        right += self._along(torch.sub(inverse, second, alpha=1.0 / centre).mul_(centre))
        direction = solve(right)
        change = _symmetric(dual @ self._turned(direction)).add_(dual).add_(second).sub_(inverse, alpha=centre).neg_()
        return self._moved(direction, change, guess)

    def _moved(self, direction: Tensor, change: Tensor, guess: Lengths) -> tuple[Iterate, Lengths] | None:
        """The iterate as far along a direction, and a change of X, as both stay well inside."""
        numbers, at = self._numbers, self._at
        along = direction[:-1]
        half = along[:, None] * self._rows
        linear = half.add(half.t()).sub_(numbers.seen, alpha=float(direction[-1]))
        curved = self._curved(direction)
        falling = max(-float(direction[-1]) / at.reciprocal, 1e-300)

        def slack_at(_: list[int], lengths: list[float]) -> Tensor:
            (length,) = lengths
            return torch.add(at.slack, linear, alpha=length).sub_(curved, alpha=length**2)

        def dual_at(_: list[int], lengths: list[float]) -> Tensor:
            return torch.add(at.dual, change, alpha=lengths[0])

        (first,) = longest(guess[:1], (0.9 / falling,), slack_at)
        (second,) = longest(guess[1:], (1.0,), dual_at)
        if not min(first, second) > 0.0:
            return None
        kept = 0.99 if min(first, second) > 0.9 else 0.95
        length = kept * first
        moved = Iterate(
            at.multipliers + length * along, at.reciprocal + length * float(direction[-1]), slack_at([0], [length]),
            dual_at([0], [kept * second]),
        )  # fmt: skip
        return moved, (first, second)


def _symmetric(matrix: Tensor) -> Tensor:
    return torch.add(matrix, matrix.t()).mul_(0.5)
