"""How a layer solves its equation: the options that all layers share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict, Unpack

import torch
from torch import nn

from wellposed.errors import check
from wellposed.implicit import Exact, Gradient, Settings
from wellposed.layers.compiled import Compilable
from wellposed.solvers import Picard
from wellposed.solvers.base import Solver, check_solver
from wellposed.solvers.solution import Tolerance, check_on_failure


class SolveOptions(TypedDict, total=False):
    """Keyword arguments of every layer.

    Attributes:
        solver: the algorithm; None for the one that suits the layer's guarantee.
        gradient: how to differentiate; None for `Exact`.
        rtol: relative tolerance on the Euclidean error of each sample; None for eps^(2/3) of the dtype.
        atol: absolute tolerance on the Euclidean error of each sample; None for eps^(2/3) of the dtype.
        max_steps: limit on the iterations of each sample in one precision, 1000 by default: a solve may begin in float32.
        on_failure: ``"warn"`` (the default) or ``"raise"`` if a sample does not converge.
    """

    solver: Solver | None
    gradient: Gradient | None
    rtol: float | None
    atol: float | None
    max_steps: int
    on_failure: str


class SolvingModule(Compilable):
    """A module that solves an equation; its options can be changed at any time.

    Args:
        options: see `SolveOptions`.
    """

    def __init__(self, **options: Unpack[SolveOptions]) -> None:
        super().__init__()
        self.solver = options.get("solver")
        self.gradient = options.get("gradient") or Exact()
        self.tolerance = Tolerance(options.get("rtol"), options.get("atol"))
        self.max_steps = options.get("max_steps", 1000)
        self.on_failure = options.get("on_failure", "warn")
        self.check_options()

    def limits_by_root(self, dtype: torch.dtype) -> tuple[float, float]:
        """Relative and absolute tolerance of a solve, the root of the precision where they were not given."""
        default = torch.finfo(dtype).eps ** 0.5
        rtol, atol = (default if given is None else given for given in (self.tolerance.rtol, self.tolerance.atol))
        return rtol, atol

    def settings(self, rtol: float, atol: float, *, certified: bool = True) -> Settings:
        """How the equation is solved, by default by `Picard`, to these tolerances; ``certified`` to prove errors."""
        return Settings(
            solver=Picard() if self.solver is None else self.solver, tolerance=Tolerance(rtol, atol),
            max_steps=self.max_steps, on_failure=self.on_failure, gradient=self.gradient, certified=certified,
        )  # fmt: skip

    def check_options(self) -> None:
        """Refuse options that a solve cannot use.

        Raises:
            InputError: names the option, its value and what it may be.
        """
        check_solver(self.solver)
        check(isinstance(self.gradient, Gradient), "gradient", self.gradient, "must be one of the library's gradients")
        check(isinstance(self.tolerance, Tolerance), "tolerance", self.tolerance, "must be a Tolerance")
        whole = isinstance(self.max_steps, int) and self.max_steps >= 1
        check(whole, "max_steps", self.max_steps, "must be a whole number, at least 1")
        check_on_failure(self.on_failure)


def solving_modules(model: nn.Module) -> Iterator[SolvingModule]:
    """The modules of a model that solve an equation, itself included, in the order in which torch lists modules."""
    return (part for part in model.modules() if isinstance(part, SolvingModule))
