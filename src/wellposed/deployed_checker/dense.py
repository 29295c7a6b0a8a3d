"""Equilibria z = σ(Wz + q), slopes of σ in [0, 1], in diagonal metrics."""

import math

import numpy as np

from .claim import Claim
from .node import Node
from .proofs import FOLDED, Array, Refuted, near_one, require, rounding_constant, semidefinite

_MONOTONE = (  # slopes in [0, 1] everywhere
    "relu", "identity", "hardtanh", "relu6", "leaky_relu", "tanh", "sigmoid", "softplus", "softsign", "arctan", "isru", "arcsinh",
    "logarithm", "exponential", "elu",
)  # fmt: skip
_PROJECTIONS = ("relu", "identity", "hardtanh", "relu6")  # their own resolvents for steps of any length


def check(node: Node, claim: Claim, before: Node) -> None:
    """Prove that an equilibrium is unique, and the sensitivity that its node's bound of errors relies on."""
    require_monotone(node, float(node.numbers["step"]) == 1.0)
    matrix, eye = node.numbers["W"], np.eye(len(node.numbers["W"]))
    metric, value = claim.take(f"{node.place}/sensitivity", len(matrix)), float(node.numbers["sensitivity"])
    if not metric_proves(matrix, eye, eye, np.abs(eye), metric, value):
        raise Refuted("sensitivity", f"{node.name}: {value!r} is not proved")


def require_monotone(node: Node, one: bool) -> None:
    """Refuse activations with other slopes than in [0, 1], and those that are no projections where not all steps are one."""
    require(node.sigma in _MONOTONE, "equilibrium", f"{node.name}: slopes of {node.sigma} are not in [0, 1]")
    require(one or node.sigma in _PROJECTIONS, "options", f"{node.name}: steps that are not one, not for {node.sigma}")


def metric_proves(
    matrix: Array,
    driven: Array,
    seen: Array,
    size: Array,
    multipliers: Array,
    value: float,
    direct: Array | None = None,
) -> bool:
    """Whether x ↦ Cz + Dx is proved ``value``-Lipschitz for z = σ(Wz + Ux + b), all slopes of σ in [0, 1].

    By [[M − ΛUUᵀΛ/γ², Cᵀ + ΛUDᵀ/γ²], [·, I − DDᵀ/γ²]] ⪰ 0 with M = Λ(I − W) + (I − W)ᵀΛ (Revay, Wang & Manchester 2020,
    Condition 2, with x eliminated) for W = matrix, U = driven, C = seen, D = direct, Λ = multipliers, γ = value. Entries of U, C
    and D may be off by `FOLDED` roundings, those of C relative to ``size``.
    """
    n, outputs = len(matrix), len(seen)
    direct = np.zeros((outputs, driven.shape[1])) if direct is None else direct
    if not (multipliers > 0.0).all() or not 0.0 < value < math.inf:
        return False
    c, (u_scaled, u) = near_one(size)[1], near_one(driven)
    if abs(c) > 500 or abs(u) > 400:
        return False
    seen, size, through = np.ldexp(seen, -c), np.ldexp(size, -c), np.ldexp(direct, -c - u)
    scale, bound = np.ldexp(multipliers, -2 * c), math.ldexp(value, -c - u)
    if not (1e-100 < bound < 1e100 and scale.min() > 1e-100 and scale.max() < 1e100 and np.abs(through).max() < 1e100):
        return False
    half, terms = (scale[:, None] * part for part in (np.eye(n) - matrix, np.eye(n) + np.abs(matrix)))
    inner, outer = np.concatenate([scale[:, None] * u_scaled, -through]) / bound, np.zeros((n + outputs, n + outputs))
    sizes = outer.copy()
    outer[:n, :n], outer[:n, n:], outer[n:, :n], outer[n:, n:] = half + half.T, seen.T, seen, np.eye(outputs)
    sizes[:n, :n], sizes[:n, n:], sizes[n:, :n], sizes[n:, n:] = terms + terms.T, size.T, size, np.eye(outputs)
    sizes = sizes + np.abs(inner) @ np.abs(inner).T
    rounding = rounding_constant(driven.shape[1] + 24 + 2 * FOLDED)
    lost = 1e-300 * (n + outputs) * driven.shape[1] * (1.0 + float(np.abs(inner).max()))
    return semidefinite(outer - inner @ inner.T, rounding * float(sizes.sum(1).max()) + lost)
