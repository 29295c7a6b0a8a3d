"""What operator splittings share: a step, and problems z = σ(Wz + q) with a monotone σ."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from wellposed.errors import InputError, check
from wellposed.guarantee import Guarantee, Plan
from wellposed.solvers.base import Solver
from wellposed.solvers.problem import AffineProblem, Problem


@dataclass(frozen=True)
class Splitting(Solver):
    """An operator splitting.

    Args:
        step: α, or None for the one that the guarantee suggests or proves best.
    """

    step: float | None = None

    def __post_init__(self) -> None:
        check(self.step is None or 0.0 < self.step < float("inf"), "step", self.step, "must be positive and finite")

    @abstractmethod
    @override
    def plan(self, guarantee: Guarantee) -> Plan | None: ...

    def known_step(self, guarantee: Guarantee) -> float | None:
        """The step that needs no plan, if there is one."""
        return self.step

    def step_under(self, guarantee: Guarantee | None) -> float | Tensor:
        """The step that was given, else the one that the guarantee suggests or proves best, else one.

        Raises:
            InputError: no step is given and the guarantee proves none for this algorithm.
        """
        step = self.step if guarantee is None else self.known_step(guarantee)
        if step is not None or guarantee is None:
            return 1.0 if step is None else step
        plan = self.plan(guarantee)
        if plan is None:
            raise InputError(
                f"solver={self!r}: {guarantee.theorem} proves no step for this algorithm; give one, or use another solver, "
                "such as the one that solver=None stands for"
            )
        return plan.step

    def affine(self, problem: Problem) -> AffineProblem:
        """The problem as z = σ(Wz + q).

        Raises:
            InputError: the problem is a general map, or its activation is not monotone.
        """
        known = problem.affine()
        if known is None:
            raise InputError(
                f"solver={self!r}: an operator splitting needs a layer z = σ(Wz + q), not a general function; "
                "use Picard, Averaged, Anderson, Broyden or Newton, or a layer such as MonDEQ"
            )
        known.activation.require_monotone(f"the solver {type(self).__name__}")
        return known
