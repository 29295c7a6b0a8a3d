"""Explicit layers y = Sx + G·ReLU(Hx + b) + c, S zero or the identity, by norms of H and G.

With D the slopes of ReLU between two inputs, 0 ⪯ D ⪯ I. S = 0: ‖GDH‖ ≤ ‖[ψH; ψ⁻¹Gᵀ]‖²/2 for every diagonal ψ > 0. S = I and
G = −HᵀT + E, T ⪰ 0 diagonal: 0 ⪯ HᵀTDH ⪯ HᵀTH, so that max(1, ‖√T H‖² − 1) + ‖E‖‖H‖ is a constant.
"""

import math
from typing import Any

import numpy as np

from .claim import Claim
from .node import Node
from .proofs import UNIT, norm_of, require, up
from .shapes import Shape, outputs_of, target
from .vectors import bounded, length


def shape(node: Node, given: Shape) -> Shape:
    """The shape of what a layer gives, or of what is sorted in groups."""
    if node.kind in ("GroupSort", "SortedGroups"):
        return _sorted(node, given)
    outputs = outputs_of(node, "G", "c", outputs_of(node, "H", "b", given[-1]))
    require(node.kind == "Sandwich" or outputs == given[-1], "shapes", f"{node.name} adds {outputs} to {given[-1]}")
    return (*given[:-1], outputs)


def _sorted(node: Node, given: Shape) -> Shape:
    split = target(node.numbers["split"], node.name)
    good = len(split) == 3 and (split[1] == 2 or node.kind != "GroupSort") and math.prod(split) == math.prod(given)
    require(good and target(node.numbers["shape"], node.name) == given, "shapes", f"{node.name} sorts other groups")
    return given


def constant(node: Node, nodes: list[Node], claim: Claim) -> Any:
    """The Euclidean constant of a layer, with the scale of the evidence; sorting brings nothing farther apart."""
    if node.kind in ("GroupSort", "SortedGroups"):
        return node.slope
    inner, outer = node.numbers["H"], node.numbers["G"]
    scale = claim.take(f"{node.place}/scale", len(inner))
    if node.kind == "Sandwich":
        require(bounded(scale), "explicit", f"{node.name}: a scale is not positive, or too small or large")
        return 0.5 * norm_of(np.concatenate([inner * scale[:, None], (outer / scale).T], 1)) ** 2 * (1.0 + 1e-15)
    require(
        (scale >= 0.0).all() and (scale < 1e100).all(), "explicit", f"{node.name}: a scale is negative, or too large"
    )
    sizes = sum(length(part) for part in (outer, inner.T * scale))
    missed = norm_of(outer + inner.T * scale) + 8.0 * UNIT * sizes
    through = norm_of(np.sqrt(scale)[:, None] * inner) ** 2 * (1.0 + 1e-15) - 1.0
    return up(up(max(1.0, through * (1.0 + 1e-15)) + up(missed * norm_of(inner))))
