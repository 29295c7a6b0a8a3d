"""The states of two inputs that prove a lower bound, for the checker."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wellposed.bounds.tail import tail_of
from wellposed.bounds.tail_bound import TailBound
from wellposed.guarantee.metric_search import known_metric
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.frozen import frozen
from wellposed.layers.normalize import Normalize
from wellposed.layers.plain import is_plain, moves_only
from wellposed.network.kinds import Block
from wellposed.network.metric import metric_guarantee
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import rounding_constant


@torch.no_grad()
def describe_witness(
    chain: Sequence[Block], joint: TailBound, points: Tensor, norm: Norm
) -> tuple[dict[str, Tensor], float] | None:
    """The states of two inputs and a metric that bounds their errors, for the checker, and the lower bound that they prove there.

    None where something but a normalisation precedes the layer, or its state map is no matrix.

    Args:
        chain: the blocks.
        joint: names the layer.
        points: the inputs, shape (2, ...), float64.
        norm: of inputs and outputs.
    """
    layer = chain[joint.place][1]
    assert isinstance(layer, Equilibrium)
    if layer.operator().matrix() is None:
        return None
    value = points
    for _, block in chain[: joint.place]:
        if is_plain(block, Normalize):
            value = (value - block.mean.double().cpu()) / block.std.double().cpu()
        elif moves_only(block):
            value = block(value)
        else:
            return None
    exact = frozen(layer, metric_guarantee(joint.block, layer))
    matrix, offset = exact.operator().dense(), exact.injection(value)
    states = exact.state(value)
    for _ in range(3):  # the two inputs are close to each other: their states need all digits
        driven = states @ matrix.t() + offset
        slopes = exact.activation.derivative(driven)
        missing = exact.activation(driven) - states
        eye = torch.eye(len(matrix), dtype=torch.float64)
        moved = [
            torch.linalg.solve_ex(eye - slope[:, None] * matrix, defect[:, None])[0][:, 0]
            for slope, defect in zip(slopes, missing, strict=True)
        ]
        states = states + torch.stack(moved)
    # What the last step misses, and its rounding, moves the state by an offset, which a metric turns into a distance.
    driven = states @ matrix.t() + offset
    image = exact.activation(driven)
    sizes = states.abs() @ matrix.abs().t() + value.abs() @ exact.injection.weight.abs().t() + offset.abs()
    terms = sum(matrix.shape) + exact.injection.weight.shape[1]
    away = ((states - image) @ matrix.t()).abs() + 4.0 * rounding_constant(terms + 16) * sizes
    known = known_metric(matrix.detach(), exact.guarantee())
    metrics = [joint.multipliers[0], *([] if known is None else [known])]
    distances = [_distance(matrix, metric, away) for metric in metrics]
    best = min(distances)
    tail = tail_of(chain)
    assert tail is not None
    rows, order = tail.rows, float(norm)
    error = float(rows.norm()) * (best + rounding_constant(terms + 16) * float(image.abs().sum()))
    apart = float(torch.linalg.vector_norm((image[1] - image[0]) @ rows.t(), order))
    distance = float(torch.linalg.vector_norm(points[1] - points[0], order))
    sure = apart - error * (len(rows) ** 0.5 if norm == "1" else 1.0)
    slope = sure / distance * (1.0 - 1e-9) if distance > 0.0 else 0.0
    return {"witness/states": states, "witness/multipliers": metrics[distances.index(best)].clone()}, slope


def _distance(matrix: Tensor, metric: Tensor, away: Tensor) -> float:
    """A little more than how far offsets move states, all rows together, by a diagonal metric; infinite if it is none."""
    half = metric[:, None] * (torch.eye(len(matrix), dtype=torch.float64) - matrix)
    least = float(torch.linalg.eigvalsh(half + half.t())[0])
    return 2.1 * float((metric * away).norm(dim=1).sum()) / least if least > 0.0 else torch.inf
