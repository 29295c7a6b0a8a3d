"""Peaceman–Rachford and Douglas–Rachford splitting in reflected form.

With C = 2(I + α(I − W))⁻¹ − I and R the activation's reflected resolvent, one Peaceman–Rachford step is
``u ← C·R(u) + α(q + C·q)``, and z = J_α(u); α is a number, or a positive diagonal where the operator has a scaling. For
ReLU, R(u) = |u|, so a step is one matrix product and one absolute value. Douglas–Rachford takes half of it:
``u ← ½u + ½(C·R(u) + c)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.errors import check, checked_fields
from wellposed.guarantee import Guarantee
from wellposed.numerics.euclidean import euclidean
from wellposed.solvers.base import Iteration, Solver, affine, step_size
from wellposed.solvers.problem import AffineProblem, Problem


@dataclass(frozen=True)
class _Reflected(Solver):
    step: float | None = None

    def __post_init__(self) -> None:
        check(self.step is None or 0.0 < self.step < float("inf"), "step", self.step, "must be positive and finite")

    def bind(self, problem: Problem, guarantee: Guarantee | None, start: Tensor | None, like: Tensor) -> Iteration:
        alpha = float(step_size(self, guarantee, self.step))
        return _ReflectedIteration(affine(problem, self), start, alpha, halved=self.algorithm == "douglas_rachford")


@checked_fields
@dataclass(frozen=True)
class PeacemanRachford(_Reflected):
    """Converges linearly at every step when I − W is strongly monotone; one state-size product a step.

    Args:
        step: α, or None for the one that the guarantee suggests.
    """

    algorithm: ClassVar[str] = "peaceman_rachford"


@checked_fields
@dataclass(frozen=True)
class DouglasRachford(_Reflected):
    """The averaged form of Peaceman–Rachford: slower, and convergent for merely monotone I − W too.

    Args:
        step: α, or None for the one that the guarantee suggests.
    """

    algorithm: ClassVar[str] = "douglas_rachford"


class _ReflectedIteration(Iteration):
    rowwise = ("_u", "_constant")
    image_is_free = False
    problem: AffineProblem

    def __init__(self, problem: AffineProblem, start: Tensor | None, alpha: float, *, halved: bool) -> None:
        self.problem = problem
        scaling = problem.operator.scaling
        self._alpha = alpha if scaling is None else alpha * scaling
        self._halved = halved
        self._cayley = problem.operator.cayley(alpha)
        driven = problem.offset * self._alpha
        self._constant = self._cayley.affine(driven, driven)
        if start is None:  # the first step from u = 0, for free
            self._u = self._constant
        else:  # the u whose resolvent is σ(W·start + q)
            value = problem.operator.affine(start, problem.offset)
            self._u = torch.lerp(problem.activation(value), value, self._alpha)

    def advance(self) -> None:
        reflected = self.problem.activation.reflect(self._u, self._alpha)
        new = self._cayley.affine(reflected, self._constant)
        self._u = torch.lerp(self._u, new, 0.5) if self._halved else new

    def observe(self) -> Tensor:
        return self.problem.activation.resolvent(self._u, self._alpha)

    def judge(self, guarantee: Guarantee | None) -> tuple[Tensor, Tensor, Tensor]:
        # z = J_α(u) solves the equation exactly for q + defect. The defect is taken from W itself: an inaccurate
        # factorisation cannot hide in it. ‖defect‖ also bounds ‖f(z) − z‖.
        value = self.observe()
        through = self.problem.operator.affine(value, self.problem.offset)
        defect = self.problem.activation.defect(value, through, self._u, self._alpha)
        residual = euclidean(defect)
        return value, residual, residual if guarantee is None else guarantee.defect_bound(defect, residual)

    def predicted_rate(self) -> float:
        # Reflection preserves lengths or shortens them, so typical differences shrink by C's typical singular value.
        rate = self._cayley.norm_estimate()
        return 0.5 * (1.0 + rate) if self._halved else rate
