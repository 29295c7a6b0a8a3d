"""Equilibria z = κ·S(direct·z + through·m(z) + driven·h), m made of linear maps and sorts of pairs, S such a sort or none.

Sorting the pairs of two vectors brings them no farther apart. So a cell contracts by ρ = κ·(direct + through·n), n the product of
the norms of its maps, and with ρ < 1 the equilibrium is unique, and κ·driven/(1 − ρ) its constant.
"""

import math

import numpy as np

from .claim import Claim
from .maps import Linear
from .node import Node
from .proofs import UNIT, norm_of, require, up
from .shapes import Shape, require_sane


def shape(node: Node, given: Shape) -> Shape:
    """The shape of a state, which is that of what drives it; sorts are permutations in pairs."""
    numbers, maps = node.numbers, node.numbers["W"]
    fits = len(given) == 1 and maps.ndim == 3 and maps.shape[1:] == 2 * given and numbers["b"].shape == maps.shape[:2]
    require(fits and given[0] % 2 == 0, "shapes", f"{node.name}: maps {maps.shape} for states {given}")
    require_sane(node)
    return given


def check(node: Node, claim: Claim) -> None:
    """Prove the contraction that a node's bound of errors relies on."""
    kappa, direct, through = (float(node.numbers[role]) for role in ("kappa", "direct", "through"))
    norm = 1.0
    for matrix in node.numbers["W"]:
        norm = up(norm * norm_of(matrix))
    proved = up(kappa * up(direct + up(through * norm)))
    contraction = float(node.numbers["contraction"])
    require(proved <= contraction, "contraction", f"{node.name}: {contraction!r} is stored, {proved!r} is proved")


def constant(node: Node) -> float:
    """The Euclidean constant of an equilibrium in its drive, for the contraction that was proved."""
    kappa, driven, contraction = (float(node.numbers[role]) for role in ("kappa", "driven", "contraction"))
    return kappa * driven / (1.0 - contraction) * (1.0 + 8.0 * UNIT)


def joint(node: Node, before: Linear, claim: Claim) -> float:
    """The Euclidean constant of an equilibrium together with the linear map U before it, if its own map is one matrix W.

    For z = κ·S(through·Wz + driven·Ux + …) and any ratio t let ν be the norm of κ·[through·W, driven·U/t]. Then ‖Δz‖² is at most
    ν²(‖Δz‖² + t²‖Δx‖²), so that νt/√(1 − ν²) is a constant.
    """
    numbers, ratio = node.numbers, float(claim.take(f"{node.place}/ratio", 1)[0])
    linear = len(numbers["W"]) == 1 and int(numbers["sorts_inner"]) == 0 and float(numbers["direct"]) == 0.0
    kappa, through, driven = (float(numbers[role]) for role in ("kappa", "through", "driven"))
    good = linear and 1e-30 < ratio < 1e30 and through > 1e-30
    require(good, "joint", f"{node.name}: its map is not one matrix, or the ratio {ratio!r} is too small or large")
    parts = [kappa * through * numbers["W"][0], kappa * driven / ratio * before.dense]
    norm = norm_of(np.concatenate(parts, 1))
    require(norm < 1.0, "joint", f"{node.name}: the joint map has the norm {norm!r}")
    return norm * ratio / math.sqrt((1.0 - norm) * (1.0 + norm)) * (1.0 + 16.0 * UNIT)
