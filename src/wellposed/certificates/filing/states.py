"""The states of two inputs that prove a lower bound, for the checker."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wellposed.bounds.tail import tail_of
from wellposed.bounds.tail_bound import TailBound
from wellposed.errors import CertificateError
from wellposed.guarantee.metric_search import known_metric
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.frozen import frozen
from wellposed.network.kinds import Block
from wellposed.network.metric import metric_guarantee
from wellposed.numerics.linear_algebra import solve
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import rounding_constant

# For the checker's coarser rounding: of the slope, of a distance (which is twice a sum), and of the rounding of offsets.
_SLOPE, _DISTANCE, _OFFSETS = 1.0 - 1e-9, 2.1, 4.0
_STEPS = 3  # of Newton's method: the two inputs are close to each other, so that their states need all digits


@torch.no_grad()
def witness_states(
    blocks: Sequence[Block], metric_bound: TailBound, points: Tensor, norm: Norm
) -> tuple[dict[str, Tensor], float] | None:
    """The states of two inputs and a metric that bounds their errors, for the checker, and the lower bound that they prove there.

    None where something but a normalisation precedes the layer, or its state map is no matrix.

    Args:
        blocks: of the network, in order.
        metric_bound: names the layer.
        points: the inputs, shape (2, ...), float64.
        norm: of inputs and outputs.
    """
    tail, value = tail_of(blocks), _normalised(blocks[: metric_bound.place], points)
    assert tail is not None  # or there would be no metric bound
    if value is None or tail.layer.operator().matrix() is None:
        return None
    layer = frozen(tail.layer, metric_guarantee(metric_bound.block, tail.layer))
    matrix, offset = layer.operator().dense(), layer.injection(value)
    states = layer.state(value)
    for _ in range(_STEPS):
        states = states + _newton_step(layer, matrix, offset, states)
    # What the last step misses, and its rounding, moves the state by an offset, which a metric turns into a distance.
    image = layer.activation(states @ matrix.t() + offset)
    sizes = states.abs() @ matrix.abs().t() + value.abs() @ layer.injection.weight.abs().t() + offset.abs()
    rounding = rounding_constant(sum(matrix.shape) + layer.injection.weight.shape[1] + 16)
    away = ((states - image) @ matrix.t()).abs() + _OFFSETS * rounding * sizes
    known = known_metric(matrix, layer.guarantee())
    metrics = [metric_bound.multipliers[0], *([] if known is None else [known])]
    distances = [_distance(matrix, metric, away) for metric in metrics]
    best = min(distances)
    error = float(tail.rows.norm()) * (best + rounding * float(image.abs().sum()))
    apart = float(torch.linalg.vector_norm((image[1] - image[0]) @ tail.rows.t(), float(norm)))
    distance = float(torch.linalg.vector_norm(points[1] - points[0], float(norm)))
    sure = apart - error * (len(tail.rows) ** 0.5 if norm == "1" else 1.0)
    slope = sure / distance * _SLOPE if distance > 0.0 else 0.0
    return {"witness/states": states, "witness/multipliers": metrics[distances.index(best)].clone()}, slope


def _normalised(before: Sequence[Block], points: Tensor) -> Tensor | None:
    """Points as the layer takes them, shape (2, inputs); None where the checker could not follow what comes before it."""
    value = points.flatten(1)
    for place, block in enumerate(before):
        try:
            known = None if block.moves else block.normalisation(value.shape[1], before[place + 1 :])
        except CertificateError:  # nothing makes one vector of channels that are normalised differently
            return None
        if known is not None:
            value = (value - known[0]) / known[1]
        elif not block.moves:
            return None
    return value


def _newton_step(layer: Equilibrium, matrix: Tensor, offset: Tensor, states: Tensor) -> Tensor:
    """By how much Newton's method for z = σ(Wz + q) moves every state, shape (2, n)."""
    driven = states @ matrix.t() + offset
    missing, eye = layer.activation(driven) - states, torch.eye(len(matrix), dtype=torch.float64, device="cpu")
    jacobian = eye - layer.activation.derivative(driven)[:, :, None] * matrix
    return solve(jacobian, missing[:, :, None])[:, :, 0]


def _distance(matrix: Tensor, metric: Tensor, away: Tensor) -> float:
    """A little more than how far offsets move states, all rows together, by a diagonal metric; infinite if it is none."""
    half = metric[:, None] * (torch.eye(len(matrix), dtype=torch.float64, device="cpu") - matrix)
    least = float(torch.linalg.eigvalsh(half + half.t())[0])
    return _DISTANCE * float((metric * away).norm(dim=1).sum()) / least if least > 0.0 else torch.inf
