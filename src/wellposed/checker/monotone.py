"""W = (1 − m)I − AᵀA + B − Bᵀ, of layers with I − W ⪰ mI (Winston & Kolter 2020)."""

import numpy as np

from .case import Getter
from .proofs import Array, sum_units

ROLES = {"A", "B", "_extra_state"}


def weight(get: Getter, output: bool) -> tuple[Array, Array]:
    """W from the free parameters, in float64, and how many units in the last place each entry may be off."""
    a, skew, m = get("constraint.A"), get("constraint.B"), float(get("constraint._extra_state"))
    one, skew = np.eye(len(a)), skew - skew.T
    off = sum_units(len(a)) * np.abs(a).T @ np.abs(a) + 8.0 * ((1.0 + abs(m)) * one + np.abs(skew))
    return (1.0 - m) * one - a.T @ a + skew, off
