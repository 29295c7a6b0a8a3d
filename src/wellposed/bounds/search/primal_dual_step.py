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

# Complementarity that a step aims at, over the present one: a multiple of what the last step fell short, and at least so much.
_CENTRING, _LEAST_CENTRE = 0.7, 0.03
_LENGTHS = (1.0, 0.97, 0.93, 0.88, 0.81, 0.72, 0.6, 0.45, 0.3, 0.15, 0.05, 0.01, 1e-3)  # of steps, as they are tried


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
        return None if int(failed) else cls(numbers, at, torch.cholesky_inverse(factor))

    def _factor(self) -> tuple[Tensor, Tensor] | None:
        """Of the scaled matrix of the equations, with its scale; None where it is not positive definite."""
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
        right[:-1] -= 2.0 * ((predicted * self._numbers.gram) @ first[:-1])
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
        first = longest(guess[0], at.slack, linear, curved, largest=0.9 / falling)
        second = longest(guess[1], at.dual, change)
        if first is None or second is None:
            return None
        kept = 0.99 if min(first, second) > 0.9 else 0.95
        length = kept * first
        slack = torch.add(at.slack, linear, alpha=length).sub_(curved, alpha=length**2)
        moved = Iterate(
            at.multipliers + length * along, at.reciprocal + length * float(direction[-1]), slack,
            torch.add(at.dual, change, alpha=kept * second),
        )  # fmt: skip
        return moved, (first, second)


def _symmetric(matrix: Tensor) -> Tensor:
    return torch.add(matrix, matrix.t()).mul_(0.5)


def longest(
    guess: float, matrix: Tensor, linear: Tensor, curved: Tensor | None = None, largest: float = 1.0
) -> float | None:
    """The largest of some lengths x, at most a given one, with A + xB − x²C ≻ 0, or None, from a guess on."""

    def inside(length: float) -> bool:
        if length > largest:
            return False
        trial = torch.add(matrix, linear, alpha=length)
        if curved is not None:
            trial.sub_(curved, alpha=length**2)
        return int(torch.linalg.cholesky_ex(trial)[1]) == 0

    place = next(place for place, length in enumerate(_LENGTHS) if length <= guess)
    place = max(place - 1, 0)  # lengths mostly grow
    if inside(_LENGTHS[place]):
        while place > 0 and inside(_LENGTHS[place - 1]):
            place -= 1
        return _LENGTHS[place]
    return next((length for length in _LENGTHS[place + 1 :] if inside(length)), None)
