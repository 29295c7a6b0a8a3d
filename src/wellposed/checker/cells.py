"""Equilibria z = κ·S(direct·z + through·m(z) + driven·h), m made of linear maps and sorts of pairs, S such a sort or none.

Sorting the pairs of two vectors brings them no farther apart. So a cell contracts by ρ = κ·(direct + through·n), n the product of
the norms of its maps, and with ρ < 1 the equilibrium is unique, and κ·driven/(1 − ρ) its constant.
"""

from functools import reduce
from typing import Any

import numpy as np

from .circular import norm_at_frequencies
from .claim import Claim
from .frequencies import check_turns, spectrum
from .node import Node
from .proofs import UNIT, norm_of, require, up
from .shapes import Shape


def shape(node: Node, given: Shape) -> Shape:
    """The shape of a state, which is that of what drives it; its features, or channels, are sorted in pairs."""
    numbers = node.numbers
    require(given[0] % 2 == 0, "shapes", f"{node.name}: {given[0]} features are sorted in pairs")
    if node.kind == "FeatureCellEquilibrium":
        maps = numbers["W"]
        fits = len(given) == 1 and maps.ndim == 3 and maps.shape[1:] == 2 * given
        require(fits and numbers["b"].shape == maps.shape[:2], "shapes", f"{node.name}: maps {maps.shape} for {given}")
    else:
        hidden = len(numbers["a"])
        fits = len(given) == 3 and hidden % 2 == 0 and numbers["a"].shape == (hidden, 1, 1)
        require(
            fits and numbers["b"].shape == (given[0], 1, 1), "shapes", f"{node.name}: other biases than for {given}"
        )
        check_turns(node, (given[1], given[2]))
        for role, size in _spectra(node, given).items():
            spectrum(node, role, (given[1], given[2]), size)
    return given


def _spectra(node: Node, given: Shape) -> dict[str, tuple[int, int]]:
    """The roles of the two convolutions of a cell on images, with the rows and columns of their matrices."""
    hidden = len(node.numbers["a"])
    return {"F": (hidden, given[0]), "G": (given[0], hidden)}


def check(node: Node, claim: Claim, before: Node) -> None:
    """Prove the contraction that a node's bound of errors relies on."""
    if node.kind == "FeatureCellEquilibrium":
        norms = [norm_of(matrix) for matrix in node.numbers["W"]]
    else:
        norms = [norm_at_frequencies(node, role, size) for role, size in _spectra(node, node.shape).items()]
    kappa, direct, through = (node.numbers[role][()] for role in ("kappa", "direct", "through"))
    norm = reduce(lambda first, second: up(first * second), norms)
    proved = up(kappa * up(direct + up(through * norm)))
    contraction = node.numbers["contraction"][()]
    require(proved <= contraction, "contraction", f"{node.name}: {contraction} is stored, {proved} is proved")


def constant(node: Node, nodes: list[Node], claim: Claim) -> Any:
    """The Euclidean constant of an equilibrium in its drive, for the contraction that was proved."""
    kappa, driven, contraction = (node.numbers[role][()] for role in ("kappa", "driven", "contraction"))
    return kappa * driven / (1.0 - contraction) * (1.0 + 8.0 * UNIT)


def joint(node: Node, nodes: list[Node], found: list[Any], claim: Claim) -> list[Any]:
    """The constant of an equilibrium together with the map that drives it, if there is a ratio for it."""
    if node.kind != "FeatureCellEquilibrium" or not claim.has(f"{node.place}/ratio"):
        return []
    before = nodes[node.sources[0]]
    return [up(_with_drive(node, before, claim) * found[before.sources[0]])]


def _with_drive(node: Node, before: Node, claim: Claim) -> Any:
    """The Euclidean constant of an equilibrium together with the linear map U that drives it, if its own map is one matrix W.

    For z = κ·S(through·Wz + driven·Ux + …) and any ratio t let ν be the norm of κ·[through·W, driven·U/t]. Then ‖Δz‖² is at most
    ν²(‖Δz‖² + t²‖Δx‖²), so that νt/√(1 − ν²) is a constant.
    """
    numbers, ratio = node.numbers, claim.take(f"{node.place}/ratio", 1)[0]
    kappa, through, driven = (numbers[role][()] for role in ("kappa", "through", "driven"))
    linear = before.kind == "Linear" and len(numbers["W"]) == 1
    linear = linear and int(numbers["sorts_inner"]) == 0 and numbers["direct"] == 0.0
    require(linear, "joint", f"{node.name}: its map is more than a matrix, or something else than one drives it")
    require(
        1e-30 < ratio < 1e30 and through > 1e-30, "joint", f"{node.name}: the ratio {ratio}, or a share, is extreme"
    )
    parts = [kappa * through * numbers["W"][0], kappa * driven / ratio * before.numbers["W"]]
    norm = norm_of(np.concatenate(parts, 1))
    require(norm < 1.0, "joint", f"{node.name}: the joint map has the norm {norm}")
    return norm * ratio / np.sqrt((1.0 - norm) * (1.0 + norm)) * (1.0 + 16.0 * UNIT)
