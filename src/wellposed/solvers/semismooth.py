"""Equilibria of z = σ(Wz + q) by a semismooth Newton method with the slopes of each sample, made global by a homotopy.

A step solves (I − DW)d = σ(Wz + q) − z for the slopes D at z; where σ is piecewise linear, it is exact once the pieces are
known. Full steps may go in circles. Then a path is followed that ends at the equilibrium (Ortega & Rheinboldt 1970, Section
7.5): where σ is piecewise linear, exactly from piece to piece as the offset moves, see `wellposed.solvers.piecewise_path`;
elsewhere as W grows from little to what it is, see `wellposed.solvers.tempered_path`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.linear_algebra import solve
from wellposed.solvers.flat_problem import FlatProblem, rows_at_a_time
from wellposed.solvers.piecewise_path import follow_pieces
from wellposed.solvers.problem import AffineProblem
from wellposed.solvers.tempered_path import follow_temperature

_FULL_STEPS = 20  # before a path is followed
_CLOSE = 1e-9  # residual, relative to the value, at which points count as found


def newton(problem: AffineProblem, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Equilibria as exact as float64 gives them.

    Args:
        problem: in float64.
        start: shape (batch, *state), float64.
        steps: limit on the solutions of linear systems for each sample, or on what replaces them along a path.

    Returns:
        The best values found, and the number of steps each took.
    """
    values, counts = torch.empty_like(start), torch.zeros(len(start), dtype=torch.int64, device=start.device)
    matrix = problem.operator.dense()
    for rows in rows_at_a_time(len(start), len(matrix), start.device):
        flat = FlatProblem.of(problem.select(rows), matrix)
        first = start[rows].flatten(1)
        # A start that solves the equation worse than zero does is not worth its way back.
        useful = euclidean(flat.image(flat.driven(first)) - first) <= euclidean(flat.image(flat.offset))
        value, counts[rows] = _solved(flat, torch.where(useful[:, None], first, 0.0), steps)
        driven = flat.driven(value)  # where slopes are zero, σ is what it is there, to the last digit
        value = torch.where(flat.slopes(driven) == 0.0, flat.image(driven), value)
        values[rows] = value.reshape(start[rows].shape)
    return values, counts


def further_step(problem: AffineProblem, value: Tensor) -> Tensor:
    """The Euclidean norm of the Newton step at a value, which estimates its distance from the equilibrium; infinite without one.

    Args:
        problem: in float64.
        value: shape (batch, *state), float64.
    """
    sizes, matrix = torch.empty(len(value), dtype=value.dtype, device=value.device), problem.operator.dense()
    for rows in rows_at_a_time(len(value), len(matrix), value.device):
        flat, state = FlatProblem.of(problem.select(rows), matrix), value[rows].flatten(1)
        driven = flat.driven(state)
        sizes[rows] = euclidean(_step(flat, driven, flat.image(driven) - state))
    return sizes.nan_to_num(nan=torch.inf)


def _step(problem: FlatProblem, driven: Tensor, residual: Tensor) -> Tensor:
    """The d with (I − DW)d = residual, D the slopes at pre-activations."""
    return solve(problem.system(problem.slopes(driven)), residual[:, :, None]).squeeze(2)


def _solved(problem: FlatProblem, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    value, residual, used = _polished(problem, start, min(steps, _FULL_STEPS))
    counts = torch.full((len(start),), used, dtype=torch.int64, device=start.device)
    missed = ~(residual <= _CLOSE * (1.0 + euclidean(value)))
    if not bool(missed.any()) or steps <= _FULL_STEPS:
        return value, counts
    rows = missed.nonzero().squeeze(1)
    own = problem.select(rows)
    if problem.activation.kinks is None:
        reached, taken = follow_temperature(own, steps - used)
    else:
        reached, taken = follow_pieces(own, value[rows], steps - used)
    again, further, more = _polished(own, reached, 3)
    better = further < residual[rows]
    value[rows] = torch.where(better[:, None], again, value[rows])
    counts[rows] += taken + more
    return value, counts


def _polished(problem: FlatProblem, value: Tensor, steps: int) -> tuple[Tensor, Tensor, int]:
    """The iterate of least residual among some full steps, that residual, and how many steps were taken."""
    best, least, step = value, value.new_full((len(value),), torch.inf), 0
    for step in range(steps + 1):
        driven = problem.driven(value)
        residual = problem.image(driven) - value
        size = euclidean(residual)
        better = size < least
        best, least = torch.where(better[:, None], value, best), torch.where(better, size, least)
        settled = least <= 1e-15 * euclidean(best)
        stuck = ~better & (least <= 1e-12 * (1.0 + euclidean(best)))
        if step == steps or bool((settled | stuck).all()):
            break
        value = value + _step(problem, driven, residual)
        value = torch.where(torch.isfinite(value), value, best)
    return best, least, step
