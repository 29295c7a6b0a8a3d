"""States below every fixed point of a positive concave map."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.activations import Activation
from wellposed.errors import GuaranteeError
from wellposed.numerics.outward import reduced
from wellposed.numerics.verified import to_float64

_CLOSE = 1e-12  # relative changes of iterates that are taken to have settled


def subsolution(matrix: Tensor, activation: Activation, floor: float) -> Tensor:
    """A point l with l ≤ σ(Wl + floor), close to the fixed point, by Picard's iteration from zero, which increases."""
    weight = torch.from_numpy(to_float64(matrix, "W"))
    if not bool((weight >= 0.0).all()):
        raise GuaranteeError("W: has negative entries; a positive concave map needs W ≥ 0")

    def through(state: Tensor) -> Tensor:
        return torch.mv(weight, state)

    state = torch.zeros(len(weight), dtype=torch.float64, device="cpu")
    for _ in range(100):
        image = activation(through(state) + floor)
        if bool(((image - state).abs() <= _CLOSE * image).all()):
            return below(through, len(weight), activation, floor, state)
        state = image
    best = below(through, len(weight), activation, floor, state)
    # Near criticality Picard crawls. Newton's iterates decrease from any point above the fixed point.
    state = torch.ones_like(state)
    while float(state[0]) < 1e100 and not bool((activation(through(state) + floor) <= state).all()):
        state = 4.0 * state
    for _ in range(100):
        driven = through(state) + floor
        image = activation(driven)
        if bool(((image - state).abs() <= _CLOSE * image).all()):
            break
        jacobian = activation.derivative(driven)[:, None] * weight
        step = torch.linalg.solve_ex(
            torch.eye(len(weight), dtype=torch.float64, device="cpu") - jacobian, image - state
        )[0]
        state = (state + step).nan_to_num(nan=0.0, posinf=0.0).clamp_min(0.0)
    newton = below(through, len(weight), activation, floor, state)
    return newton if bool((newton >= best).all()) else best


def below(
    through: Callable[[Tensor], Tensor], terms: int, activation: Activation, floor: float, state: Tensor
) -> Tensor:
    """A subsolution a little below an approximate fixed point: σ(tl) ≥ tσ(l) leaves room; zero if none is found.

    Args:
        through: W, which is nonnegative.
        terms: how many terms its sums have.
        activation: σ.
        floor: β.
        state: the approximate fixed point at the floor.
    """
    for share in (1e-9, 1e-6, 1e-3):
        lower = state * (1.0 - share)
        image = activation(reduced(through(lower), terms + 4) + floor) * (1.0 - activation.relative_error)
        if bool((image >= lower).all()):
            return lower
    return torch.zeros_like(state)
