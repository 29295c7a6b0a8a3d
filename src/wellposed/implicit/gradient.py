"""How to differentiate through a solve, and everything else about a solve that is not a tensor."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import check, checked_fields
from wellposed.solvers.base import Solver, check_solver
from wellposed.solvers.solution import Tolerance, check_on_failure


class Differentiable(Protocol):
    """What gradients other than the implicit one need of an equation."""

    def step(self, value: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """One application of the map, with its graph."""

    def unrolled(self, start: Tensor | None, tensors: Sequence[Tensor], steps: int) -> Tensor:
        """The solver's own iterations, with their graph."""


class Gradient(ABC):
    """How to differentiate through a solve.

    Attributes:
        is_implicit: whether the gradient is given by the implicit function theorem, for which the adjoint equation is solved.
        solver: for the adjoint equation; None for the solver of the forward pass.
        rtol: relative tolerance of the adjoint state; None for the tolerance of the forward pass.
        max_steps: step limit of the adjoint solve; None for the limit of the forward pass.
    """

    is_implicit: bool = False
    solver: Solver | None = None
    rtol: float | None = None
    max_steps: int | None = None

    @abstractmethod
    def attached(
        self, equation: Differentiable, value: Tensor, steps: int, start: Tensor | None, tensors: Sequence[Tensor]
    ) -> Tensor:
        """A tensor near the value whose graph leads to the equation's tensors; not asked for where the gradient is implicit.

        Args:
            equation: what was solved.
            value: its solution, without a graph.
            steps: how many iterations that took.
            start: first iterate, or None for zero.
            tensors: the equation's tensors.
        """


@checked_fields
@dataclass(frozen=True)
class Exact(Gradient):
    """The implicit function theorem: exact up to the tolerance of the adjoint solve, constant memory.

    Args:
        solver: for the adjoint equation; None for the solver of the forward pass.
        rtol: relative tolerance of the adjoint state; None for the one of the forward pass. A tenth of it, relative to the
            cotangent, is allowed besides: an adjoint state may vanish though its cotangent does not.
        max_steps: step limit of the adjoint solve; None for the limit of the forward pass.
    """

    solver: Solver | None = None
    rtol: float | None = None
    max_steps: int | None = None

    is_implicit = True

    def __post_init__(self) -> None:
        check_solver(self.solver)
        rtol, steps = self.rtol, self.max_steps
        check(rtol is None or 0.0 <= rtol < math.inf, "rtol", rtol, "must be a finite number, not negative")
        check(steps is None or steps >= 1, "max_steps", steps, "must be at least 1")

    @override
    def attached(
        self, equation: Differentiable, value: Tensor, steps: int, start: Tensor | None, tensors: Sequence[Tensor]
    ) -> Tensor:
        raise NotImplementedError  # as it is implicit


@checked_fields
@dataclass(frozen=True)
class Phantom(Gradient):
    """Backpropagation through a few damped steps from the solution (Geng et al. 2021): cheap and biased.

    Args:
        steps: number of steps.
        damping: weight of the new value in each step, in (0, 1].
    """

    steps: int = 5
    damping: float = 0.5

    def __post_init__(self) -> None:
        check(self.steps >= 1, "steps", self.steps, "must be at least 1")
        check(0.0 < self.damping <= 1.0, "damping", self.damping, "must lie in (0, 1]")

    @override
    def attached(
        self, equation: Differentiable, value: Tensor, steps: int, start: Tensor | None, tensors: Sequence[Tensor]
    ) -> Tensor:
        for _ in range(self.steps):
            value = torch.lerp(value, equation.step(value, tensors), self.damping)
        return value


@checked_fields
@dataclass(frozen=True)
class JacobianFree(Gradient):
    """Backpropagation through a single step (Fung et al. 2022): the cheapest, and biased."""

    @override
    def attached(
        self, equation: Differentiable, value: Tensor, steps: int, start: Tensor | None, tensors: Sequence[Tensor]
    ) -> Tensor:
        return equation.step(value, tensors)


@checked_fields
@dataclass(frozen=True)
class Unrolled(Gradient):
    """Backpropagation through the iterations themselves: memory grows with their number."""

    @override
    def attached(
        self, equation: Differentiable, value: Tensor, steps: int, start: Tensor | None, tensors: Sequence[Tensor]
    ) -> Tensor:
        # Of no samples there are no iterations.
        return equation.unrolled(start, tensors, steps) if value.numel() else equation.step(value, tensors)


COTANGENT_SHARE = 0.1  # of the relative tolerance of an adjoint state, relative to the cotangent
_EXACT = Exact()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything about a solve that is not a tensor.

    Attributes:
        solver: the algorithm.
        tolerance: when a sample is done.
        max_steps: limit on the steps of each sample.
        on_failure: ``"warn"`` or ``"raise"`` if a sample does not converge.
        gradient: how to differentiate through the solve.
        certified: whether the error bounds of results are rigorous, rounding included.
        sharpened: whether results that are certified are as exact as one more step in float64 makes them, where less would do.
        continued: whether samples that the algorithm has not brought to their equilibrium go on by Newton's method, where the map
            is affine and has a guarantee.
        offset_share: adds this multiple of rtol·‖offset‖ to the absolute tolerance of each sample.
        name: of the solve, for errors.
    """

    solver: Solver
    tolerance: Tolerance
    max_steps: int
    on_failure: str
    gradient: Gradient = field(default_factory=Exact)
    certified: bool = False
    sharpened: bool = False
    continued: bool = False
    offset_share: float = 0.0
    name: str = "fixed-point solve"

    def __post_init__(self) -> None:
        known = isinstance(self.gradient, Gradient)
        check(known, "gradient", self.gradient, "must be a Gradient, such as wellposed.Exact()")
        check(self.max_steps >= 1, "max_steps", self.max_steps, "must be at least 1")
        check_on_failure(self.on_failure)

    def adjoint(self, dtype: torch.dtype) -> Settings:
        """Settings of the adjoint equation: the tolerance is relative, gradients have no natural scale.

        It is relative to the adjoint state and, for states that vanish though their cotangent does not (all units that it
        reaches are off), to a fraction of the cotangent.
        """
        wanted = self.gradient
        rtol = self.tolerance.resolve(dtype)[0] if wanted.rtol is None else wanted.rtol
        return Settings(
            solver=self.solver if wanted.solver is None else wanted.solver,
            tolerance=Tolerance(rtol=rtol, atol=0.0),
            max_steps=self.max_steps if wanted.max_steps is None else wanted.max_steps,
            on_failure=self.on_failure,
            gradient=_EXACT,
            certified=self.certified,
            continued=self.continued if wanted.solver is None else False,
            offset_share=COTANGENT_SHARE,
            name=self.name if self.name.startswith("adjoint") else f"adjoint of the {self.name}",
        )
