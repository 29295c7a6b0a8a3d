"""Peaceman–Rachford and Douglas–Rachford splitting in reflected form.

With C = 2(I + α(I − W))⁻¹ − I and R the activation's reflected resolvent, one Peaceman–Rachford step is
``u ← αq + C·(R(u) + αq)``, and z = J_α(u); α is a number, or a positive diagonal where the operator has a scaling. For
ReLU, R(u) = |u|, so a step is one matrix product, one absolute value and one sum. Douglas–Rachford takes half of it.

Solves with matrices that stop by the changes of their iterates begin at u = αq, which is no farther away than where one step from
zero leads, and needs no product. Others take that step, whose value αq + C·αq is added to C·R(u) from then on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import checked_fields
from wellposed.guarantee import Guarantee, Plan
from wellposed.numerics.euclidean import euclidean
from wellposed.solvers.base import ROUNDINGS, Iteration, Window, distance_left
from wellposed.solvers.looking import is_cheap
from wellposed.solvers.problem import AffineProblem, Problem
from wellposed.solvers.splitting import Splitting

_EARLY = 16  # steps, before which changes say little of later ones


@checked_fields
@dataclass(frozen=True)
class PeacemanRachford(Splitting):
    """Converges linearly at every step when I − W is strongly monotone; one state-size product a step.

    Args:
        step: α, or None for the one that the guarantee suggests.
    """

    relaxation: ClassVar[float] = 1.0

    @override
    def known_step(self, guarantee: Guarantee) -> float | None:
        return guarantee.suggested_step() if self.step is None else self.step

    @override
    def plan(self, guarantee: Guarantee) -> Plan | None:
        return guarantee.reflected_plan(self.known_step(guarantee), self.relaxation)

    @override
    def reflected_step(self, guarantee: Guarantee) -> float | None:
        return float(self.step_under(guarantee)) if self.relaxation == 1.0 else None

    @override
    def bind(self, problem: Problem, guarantee: Guarantee | None, start: Tensor | None, like: Tensor) -> Iteration:
        kind = _Watched if guarantee is not None and guarantee.stops_by_changes else _Reflected
        return kind(self.affine(problem), start, float(self.step_under(guarantee)), self.relaxation)


@checked_fields
@dataclass(frozen=True)
class DouglasRachford(PeacemanRachford):
    """The averaged form of Peaceman–Rachford: slower, and convergent for merely monotone I − W too.

    Args:
        step: α, or None for the one that the guarantee suggests.
    """

    relaxation: ClassVar[float] = 0.5


class _Reflected(Iteration):
    """Values are judged by their defects."""

    rowwise: tuple[str, ...] = ("_u", "_constant")
    image_is_free = False
    problem: AffineProblem

    def __init__(self, problem: AffineProblem, start: Tensor | None, alpha: float, relaxation: float) -> None:
        self.problem = problem
        scaling = problem.operator.scaling
        self._alpha = alpha if scaling is None else alpha * scaling
        self._relaxation = relaxation
        self._reflect = problem.activation.reflection(self._alpha)
        self._cayley = problem.operator.cayley(alpha)
        self._constant = self._added(problem.offset * self._alpha)
        self._u = self._constant
        if start is not None:  # the u whose resolvent is σ(W·start + q)
            value = problem.operator.affine(start, problem.offset)
            self._u = torch.lerp(problem.activation(value), value, self._alpha)

    def _added(self, driven: Tensor) -> Tensor:
        """What a step adds, and what the iteration starts at: (I + C)αq, where C is the Cayley transform."""
        return self._cayley.affine(driven, driven)

    def _transformed(self, reflected: Tensor) -> Tensor:
        """C(r + αq) + αq of a reflected r."""
        return self._cayley.affine(reflected, self._constant)

    def advance(self) -> None:
        new = self._transformed(self._reflect(self._u))
        self._u = new if self._relaxation == 1.0 else torch.lerp(self._u, new, self._relaxation)

    def select(self, rows: Tensor) -> None:
        super().select(rows)
        self._reflect = self.problem.activation.reflection(self._alpha)

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
        return 1.0 - self._relaxation + self._relaxation * rate


class _Watched(_Reflected):
    """Values are judged by how the iterates change."""

    rowwise = ("_u", "_before", "_earlier", "_earliest", "_constant", "_marked", "_first")

    def __init__(self, problem: AffineProblem, start: Tensor | None, alpha: float, relaxation: float) -> None:
        super().__init__(problem, start, alpha, relaxation)
        matrix = self._cayley.matrix()
        self._before = torch.zeros_like(self._u) if start is None and matrix is None else self._u
        self._earliest = self._earlier = self._before
        # Changes at the last two powers of two of steps, the first one the earlier.
        self._steps, self._first_at, self._marked_at = 0, 0, 0
        self._first = self._marked = torch.zeros(len(self._u), device=self._u.device)
        self.is_cheap = matrix is not None and is_cheap(matrix, self._u)

    @override
    def _added(self, driven: Tensor) -> Tensor:
        return super()._added(driven) if self._cayley.matrix() is None else driven  # it saves a product

    @override
    def _transformed(self, reflected: Tensor) -> Tensor:
        return super()._transformed(reflected if self._cayley.matrix() is None else reflected + self._constant)

    @override
    def advance(self) -> None:
        self._earliest, self._earlier, self._before = self._earlier, self._before, self._u
        super().advance()
        self._steps += 1
        if self._steps >= _EARLY and self._steps & (self._steps - 1) == 0:
            self._first, self._first_at = self._marked, self._marked_at
            self._marked, self._marked_at = euclidean(self._u - self._before), self._steps

    @override
    def judge(self, guarantee: Guarantee | None) -> tuple[Tensor, Tensor, Tensor]:
        value = self.observe()
        last, before, earlier, size = self.changes(euclidean)
        rounding = size * (ROUNDINGS * torch.finfo(value.dtype).eps)
        now, one_before, two_before, least = torch.stack((last, before, earlier, rounding)).cpu().numpy()
        with np.errstate(all="ignore"):
            found = distance_left(now, one_before, two_before, least, self.window())
        return value, last, torch.from_numpy(found).to(last.device)

    @override
    def changes(self, norm: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # J_α and its reflection are nonexpansive, so that z is about as near as u or nearer.
        iterates = (self._u, self._before, self._earlier, self._earliest)
        last, before, earlier = (norm(new - old) for new, old in itertools.pairwise(iterates))
        return last, before, earlier, norm(self._u)

    @override
    def window(self) -> Window | None:
        recent = 2 * (self._steps - self._marked_at) < self._marked_at
        change, at = (self._first, self._first_at) if recent else (self._marked, self._marked_at)
        return Window(change, self._steps - at) if at else None
