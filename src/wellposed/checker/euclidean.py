"""Euclidean constants: of nodes, which multiply along edges and add up where edges meet, and of parts in diagonal metrics."""

from functools import reduce
from importlib import import_module
from typing import Any

import numpy as np

from .claim import Claim
from .maps import Linear, linear_maps
from .node import CONTRACTIONS, EQUILIBRIA, Node
from .proofs import FOLDED, Array, Refuted, near_one, norm_of, require, rounding_constant, up

_ROUNDED = 1.0 + 1e-13
_ROOT_OF_TWO = 1.4142135623730951  # above it
# Apart from the slope of an activation.
_NONEXPANSIVE = (
    "Enter", "Reshaped", "GroupSort", "SortedGroups", "PositivePart", "Activation", "Placed", "EnterGraphs", "NodeSum",
)  # fmt: skip


def constants(nodes: list[Node], claim: Claim) -> tuple[Any, Array | None]:
    """Of all outputs, and of their margins, None where nothing proves these."""
    require(
        "product" in claim.theorems and "entrywise" not in claim.theorems, "claim", "other theorems than for this norm"
    )
    maps, found, pairs = linear_maps(nodes), list[Any](), None
    for node in nodes[:-1]:
        path, known = maps[node.place], _constant(node, nodes, found, claim)
        if path.start != node.place:
            known.append(up(_norm(path) * found[path.start]))
            if nodes[path.start].kind == "Convolution":
                known += import_module(".windows", __package__).scaled(nodes, path, found)
        if node.kind == "CirculatedEquilibrium" and nodes[node.sources[0]].kind == "Circular":
            known += import_module(".tiers", __package__).joint(nodes, node, found)
        if claim.has(f"{node.place}/ratio") and node.kind == "FeatureCellEquilibrium":
            before = nodes[node.sources[0]]
            own = import_module(".cells", __package__).joint(node, before, claim)
            known.append(up(own * found[before.sources[0]]))
        if claim.has(f"{node.place}/values") and "metric" in claim.theorems:
            start, value, pairs = import_module(".metric", __package__).constants(nodes, maps, node, claim)
            known.append(up(value * found[start]))
            pairs = None if pairs is None else up(pairs * found[start])
        require(known and min(known) < 1e300, "constant", f"nothing proves one of {node.name}")
        found.append(min(known))
    last = maps[-1]
    head = _margins(last.matrix, found[last.start]) if last.matrix.ndim == 2 else None
    about_logits = pairs if claim.has(f"{nodes[-1].sources[0]}/values") else None
    known_pairs = [part for part in (head, about_logits) if part is not None]
    whole = up(_ROOT_OF_TWO * found[-1])  # |Δ(y_i − y_j)| ≤ √2·|Δy|
    return found[-1], reduce(np.minimum, known_pairs, whole) if known_pairs else None


def _norm(path: Linear) -> Any:
    if path.matrix.ndim == 2:
        return norm_of(path.matrix)
    return np.abs(path.matrix).max() * _ROUNDED


def _constant(node: Node, nodes: list[Node], found: list[Any], claim: Claim) -> list[Any]:
    """The constant of an edge that follows from those of the edges that its node takes; none for a linear map."""
    kind, numbers, given = node.kind, node.numbers, [found[source] for source in node.sources]
    moved = sum(given)
    if kind in ("SumOfTwo", "DifferenceOfTwo"):
        return [up(moved)]
    if kind in ("Affine", "Normalize", "BatchNormalized") or (kind == "Linear" and len(node.shape) == 1):
        return []
    if kind in ("Convolution", "AveragePooling", "MaximumPooling"):
        own = import_module(".windows", __package__).constant(node, nodes)
    elif kind == "Linear":
        own = norm_of(numbers["W"])
    elif kind in ("Sandwich", "Residual"):
        own = import_module(".explicit", __package__).constant(node, claim)
    elif kind in EQUILIBRIA:
        own = numbers["sensitivity"][()]  # which was proved
    elif kind == "Circular":
        own = numbers["norm"][()]  # which was proved
    elif kind in CONTRACTIONS:
        own = import_module(CONTRACTIONS[kind], __package__).constant(node)
    elif kind in _NONEXPANSIVE:
        own = node.slope
    else:
        raise Refuted("constant", f"nothing proves one of {node.name}")
    return [up(own * moved) if given else own]


def _margins(head: Array, before: Any) -> Array:
    """Constants of margins by the differences of the rows of the last linear map."""
    scaled, exponent = near_one(head)
    apart = np.sqrt(((scaled[:, None] - scaled[None]) ** 2).sum(2))
    # A difference of folded rows is off relative to both.
    both = np.sqrt((scaled**2).sum(1))
    apart = apart * (1.0 + rounding_constant(head.shape[1] + 16)) + rounding_constant(FOLDED) * (both[:, None] + both)
    still = (head == 0.0).all(1)
    safe = (both > 1e-140) | still
    require(before < 1e250 and safe.all(), "pairs", "rows of the head are too small beside others")
    same = (still[:, None] & still) | np.eye(len(head), dtype=bool)
    found: Array = np.where(same, 0.0, up(np.ldexp(apart, exponent) * before))
    return found
