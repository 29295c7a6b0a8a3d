"""Bounds of pre-activations and margins by secant slopes: one linear equation with interval coefficients per input.

Around the centre Δz = SΔv with slopes S in [α, β] that the bounds of v leave possible, so Δv = W(D + ΘR)Δv + UΔx with middle D
and half-widths R of the slopes, |Θ| ≤ 1. For any Y, |Δv| ≤ |YUΔx| + (|YW|R + |I − Y(I − WD)|)|Δv|; with Y ≈ (I − WD)⁻¹ the
factor K in front of the last |Δv| is small, and a w with Kw < w proves |Δv| ≤ (I − K)⁻¹|YUΔx|. Needs nothing of W but this.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.bounds.affine_network import AffineNetwork, Centre
from wellposed.numerics.linear_algebra import inverse, solve
from wellposed.numerics.outward import UNIT, enlarged, enlarged_sum, reduced, rounding_constant
from wellposed.verification.reduction import Bounds
from wellposed.verification.region import Region

_ROUNDS = 8
_WORTH = 0.98  # a round must shrink the mean width to this share of it, or it is the last


@dataclass(frozen=True, eq=False, repr=False)
class Secants:
    """Middle and half-width of the slopes at a region, shape (*, n) each, with bounds of |Δv|, shape (*, n)."""

    middle: Tensor
    spread: Tensor
    away: Tensor

    def __repr__(self) -> str:
        return f"Secants({tuple(self.middle.shape)})"


def secants(centre: Centre, bounds: Bounds) -> Secants:
    """The slopes of ReLU between the centre and any point within the bounds.

    The pre-activation at the centre is known up to ``centre.error``; the slopes hold for all values within it.
    """
    low, high = bounds.lower, bounds.upper
    least, largest = centre.preactivation - centre.error, centre.preactivation + centre.error
    # v₀ > 0: slopes between v₀/(v₀ − l) and 1; v₀ ≤ 0: between 0 and u/(u − v₀).
    smallest = torch.where(low >= 0.0, 1.0, torch.where(least > 0.0, least / (least - low).clamp_min(1e-300), 0.0))
    greatest = torch.where(high <= 0.0, 0.0, torch.where(largest < 0.0, high / (high - largest).clamp_min(1e-300), 1.0))
    smallest, greatest = reduced(smallest, 2).clamp(0.0, 1.0), enlarged(greatest, 2).clamp(0.0, 1.0)
    middle = 0.5 * (smallest + greatest)  # which is off by one unit at most
    spread = enlarged(0.5 * (greatest - smallest), 1) + 2.0 * UNIT
    away = enlarged(torch.maximum(high - least, largest - low), 1)
    return Secants(middle, spread, away)


def reach_of(rows: Tensor, network: AffineNetwork, region: Region) -> Tensor:
    """Upper bounds of |rows·U(x − centre)| over regions, for rows of shape (*, k, n), rounding included; shape (*, k)."""
    inputs = network.weight.shape[1]
    rounding = 2.0 * rounding_constant(len(network.matrix) + inputs + 16) + 2.0 * network.folding
    if region.widths is None:
        square = ((rows @ network.gram) * rows).sum(-1)
        size = rows.abs() @ network.row_norms
        reached = (square + rounding * size.square()).clamp_min(0.0).sqrt()
        return enlarged(region.radius[..., None] * reached, 3)
    size = _applied(rows.abs(), region.reach(network))
    return _driven(rows, network.weight, region.widths) * (1.0 + rounding) + rounding * size


def _driven(rows: Tensor, weight: Tensor, widths: Tensor) -> Tensor:
    """Products |rows·weight|·widths, for rows of shape (*, k, n) and widths of shape (*, inputs); shape (*, k)."""
    if rows.ndim > 2:  # one by one, as fresh memory for all products of a batch costs more than the products
        return torch.stack([_driven(few, weight, wide) for few, wide in zip(rows, widths, strict=True)])
    return _applied((rows @ weight).abs_(), widths)


def _applied(matrix: Tensor, vector: Tensor) -> Tensor:
    """Products of matrices of shape (*, k, n) with vectors of shape (*, n)."""
    return (matrix @ vector[..., None])[..., 0]


def refine(network: AffineNetwork, centre: Centre, region: Region, bounds: Bounds) -> Bounds:
    """Bounds that are at least as tight, all of them proved; for one region or several, whose bounds are of shape (*, n)."""
    matrix, size = network.matrix, len(network.matrix)
    identity = torch.eye(size, dtype=torch.float64, device="cpu")
    rounding = rounding_constant(2 * size + 16)
    absolute = matrix.abs()
    for _ in range(_ROUNDS):
        slopes = secants(centre, bounds)
        own = identity - matrix * slopes.middle[..., None, :]
        # Any Y will do, zero where there is no inverse: then K is the identity, and nothing is gained.
        inverted = inverse(own).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        sizes = inverted.abs()
        reached = sizes @ absolute
        remainder = (identity - inverted @ own).abs() + rounding * (reached + sizes + identity)
        through = (inverted @ matrix).abs() + rounding * reached
        factor = through * slopes.spread[..., None, :] + remainder
        driven = reach_of(inverted, network, region)
        found = torch.minimum(_supersolution(factor, driven), slopes.away)
        # Also where K is not a contraction: |Δv| ≤ a + K|Δv| with what is known already.
        for _ in range(2):
            found = torch.minimum(found, enlarged_sum(driven + _applied(factor, found), size + 1))
        away = enlarged(found, 2)  # the rounding of v₀ − error is in the error
        lower = torch.maximum(bounds.lower, centre.preactivation - centre.error - away)
        upper = torch.minimum(bounds.upper, centre.preactivation + centre.error + away)
        before, after = ((ends[1] - ends[0]).mean(-1) for ends in ((bounds.lower, bounds.upper), (lower, upper)))
        bounds = Bounds(lower, upper)
        if not bool((after < _WORTH * before).any()):
            break
    return bounds


def _supersolution(factor: Tensor, driven: Tensor) -> Tensor:
    """Some w > 0 with w ≥ driven + factor·w, near the least; infinite where none is found. It proves (I − factor)⁻¹driven ≤ w.

    Args:
        factor: nonnegative, shape (*, n, n).
        driven: nonnegative, shape (*, n).
    """
    size = driven.shape[-1]
    identity = torch.eye(size, dtype=torch.float64, device="cpu")
    guess = solve(identity - factor, torch.stack([driven, torch.ones_like(driven)], -1))
    found = torch.full_like(driven, torch.inf)
    for share in (1e-5, 1e-8, 1e-10, 1e-12):
        tried = guess[..., 0] + share * (driven.amax(-1, keepdim=True) + 1e-300) * guess[..., 1]
        image = enlarged_sum(driven + _applied(factor, tried), size + 1)
        good = ((tried > 0.0) & (image < tried) & torch.isfinite(tried)).all(-1, keepdim=True)
        found = torch.where(good, tried, found)
    return found


def margin_change(network: AffineNetwork, centre: Centre, region: Region, bounds: Bounds, rows: Tensor) -> Tensor:
    """Upper bounds of |rows·Δz| over regions, for rows of shape (*, k, n); shape (*, k).

    With g(I − WD) ≈ rows·D: rows·Δz = gUΔx + (gW + rows)ΘRΔv + (rows·D − g(I − WD))Δv.
    """
    slopes = secants(centre, bounds)
    matrix, size = network.matrix, len(network.matrix)
    identity = torch.eye(size, dtype=torch.float64, device="cpu")
    own = identity - matrix * slopes.middle[..., None, :]
    wanted = rows * slopes.middle[..., None, :]
    found = solve(own.mT, wanted.mT).mT
    rounding = rounding_constant(2 * size + 16)
    missing = (wanted - found @ own).abs() + rounding * (wanted.abs() + found.abs() @ (identity + matrix.abs()))
    open_part = (found @ matrix + rows).abs() + rounding * (found.abs() @ matrix.abs() + rows.abs())
    moved = _applied(open_part * slopes.spread[..., None, :] + missing, slopes.away)
    change = reach_of(found, network, region) + moved
    return enlarged(change.nan_to_num(nan=torch.inf, posinf=torch.inf), size + 8)
