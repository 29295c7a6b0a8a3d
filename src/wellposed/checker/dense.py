"""Equilibria z = σ(Wz + q), slopes of σ in [0, 1], in diagonal metrics."""

from typing import Any

import numpy as np

from .claim import Claim
from .node import Node
from .proofs import FOLDED, Array, Refuted, like, near_one, nearest, require, rounding_constant, semidefinite
from .shapes import Shape

_MONOTONE = (  # slopes in [0, 1] everywhere
    "relu", "identity", "hardtanh", "relu6", "leaky_relu", "tanh", "sigmoid", "softplus", "softsign", "arctan", "isru", "arcsinh",
    "logarithm", "exponential", "elu",
)  # fmt: skip
_PROJECTIONS = ("relu", "identity", "hardtanh", "relu6")  # their own resolvents for steps of any length


class Driven:
    """The matrix U that drives an equilibrium, with its Gram matrix UUᵀ, which many proofs share.

    Attributes:
        matrix: U over a power of two that brings it near 1.
        exponent: of that power.
        gram: of that matrix.
        sizes: sums of the absolute values of the terms in it.
    """

    def __init__(self, matrix: Array) -> None:
        self.matrix, self.exponent = near_one(matrix)
        self.gram, self.sizes = self.matrix @ self.matrix.T, np.abs(self.matrix) @ np.abs(self.matrix).T


def shape(node: Node, given: Shape) -> Shape:
    """The shape of a state, for which W and the matrices of the iteration are."""
    square = [node.numbers[role].shape for role in ("W", "reflect", "drive") if role in node.numbers]
    require(len(given) == 1 and set(square) == {2 * given}, "shapes", f"{node.name}: {square} for states {given}")
    return given


def constant(node: Node, nodes: list[Node], claim: Claim) -> Any:
    """The Euclidean constant of an equilibrium, which was proved."""
    return node.numbers["sensitivity"][()]


def check(node: Node, claim: Claim, before: Node) -> None:
    """Prove that an equilibrium is unique, and the sensitivity that its node's bound of errors relies on."""
    value = node.numbers["sensitivity"][()]
    require_monotone(node, node.numbers["step"] == 1.0)
    matrix, eye = node.numbers["W"], like(node.numbers["W"], np.eye(len(node.numbers["W"])))
    metric = claim.take(f"{node.place}/sensitivity", len(matrix))
    if not metric_proves(matrix, Driven(eye), eye, eye, metric, value):
        raise Refuted("sensitivity", f"{node.name}: {value} is not proved")


def require_monotone(node: Node, one: bool) -> None:
    """Refuse activations with other slopes than in [0, 1], and those that are no projections where not all steps are one."""
    require(node.sigma in _MONOTONE, "equilibrium", f"{node.name}: slopes of {node.sigma} are not in [0, 1]")
    require(one or node.sigma in _PROJECTIONS, "options", f"{node.name}: steps that are not one, not for {node.sigma}")


def metric_proves(
    matrix: Array,
    driven: Driven,
    seen: Array,
    size: Array,
    multipliers: Array,
    value: Any,
    direct: Array | None = None,
) -> bool:
    """Whether x ↦ Cz + Dx is proved ``value``-Lipschitz for z = σ(Wz + Ux + b), all slopes of σ in [0, 1].

    By [[M − ΛUUᵀΛ/γ², Cᵀ + ΛUDᵀ/γ²], [·, I − DDᵀ/γ²]] ⪰ 0 with M = Λ(I − W) + (I − W)ᵀΛ (Revay, Wang & Manchester 2020,
    Condition 2, with x eliminated) for W = matrix, U = driven, C = seen, D = direct, Λ = multipliers, γ = value. Entries of U, C
    and D may be off by `FOLDED` roundings, those of C relative to ``size``.
    """
    n, eye, last = len(matrix), np.eye(len(matrix)), np.eye(len(seen))
    c, u, terms = near_one(size)[1], driven.exponent, driven.matrix.shape[1]
    if not (multipliers > 0.0).all() or not value > 0.0 or abs(c) > 500 or abs(u) > 400:
        return False
    seen, size = np.ldexp(seen, -c), np.ldexp(size, -c)
    scale, bound = np.ldexp(multipliers, -2 * c), np.ldexp(value, -c - u)
    if not (1e-100 < bound < 1e100 and scale.min() > 1e-100 and scale.max() < 1e100):
        return False
    half, size_of_half = (scale[:, None] * part for part in (eye - matrix, eye + np.abs(matrix)))
    rows = scale[:, None] / bound
    outer = half + half.T - rows * driven.gram * rows.T
    sizes = size_of_half + size_of_half.T + rows * driven.sizes * rows.T
    largest = rows.max()
    if direct is not None:
        through = np.ldexp(direct, -c - u) / bound
        crossed, sizes_crossed = through @ driven.matrix.T * rows.T, np.abs(through) @ np.abs(driven.matrix).T * rows.T
        seen, size = seen + crossed, size + sizes_crossed
        last, sizes_of_last = last - through @ through.T, last + np.abs(through) @ np.abs(through).T
        largest = np.maximum(largest, np.abs(through).max())
    else:
        sizes_of_last = last
    rounding = rounding_constant(terms + 28 + 2 * FOLDED)
    lost = 1e-300 * (n + len(seen)) * terms * (1.0 + largest) ** 2
    sizes, whole = np.block([[sizes, size.T], [size, sizes_of_last]]), np.block([[outer, seen.T], [seen, last]])
    near = np.exp2(-(np.frexp(nearest(np.diagonal(whole)))[1] // 2))  # exact, and brings the diagonal near one
    near = near[:, None] * near
    return semidefinite(near * whole, rounding * (near * sizes).sum(1).max() + lost * near.max())
