"""The Thompson modulus of activations that are concave on the positive axis, for the theory of positive concave maps.

The Thompson modulus ``κ(β) = sup_{s > β} (s − β)σ'(s)/σ(s)`` bounds the contraction of ``z ↦ σ(Az + b)``, b ≥ β, in the Thompson
metric max |log z_i − log w_i|, for every A ≥ 0: φ(t) = log σ(eᵗa + b) has derivative (s − b)σ'(s)/σ(s).
"""

from __future__ import annotations

import math

import torch

from wellposed.activations.base import Activation
from wellposed.activations.knowledge import Concavity
from wellposed.activations.registry import activation, concave_names
from wellposed.errors import InputError, check, choices
from wellposed.numerics.golden_section import golden_section

_ROOM = 1.0 + 1e-9  # for what the search may miss


def concave_activation(which: str | Activation) -> Activation:
    """An activation that is nonnegative and concave on the positive axis.

    Args:
        which: its name, or an activation that says its `Activation.concavity`.

    Raises:
        InputError: there is none of that name, or it is not known to be concave.
    """
    if isinstance(which, str):
        choices("activation", which, concave_names())
    sigma = activation(which)
    _known(sigma)
    return sigma


def thompson_modulus(which: str | Activation, floor: float) -> float:
    """κ(floor), to about nine digits; below one for every positive floor, and for the sigmoid for every floor above −2.

    Args:
        which: see `concave_activation`.
        floor: β, a lower bound of every entry of the offset.
    """
    sigma = concave_activation(which)
    known = _known(sigma)
    check(floor > known.lowest_floor or floor == 0.0, "floor", floor, f"must be above {known.lowest_floor:g}")
    if known.modulus is not None:
        return known.modulus(floor)

    def elasticity(logarithm: float) -> float:
        s = torch.tensor(floor + math.exp(logarithm), dtype=torch.float64, device="cpu")
        before = torch.nextafter(
            s, torch.tensor(-math.inf, dtype=torch.float64, device="cpu")
        )  # the left derivative, at kinks
        return float((s - floor) * sigma.derivative(before) / sigma(s))

    grid = [elasticity(-20.0 + 0.05 * k) for k in range(800)]
    best = -20.0 + 0.05 * max(range(800), key=grid.__getitem__)
    found = golden_section(lambda t: -elasticity(t), best - 0.05, best + 0.05, 1e-10)
    return min(max(elasticity(found), max(grid)) * _ROOM, 1.0)


def _known(sigma: Activation) -> Concavity:
    if sigma.concavity is None:
        raise InputError(
            f"activation={sigma!r}: is not known to be concave on the positive axis; use one of {', '.join(concave_names())}"
        )
    return sigma.concavity
