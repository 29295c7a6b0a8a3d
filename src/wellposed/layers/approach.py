"""Solves in float64 of layers whose numbers are float32 begin in float32, which costs half."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from wellposed.guarantee import Guarantee
from wellposed.implicit import Settings
from wellposed.numerics.euclidean import rowwise_where
from wellposed.solvers.iterate import iterate
from wellposed.solvers.problem import Problem


def may_begin(settings: Settings) -> bool:
    """Whether a solve may begin in float32: steps are left for float64 then, and no gradient is that of the steps themselves."""
    return settings.max_steps > 1 and (settings.gradient.is_implicit or not torch.is_grad_enabled())


@torch.no_grad()
def approached(
    problem: Problem, start: Tensor, settings: Settings, guarantee: Guarantee
) -> tuple[Tensor, Tensor, Settings]:
    """Where iterations in the precision of ``start`` lead, from which to go on in float64.

    Args:
        problem: the map in that precision.
        start: first iterates, shape (batch, *state).
        settings: of the solve, see `may_begin`.
        guarantee: what the iterations stop by.

    Returns:
        First iterates in float64, of the shape of ``start``, which they are where the iterations led to nothing finite; the steps
        to each, shape (batch,); and the settings of what is left to do.
    """
    rtol, atol = settings.tolerance.resolve(start.dtype)
    most = settings.max_steps - 1
    outcome = iterate(problem, settings.solver, guarantee, start, start, rtol=rtol, atol=atol, max_steps=most)
    finite, steps = torch.isfinite(outcome.value).flatten(1).all(1), outcome.report.steps
    left = settings.max_steps - (int(steps.max()) if len(steps) else 0)
    return rowwise_where(finite, outcome.value, start).double(), steps, replace(settings, max_steps=left)
