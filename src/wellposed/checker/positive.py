"""Equilibria z = σ(Wz + q), W ≥ 0, q at least a floor β, σ concave (Gabor, Piotrowski & Cavalcante 2024).

Every nonnegative solution lies above 0, so above σ(β), above σ(Wσ(β) + β), and so on: above a point l. There slopes are at most
D, the supremum of σ' beyond Wl + β, so that changes obey |Δz| ≤ D(W|Δz| + |Δq|). For y > 0 with y ≥ D(Wy + s), s > 0, I − DW is
an M-matrix, with t ≥ Wᵀ(Dt) + y and Dt ≤ k²s changes are at most k‖Δq‖₂ (Collatz & Wielandt), and solutions are unique.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from . import dense
from .claim import Claim
from .node import Node
from .proofs import Array, Refuted, require, rounding_constant
from .shapes import Shape
from .vectors import below, bounded

Map = Callable[[Array], Array]
_STEPS = 20000
# σ, and its slope on the left of a point, which is the larger one; beyond zero.
_CONCAVE: dict[str, tuple[Map, Map]] = {
    "tanh": (np.tanh, lambda s: np.cosh(np.minimum(s, 300.0)) ** -2.0),
    "softsign": (lambda s: s / (1.0 + s), lambda s: (1.0 + s) ** -2.0),
    "relu6": (lambda s: np.minimum(s, 6.0), lambda s: np.where(s <= 6.0, 1.0, 0.0)),
    "hardtanh": (lambda s: np.minimum(s, 1.0), lambda s: np.where(s <= 1.0, 1.0, 0.0)),
    "isru": (lambda s: s / np.sqrt(1.0 + s * s), lambda s: (1.0 + s * s) ** -1.5),
    "arctan": (np.arctan, lambda s: 1.0 / (1.0 + s * s)), "exponential": (lambda s: -np.expm1(-s), lambda s: np.exp(-s)),
    "logarithm": (np.log1p, lambda s: 1.0 / (1.0 + s)), "arcsinh": (np.arcsinh, lambda s: 1.0 / np.sqrt(1.0 + s * s)),
    "sigmoid": (lambda s: np.exp(-np.logaddexp(0.0, -s)), lambda s: 0.25 * np.cosh(np.minimum(0.5 * s, 300.0)) ** -2.0),
}  # fmt: skip


def shape(node: Node, given: Shape) -> Shape:
    """The shape of a state, or of a positive part, which is that of its argument."""
    if node.kind == "PositiveConvolvedEquilibrium":
        found: Shape = import_module(".convolved", __package__).shape(node, given)
        return found
    if node.kind == "PositiveEquilibrium":
        return dense.shape(node, given)
    require(node.numbers["floor"] > 0.0, "options", f"{node.name}: its floor is not positive")
    return given


def constant(node: Node, nodes: list[Node], claim: Claim) -> Any:
    """The Euclidean constant of an equilibrium, which was proved, or of a positive part."""
    return node.slope if node.kind == "PositivePart" else dense.constant(node, nodes, claim)


def check(node: Node, claim: Claim, before: Node) -> None:
    """Prove that an equilibrium is unique, and the sensitivity that its node's bound of errors relies on."""
    if node.kind == "PositivePart":
        return
    forward, backward, terms = through(node)
    error, floor, weights = rounding(terms), node.numbers["floor"][()], node.numbers[_weights(node)]
    require(node.sigma in _CONCAVE and (weights >= 0.0).all(), "equilibrium", f"{node.name}: σ or W is of another kind")
    # Iterates of a damping in (0, 1] are nonnegative, rounding included; others may end at another solution, where σ is odd.
    damping = node.numbers.get("damping", np.ones(()))
    require(((damping > 0.0) & (damping <= 1.0)).all(), "damping", f"{node.name}: must lie in (0, 1]")
    given = before.numbers["floor"][()] if before.kind == "PositivePart" else 0.0
    known = before.kind == "PositivePart" or (before.kind, before.sigma) == ("Activation", "relu")
    fits = known and -1.0 <= floor <= given and (floor > 0.0 or node.sigma == "sigmoid")
    require(fits, "floor", f"{node.name}: {floor} is not below what {before.name} gives, or not for this activation")
    start, reach, back = (claim.take(f"{node.place}/{part}", *node.shape) for part in ("start", "reach", "back"))
    scale, value = slopes(node), node.numbers["sensitivity"][()]
    good = bounded(start, reach) and bool((back >= 0.0).all() and (back < 1e200).all())
    good = good and bool((reach >= scale * (forward(reach) + start) * (1.0 + error)).all())
    good = good and bool((back >= (backward(scale * back) + reach) * (1.0 + error)).all())
    if not good or not np.sqrt((scale * back / start).max()) * (1.0 + 1e-14) <= value:
        raise Refuted("sensitivity", f"{node.name}: {value} is not proved")


def _weights(node: Node) -> str:
    """The numbers that W is made of."""
    return "W" if "W" in node.numbers else "K"


def through(node: Node) -> tuple[Map, Map, int]:
    """W and its transpose as maps of states, and how many terms their sums have."""
    weights = node.numbers[_weights(node)]
    if _weights(node) == "W":
        return (lambda z: weights @ z), (lambda z: weights.T @ z), len(weights)
    correlated, index = import_module(".convolved", __package__).correlated, node.numbers["index"]
    turned = weights[:, :, ::-1, ::-1].swapaxes(0, 1)  # the taps are centred
    return (lambda z: correlated(weights, index, z)), (lambda z: correlated(turned, index, z)), weights[0].size


def rounding(terms: int) -> float:
    """The relative error of sums over W."""
    return 2.0 * rounding_constant(terms + 16)


def slopes(node: Node) -> Array:
    """D, rounded up."""
    forward, _, terms = through(node)
    floor, error = node.numbers["floor"][()], rounding(terms)
    sigma, slope = _CONCAVE[node.sigma]
    low = np.zeros(node.shape)
    for _ in range(_STEPS):
        driven = forward(low) * (1.0 - error) + floor
        following = np.maximum(low, sigma(driven - 1e-15 * np.abs(driven)) * (1.0 - 1e-14))
        if (following <= low * (1.0 + 1e-13)).all():
            break
        low = below(following)
    driven = forward(low) * (1.0 - error) + floor
    least = np.maximum(driven - 1e-15 * np.abs(driven), 0.0)
    found: Array = slope(least * (1.0 - 1e-14)) * (1.0 + 1e-13) + 1e-15
    return found
