"""Multipliers for which the largest column's constant of `wellposed.bounds.from_l1` is small: descent on a smooth maximum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_STEPS = 200
_RATE = 0.05  # of the logarithms of multipliers, at first
_DECAY = 0.97  # of the rate from one step to the next, in the second half
_SHARPNESS = 20.0  # of the smooth maximum over the columns, at first
_SHARPER = 1.05  # from one step to the next, in the second half
_SHIFTS = (0.0, 3.0, 13)  # of the logarithms that are tried first: the least, the largest, and how many


def descend(displacement: Tensor, weight: Tensor, seen: Tensor, multipliers: Tensor) -> Tensor:
    """Multipliers for which the largest column is small, from some that are feasible.

    Args:
        displacement: H = I − W, shape (n, n), float64.
        weight: U, shape (n, inputs), float64.
        seen: C, shape (outputs, n), float64.
        multipliers: λ with N = ΛH + HᵀΛ − CᵀC ≻ 0, shape (n,).
    """
    start = multipliers.log()
    scales = [start + shift for shift in torch.linspace(*_SHIFTS, device="cpu").tolist()]
    best, place = min((_largest(_squares(point, displacement, weight, seen)), k) for k, point in enumerate(scales))
    kept = scales[place]
    point = kept.clone().requires_grad_()
    optimizer = torch.optim.Adam([point], lr=_RATE)
    for step in range(_STEPS):
        late = max(0, step - _STEPS // 2)
        optimizer.param_groups[0]["lr"] = _RATE * _DECAY**late
        with torch.enable_grad():
            squares = _squares(point, displacement, weight, seen)
            if squares is None:  # outside of where N is positive definite
                with torch.no_grad():
                    point.copy_(kept + 0.01)
                continue
            value = _largest(squares)
            if value < best:
                best, kept = value, point.detach().clone()
            sharpness = _SHARPNESS * _SHARPER**late
            loss = torch.logsumexp(sharpness * squares.clamp_min(1e-300).log(), 0) / sharpness
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
    return kept.exp()


def _largest(squares: Tensor | None) -> float:
    return math.inf if squares is None else float(squares.detach().amax())


def _squares(logarithms: Tensor, displacement: Tensor, weight: Tensor, seen: Tensor) -> Tensor | None:
    """u_jᵀΛN⁻¹Λu_j for all columns, with the graph; None where N is not positive definite."""
    scale = logarithms.exp()
    half = scale[:, None] * displacement
    factor, failed = torch.linalg.cholesky_ex(half + half.t() - seen.t() @ seen)
    if int(failed):
        return None
    return torch.linalg.solve_triangular(factor, scale[:, None] * weight, upper=False).square().sum(0)
