"""Activations that are concave on the positive axis, with what the theory of positive concave maps needs of them.

The Thompson modulus ``κ(β) = sup_{s > β} (s − β)σ'(s)/σ(s)`` bounds the contraction of ``z ↦ σ(Az + b)``, b ≥ β, in the Thompson
metric max |log z_i − log w_i|, for every A ≥ 0: φ(t) = log σ(eᵗa + b) has derivative (s − b)σ'(s)/σ(s).
"""

from __future__ import annotations

import math

import torch

from wellposed.activations import Activation, Clamp, activation
from wellposed.errors import check, choices
from wellposed.numerics.golden_section import golden_section

# Name: supremum on the positive axis. All but the sigmoid vanish at zero.
SUPREMA = {
    "tanh": 1.0, "softsign": 1.0, "relu6": 6.0, "hardtanh": 1.0, "isru": 1.0, "arctan": 0.5 * math.pi, "exponential": 1.0,
    "logarithm": math.inf, "arcsinh": math.inf, "sigmoid": 1.0,
}  # fmt: skip


def concave_activation(name: str) -> Activation:
    """An activation that is nonnegative and concave on the positive axis, by name.

    Raises:
        InputError: there is none of that name.
    """
    choices("activation", name, tuple(SUPREMA))
    return activation(name)


def concave_name(which: Activation) -> str | None:
    """The name by which `concave_activation` knows an activation, or None if it does not."""
    return next((name for name in SUPREMA if activation(name) == which), None)


def thompson_modulus(name: str, floor: float) -> float:
    """κ(floor), to about nine digits; below one for every positive floor, and for the sigmoid for every floor above −2.

    Args:
        name: an activation of `SUPREMA`.
        floor: β, a lower bound of every entry of the offset.
    """
    sigma = concave_activation(name)
    lowest = -2.0 if name == "sigmoid" else 0.0
    check(floor > lowest or floor == 0.0, "floor", floor, f"must be above {lowest:g}")

    if isinstance(sigma, Clamp):  # largest just before the kink
        return max(0.0, 1.0 - floor / sigma.high)

    def elasticity(logarithm: float) -> float:
        s = torch.tensor(floor + math.exp(logarithm), dtype=torch.float64)
        before = torch.nextafter(s, torch.tensor(-math.inf, dtype=torch.float64))  # the left derivative, at kinks
        return float((s - floor) * sigma.derivative(before) / sigma(s))

    grid = [elasticity(-20.0 + 0.05 * k) for k in range(800)]
    best = -20.0 + 0.05 * max(range(800), key=grid.__getitem__)
    found = golden_section(lambda t: -elasticity(t), best - 0.05, best + 0.05, 1e-10)
    return min(max(elasticity(found), max(grid)) * (1.0 + 1e-9), 1.0)
