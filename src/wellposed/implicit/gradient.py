"""How to differentiate through a solve, and everything else about a solve that is not a tensor."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, field

import torch

from wellposed.errors import check, checked_fields
from wellposed.solvers.base import Solver
from wellposed.solvers.solution import Tolerance, check_on_failure


class Gradient(ABC):
    """How to differentiate through a solve."""


@checked_fields
@dataclass(frozen=True)
class Exact(Gradient):
    """The implicit function theorem: exact up to the tolerance of the adjoint solve, constant memory.

    Args:
        solver: for the adjoint equation; None for the solver of the forward pass.
        rtol: relative tolerance of the adjoint state; None for that of the forward pass. A tenth of it, relative to the
            cotangent, is allowed besides: an adjoint state may vanish though its cotangent does not.
        max_steps: step limit of the adjoint solve; None for that of the forward pass.
    """

    solver: Solver | None = None
    rtol: float | None = None
    max_steps: int | None = None


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


@checked_fields
@dataclass(frozen=True)
class JacobianFree(Gradient):
    """Backpropagation through a single step (Fung et al. 2022): the cheapest, and biased."""


@checked_fields
@dataclass(frozen=True)
class Unrolled(Gradient):
    """Backpropagation through the iterations themselves: memory grows with their number."""


_COTANGENT_SHARE = 0.1


@dataclass(frozen=True)
class Settings:
    """Everything about a solve that is not a tensor.

    Attributes:
        offset_share: adds this multiple of rtol·‖offset‖ to the absolute tolerance of each sample.
    """

    solver: Solver
    tolerance: Tolerance
    max_steps: int
    on_failure: str
    gradient: Gradient = field(default_factory=Exact)
    certified: bool = False
    offset_share: float = 0.0
    name: str = "fixed-point solve"

    def __post_init__(self) -> None:
        check(self.max_steps >= 1, "max_steps", self.max_steps, "must be at least 1")
        check_on_failure(self.on_failure)

    def adjoint(self, dtype: torch.dtype) -> Settings:
        """Settings of the adjoint equation: the tolerance is relative, gradients have no natural scale.

        It is relative to the adjoint state and, for states that vanish though their cotangent does not (all units that it
        reaches are off), to a fraction of the cotangent.
        """
        exact = self.gradient if isinstance(self.gradient, Exact) else Exact()
        rtol = self.tolerance.resolve(dtype)[0] if exact.rtol is None else exact.rtol
        return Settings(
            solver=self.solver if exact.solver is None else exact.solver,
            tolerance=Tolerance(rtol=rtol, atol=0.0),
            max_steps=self.max_steps if exact.max_steps is None else exact.max_steps,
            on_failure=self.on_failure,
            gradient=Exact(),
            certified=self.certified,
            offset_share=_COTANGENT_SHARE,
            name=self.name if self.name.startswith("adjoint") else f"adjoint of the {self.name}",
        )
