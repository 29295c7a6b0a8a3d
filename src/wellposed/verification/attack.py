"""The other side of a verifier: inputs of a region with small margins, found by gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.bounds.affine_network import AffineNetwork
from wellposed.numerics.linear_algebra import solve
from wellposed.verification.region import Region

_STEPS = 12
_CLEAR = 1e-6  # margins so far below zero, relative to their constants, are surely so: their question is answered


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
    network: AffineNetwork,
    region: Region,
    start: Tensor,
    rows: Tensor,
    constants: Tensor,
    places: Tensor | None = None,
    steps: int = _STEPS,
) -> tuple[Tensor, Tensor]:
    """The least margins found, by steps towards the minimiser of the margin's linearisation; shapes (k,), (k, inputs).

    Args:
        network: the numbers.
        region: where to search, one or k; k with places.
        start: inputs of the region, shape (k, inputs).
        rows: of the margins ``rows_k·z + constants_k``, shape (k, n).
        constants: shape (k,).
        places: which question each margin belongs to, shape (k,), if it is enough for a question that one is clearly negative.
        steps: how many.
    """
    best, points = torch.full((len(rows),), torch.inf, dtype=torch.float64, device="cpu"), start.clone()
    x, left = start, torch.arange(len(rows), device="cpu")
    for step in range(steps):
        value, gradient = margins(network, x, rows[left], constants[left])
        better = value < best[left]
        best[left] = torch.where(better, value, best[left])
        points[left] = torch.where(better[:, None], x, points[left])
        lost = best < -_CLEAR * (1.0 + constants.abs())
        if places is not None and bool(lost.any()):
            kept = ~torch.isin(places[left], places[lost])
            left, region, gradient = left[kept], region[kept], gradient[kept]
        if not len(left):
            break
        near = points[left]
        x = region.project(near + 0.5 ** (step // 2) * (region.extreme(gradient) - near))
    return best, points
