"""Error bounds from the local linear map: as sharp as the slopes near a point allow, whatever the margin of the guarantee is.

With G(z) = z − σ(Wz + q), for all z, z' of a box G(z) − G(z') = (I − DW)(z − z') with slopes D between pre-activations of the
box. Krawczyk's operator with R ≈ (I − D₀W)⁻¹ maps the box z ± r into itself where |R·G(z)| + |I − R(I − DW)|·r < r; then an
equilibrium lies in it (Brouwer), which is the one that a guarantee promises, and it is within the left side of z (Krawczyk
1969; Neumaier 1990, "Interval Methods for Systems of Equations", Section 5.1). At a solution without ties of a piecewise linear
σ, D is known.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.linear_algebra import inverse
from wellposed.numerics.outward import TINY, UNIT, enlarged, enlarged_norm, error_of
from wellposed.solvers.flat_problem import rows_at_a_time
from wellposed.solvers.problem import AffineProblem

_TRIES = 4  # boxes
_LEAST = 1e-8  # half-width of a box, relative to its largest


def local_bound(problem: AffineProblem, value: Tensor, offset_error: Tensor) -> Tensor:
    """Bound on the Euclidean distance of each sample's value from an equilibrium near it; infinite where none is proved.

    Args:
        problem: in float64.
        value: shape (batch, *state), float64.
        offset_error: bound on the Euclidean norm of the error of ``problem.offset``, shape (batch,), float64.
    """
    matrix, stored = problem.operator.dense(), problem.operator.matrix() is not None
    ones = torch.ones((), dtype=torch.float64, device=matrix.device)
    # A column is W of a unit vector, and no entry errs by more than the column.
    blur = 0.0 if stored else float(problem.operator.rounding(ones, 0.0 * ones))
    found = [
        _bound(problem.select(rows), matrix, blur, value[rows], offset_error[rows])
        for rows in rows_at_a_time(len(value), len(matrix), value.device)
    ]
    return torch.cat(found) if found else offset_error.clone()


def _bound(problem: AffineProblem, matrix: Tensor, blur: float, value: Tensor, offset_error: Tensor) -> Tensor:
    shape, count = value.shape, len(matrix)
    size = matrix.abs() + blur
    driven = problem.operator.affine(value, problem.offset).flatten(1)
    value, offset = value.flatten(1), problem.offset.flatten(1)
    uncertain = enlarged(error_of(torch.mm(value.abs(), size.t()) + offset.abs(), count + 2) + TINY, 3)
    # Errors of pre-activations of which the Euclidean norm is known.
    norm = (
        offset_error if blur == 0.0 else offset_error + problem.operator.rounding(euclidean(value), euclidean(offset))
    )
    norm = enlarged(norm, 1)[:, None]
    residual = _farthest(problem, value, driven, uncertain, shape)
    uncertain = uncertain + norm
    at_any = _farthest(problem, value, driven, uncertain, shape)
    low, high = _between(problem.activation.slopes_between, driven, uncertain, shape)
    steepest = torch.maximum(low.abs(), high.abs())
    slopes = problem.activation.derivative(driven.reshape(shape)).flatten(1)
    identity = torch.eye(count, dtype=matrix.dtype, device=matrix.device)
    system = identity - slopes[:, :, None] * matrix
    preconditioner = inverse(system)
    good = torch.isfinite(preconditioner).flatten(1).all(1)
    preconditioner = torch.where(good[:, None, None], preconditioner, 0.0)
    left = (identity - preconditioner @ system).abs()
    weights = preconditioner.abs()
    reach = torch.linalg.vector_norm(weights * steepest[:, None, :], dim=2)  # by Cauchy and Schwarz
    # Of saturated units the values are known better than by what slopes are at most.
    moved = torch.minimum(_times(weights, residual) + norm * reach, _times(weights, at_any))
    moved = enlarged(moved, count + 6)
    # No component's box is far smaller than what rounding carries over from the others.
    radius, proved = 1.5 * moved + _LEAST * moved.amax(1, keepdim=True) + TINY, torch.full_like(moved, torch.inf)
    for _ in range(_TRIES):
        spread = enlarged(torch.mm(radius, size.t()), count + 1)
        low, high = _between(problem.activation.slopes_between, driven, uncertain + spread, shape)
        apart = torch.maximum((high - slopes).abs(), (low - slopes).abs())
        # The computed I − R(I − D₀W) errs by roundings of I + |R|(I + D₀|W|); slopes differ from D₀ by `apart`, and W by `blur`.
        lost = radius + _times(weights, radius + slopes.abs() * spread)
        other = apart * spread + slopes.abs() * (blur * radius.sum(1, keepdim=True))
        image = moved + _times(left, radius) + _times(weights, other) + error_of(lost, 2 * count + 8)
        image = enlarged(image, count + 6) + TINY
        inside = (image < radius).all(1) & good
        proved = torch.where(inside[:, None], torch.minimum(image, proved), proved)
        if bool(inside.all()):
            break
        radius = torch.where(inside[:, None], radius, torch.maximum(2.0 * image, radius))
    bound = enlarged_norm(euclidean(proved.nan_to_num(nan=torch.inf)), count)
    return torch.where(torch.isfinite(bound), bound, torch.inf)


def _farthest(problem: AffineProblem, value: Tensor, driven: Tensor, reach: Tensor, shape: torch.Size) -> Tensor:
    """How far σ of pre-activations that are known within some reach may be from a value, entry by entry."""
    least, largest = _between(problem.activation.interval, driven, reach, shape)
    return enlarged(torch.maximum((value - least).abs(), (largest - value).abs()), 2)


def _between(
    bounds: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], middle: Tensor, reach: Tensor, shape: torch.Size
) -> tuple[Tensor, Tensor]:
    """What is known of an activation between middle ± reach."""
    # One more unit in the last place covers the rounding of both ends.
    reach = enlarged(reach + UNIT * middle.abs(), 3)
    least, largest = bounds((middle - reach).reshape(shape), (middle + reach).reshape(shape))
    return least.flatten(1), largest.flatten(1)


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    return torch.bmm(matrices, vectors[:, :, None]).squeeze(2)
