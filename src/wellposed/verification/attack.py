"""The other side of a verifier: inputs of a region with small margins, found by gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.bounds.affine_network import AffineNetwork
from wellposed.numerics.linear_algebra import solve
from wellposed.verification.region import Region

_STEPS = 12


def margins(network: AffineNetwork, x: Tensor, rows: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
    """``rows_k·z*(x_k) + constants_k`` and their gradients, for inputs of shape (k, inputs), in float64.

    Returns:
        Shapes (k,) and (k, inputs).
    """
    offset = x @ network.weight.t() + network.bias
    state = network.layer.state(x)
    active = (state @ network.matrix.t() + offset > 0.0).double()
    own = torch.eye(len(network.matrix), dtype=torch.float64, device="cpu") - active[:, :, None] * network.matrix
    through = solve(own.mT, rows[:, :, None])[:, :, 0]
    return (rows * state).sum(1) + constants, (through * active) @ network.weight


@torch.no_grad()
def descend(
    network: AffineNetwork, region: Region, start: Tensor, rows: Tensor, constants: Tensor, steps: int = _STEPS
) -> tuple[Tensor, Tensor]:
    """The least margins found, by steps towards the minimiser of the margin's linearisation; shapes (k,), (k, inputs).

    Args:
        network: the numbers.
        region: where to search, one or k.
        start: inputs of the region, shape (k, inputs).
        rows: of the margins ``rows_k·z + constants_k``, shape (k, n).
        constants: shape (k,).
        steps: how many.
    """
    best, points = torch.full((len(rows),), torch.inf, dtype=torch.float64, device="cpu"), start.clone()
    x = start
    for step in range(steps):
        value, gradient = margins(network, x, rows, constants)
        better = value < best
        best = torch.where(better, value, best)
        points = torch.where(better[:, None], x, points)
        goal = region.extreme(gradient)
        share = 0.5 ** (step // 2)
        x = region.project(points + share * (goal - points))
    return best, points
