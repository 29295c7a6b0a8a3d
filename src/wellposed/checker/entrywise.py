"""Constants in the ℓ∞ and ℓ1 norms: the theorem ``"entrywise"``, and diagonal metrics from the input to the outputs.

Every edge has a nonnegative matrix K with |Δvalue| ≤ K|Δx|; for ℓ∞ it is that matrix times the vector of ones. For equilibria
with slopes in [0, 1] it is A⁻¹K with A = I − M(W), which keeps W's diagonal and takes absolute values off it (Jafarpour et al.
2021); for positive ones (I − DW)⁻¹DK. A is an M-matrix once a v > 0 has Av > 0; then Y with AY ≥ S ≥ 0 is above A⁻¹S.
"""

from functools import reduce
from importlib import import_module
from typing import Any

import numpy as np

from .claim import Claim
from .maps import Linear, linear_maps, margins, scale_of
from .metric import symmetric
from .node import Node
from .proofs import FOLDED, Array, Refuted, like, require, rounding_constant

_TINY, _ROUNDED = 1e-300, 1.0 + 1e-13  # more than underflow can lose; some roundings


def constants(nodes: list[Node], claim: Claim) -> tuple[Any, Array | None]:
    """Of all outputs, and of their margins, None where no linear map ends the network."""
    require(claim.theorems and "product" not in claim.theorems, "claim", "other theorems than for this norm")
    maps, found = linear_maps(nodes), list[tuple[Any, Array | None]]()
    if "entrywise" in claim.theorems:
        found.append(_by_entries(nodes, maps, claim))
    if "metric" in claim.theorems:
        found.append(import_module(".from_input", __package__).constants(nodes, maps, claim))
    pairs = [part for _, part in found if part is not None]
    return min(value for value, _ in found), reduce(np.minimum, pairs) if pairs else None


def _by_entries(nodes: list[Node], maps: list[Linear], claim: Claim) -> tuple[Any, Array | None]:
    size, reached = nodes[0].size, list[Array]()
    inputs = like(nodes[0].slope, np.eye(size) if claim.norm == "1" else np.ones((size, 1)))
    for node in nodes[:-1]:
        given = [reached[source] for source in node.sources]
        moved = _moved(node, given, nodes, claim) if given else inputs
        require(np.isfinite(moved).all(), "entrywise", f"{node.name}: nothing bounds it")
        reached.append(moved)
    last = maps[-1]
    head, before = last.matrix, reached[last.start]
    if head.ndim == 1:
        return _whole(reached[-1], claim.norm), None
    moved = np.abs(head) @ before * (1.0 + rounding_constant(2 * before.shape[0] + FOLDED)) + _TINY
    places = margins(len(head))
    first, second = (head[[place[end] for place in places]] for end in (0, 1))
    rows = np.abs(first - second) + rounding_constant(FOLDED) * (np.abs(first) + np.abs(second))
    apart = rows @ before * (1.0 + rounding_constant(2 * before.shape[0] + FOLDED)) + _TINY
    return _whole(moved, claim.norm), symmetric(len(head), apart.max(1)) if places else None


def _whole(moved: Array, norm: str) -> Any:
    if norm == "inf":
        return moved.max()
    return moved.sum(0).max() * (1.0 + rounding_constant(len(moved) + 8))


def _moved(node: Node, given: list[Array], nodes: list[Node], claim: Claim) -> Array:
    """K of a node's value, from those of the values that it takes."""
    first, kind, scale = given[0], node.kind, scale_of(node)
    if scale is not None:
        return np.abs(scale)[:, None] * first * _ROUNDED
    if kind in ("SumOfTwo", "DifferenceOfTwo"):
        return (first + given[1]) * _ROUNDED
    if kind in ("Reshaped", "PositivePart", "Activation"):
        return first * node.slope * _ROUNDED if node.slope != 1.0 else first
    if kind == "Linear":
        return _through(node.numbers["W"], first)
    if kind in ("Sandwich", "Residual"):
        inner = _through(node.numbers["G"], _through(node.numbers["H"], first))
        return inner if kind == "Sandwich" else (inner + first) * _ROUNDED
    if kind in ("GroupSort", "SortedGroups"):
        groups = first.reshape(*(int(extent) for extent in node.numbers["split"][1:]), -1)
        return np.broadcast_to(groups.max(1, keepdims=True), groups.shape, subok=True).reshape(first.shape)
    if kind in ("Convolution", "AveragePooling", "MaximumPooling"):
        found: Array = import_module(".windows", __package__).moved(node, first)
        return found
    if kind == "Placed":
        placed: Array = import_module(".placed", __package__).moved(node, first)
        return placed
    return _solved(node, first, claim)


def _through(matrix: Array, moved: Array) -> Array:
    """K behind a matrix that acts on rows of a sample."""
    rows = moved.reshape(-1, matrix.shape[1], moved.shape[1])
    found = np.abs(matrix) @ rows * (1.0 + rounding_constant(matrix.shape[1] + 8)) + _TINY
    return found.reshape(-1, moved.shape[1])


def _solved(node: Node, moved: Array, claim: Claim) -> Array:
    """K of an equilibrium, by the evidence."""
    if node.kind not in ("ReflectedEquilibrium", "PositiveEquilibrium"):
        raise Refuted("entrywise", f"nothing is known of {node.name}")
    weight, rounding = node.numbers["W"], rounding_constant(2 * len(moved) + 32)
    diagonal, off = 1.0 - np.diagonal(weight), np.abs(weight) * (1.0 - np.eye(len(weight)))
    wanted = moved
    if node.kind == "PositiveEquilibrium":
        scale = import_module(".positive", __package__).slopes(node)
        diagonal, off, wanted = np.ones(len(weight)), scale[:, None] * weight, scale[:, None] * moved * _ROUNDED
    wanted = np.concatenate([np.ones((len(wanted), 1)), wanted], 1)  # the first column shows that A is an M-matrix
    above = claim.moved(node, np.diag(diagonal) - off, wanted)
    least = diagonal[:, None] * above * (1.0 - 4.0 * rounding) - off @ above * (1.0 + 4.0 * rounding)
    good = (above >= 0.0).all() and (above[:, 0] > 1e-250).all() and (above < 1e200).all() and (diagonal > 0.0).all()
    require(
        good and (least >= wanted + 1e-290).all(), "entrywise", f"{node.name}: vectors are not above what they bound"
    )
    return above[:, 1:]
