"""Solving and differentiating z = tanh(Wz + Ux + b) with `wellposed.fixed_point`, with a plain loop, and with torchdeq."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import wellposed as wp
from wellposed.benchmarking.fixed_point_case import Case, cell
from wellposed.errors import require
from wellposed.solvers import Solver

MOST_STEPS = 5000


class Solving(ABC):
    """One way to compute a solution and its gradients in W, U, b and the offset.

    Args:
        case: the equation.
    """

    def __init__(self, case: Case) -> None:
        self.case = case

    @abstractmethod
    def run(self, *tolerances: float) -> tuple[Tensor, Tensor]:
        """The value and the gradient in the offset, at a tolerance for the solve and one for its adjoint."""

    def errors(self, *tolerances: float) -> Sequence[float]:
        """Median and worst relative error of values and of gradients."""
        return self.case.errors(*self.run(*tolerances))

    def _differentiated(self, value: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        wanted = (offset, self.case.weight, self.case.inner, self.case.bias)
        return value.detach(), torch.autograd.grad(value, wanted, self.case.cotangent)[0]


class FixedPoint(Solving):
    """`wellposed.fixed_point` with its default options, tolerances and maybe the solver apart.

    Args:
        case: the equation.
        solver: see `wellposed.fixed_point`.
    """

    def __init__(self, case: Case, solver: Solver | None = None) -> None:
        super().__init__(case)
        self._solver = solver

    def run(self, *tolerances: float) -> tuple[Tensor, Tensor]:
        """See `Solving.run`."""
        forward, backward = tolerances
        offset = self.case.offset()
        found = wp.fixed_point(
            cell, torch.zeros_like(self.case.cotangent), (self.case.weight, offset), rtol=forward, atol=0.0,
            max_steps=MOST_STEPS, gradient=wp.Exact(rtol=backward), solver=self._solver,
        )  # fmt: skip
        return self._differentiated(found.value, offset)


class PlainLoop(Solving):
    """A loop without a graph, one step with its graph, and a loop of products with its transposed Jacobian."""

    def run(self, *tolerances: float) -> tuple[Tensor, Tensor]:
        """See `Solving.run`."""
        forward, backward = tolerances
        case, offset = self.case, self.case.offset()
        with torch.no_grad():
            state = iterated(lambda z: cell(z, case.weight, offset), torch.zeros_like(case.cotangent), forward)
        point = state.requires_grad_()
        image = cell(point, case.weight, offset)

        def step(y: Tensor) -> Tensor:
            return case.cotangent + torch.autograd.grad(image, point, y, retain_graph=True)[0]

        adjoint = iterated(step, case.cotangent, backward)
        found = torch.autograd.grad(image, (offset, case.weight), adjoint, retain_graph=True)
        torch.autograd.grad(offset, (case.inner, case.bias), found[0])
        return image.detach(), found[0]


def iterated(step: Callable[[Tensor], Tensor], state: Tensor, rtol: float) -> Tensor:
    """A plain loop that ends once every sample's relative residual is within the tolerance."""
    for _ in range(MOST_STEPS):
        image = step(state)
        residual = (image - state).norm(dim=1)
        state = image
        if (residual <= rtol * image.norm(dim=1)).all():
            break
    return state


class TorchDeq(Solving):
    """torchdeq with its exact gradient and relative residuals.

    Args:
        case: the equation.
        solver: its name there.
    """

    def __init__(self, case: Case, solver: str) -> None:
        super().__init__(case)
        self._package: Any = require("torchdeq", "bench")
        self._solver = solver

    def run(self, *tolerances: float) -> tuple[Tensor, Tensor]:
        """See `Solving.run`."""
        forward, backward = tolerances
        deq = self._package.get_deq(
            ift=True, f_solver=self._solver, b_solver=self._solver, f_tol=forward, b_tol=backward, f_stop_mode="rel",
            b_stop_mode="rel", f_max_iter=400, b_max_iter=400,
        )  # fmt: skip
        offset = self.case.offset()
        value = deq(lambda z: cell(z, self.case.weight, offset), torch.zeros_like(self.case.cotangent))[0][-1]
        return self._differentiated(value, offset)
