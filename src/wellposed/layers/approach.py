"""Solves in float64 of layers whose numbers are float32 begin in float32, which costs half."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.guarantee import Guarantee
from wellposed.implicit import Settings
from wellposed.solvers.iterate import iterate
from wellposed.solvers.problem import Problem


@torch.no_grad()
def approached(problem: Problem, start: Tensor, settings: Settings, guarantee: Guarantee) -> tuple[Tensor, Tensor]:
    """Where iterations in the precision of ``start`` lead, from which to go on in float64, and the steps to each sample's.

    Args:
        problem: the map in that precision.
        start: first iterates, shape (batch, *state).
        settings: of the solve.
        guarantee: what the iterations stop by.

    Returns:
        Shape (batch, *state), float64, zero where an entry is not finite; and shape (batch,).
    """
    rtol, atol = settings.tolerance.resolve(start.dtype)
    outcome = iterate(
        problem, settings.solver, guarantee, start, start, rtol=rtol, atol=atol, max_steps=settings.max_steps
    )
    value = outcome.value.double()
    return torch.where(torch.isfinite(value), value, 0.0), outcome.report.steps
