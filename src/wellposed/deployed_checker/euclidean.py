"""Euclidean constants: of nodes, which multiply along edges and add up where edges meet, and of parts in diagonal metrics."""

import math
from importlib import import_module

import numpy as np

from .claim import Claim
from .maps import Linear, by_channel, linear_maps
from .node import EQUILIBRIA, Node
from .proofs import FOLDED, Array, Refuted, norm_of, require, rounding_constant, up

_ROUNDED = 1.0 + 1e-13
_GRAPHS = ("EnterGraphs", "NodeSum")


def constants(nodes: list[Node], claim: Claim) -> tuple[float, Array | None]:
    """Of all outputs, and of their margins, None where nothing proves these."""
    require(
        "product" in claim.theorems and "entrywise" not in claim.theorems, "claim", "other theorems than for this norm"
    )
    maps, found, pairs = linear_maps(nodes), list[float](), None
    for node in nodes[:-1]:
        known, path = [_constant(node, nodes, found, claim)], maps[node.place]
        if path.start != node.place:
            known.append(up(_norm(path) * found[path.start]))
            known += _folded(nodes, path, found)
        if node.kind == "CirculatedEquilibrium" and nodes[node.sources[0]].kind == "Circular":
            known += import_module(".tiers", __package__).joint(nodes, node, found)
        if claim.has(f"{node.place}/ratio") and node.kind == "FeatureCellEquilibrium":
            before = nodes[node.sources[0]]
            own = import_module(".cells", __package__).joint(node, before, claim)
            known.append(up(own * found[before.sources[0]]))
        if claim.has(f"{node.place}/values") and "metric" in claim.theorems:
            start, value, pairs = import_module(".metric", __package__).constants(nodes, maps, node, claim)
            known.append(up(value * found[start]))
            pairs = None if pairs is None else np.nextafter(pairs * found[start], math.inf)
        found.append(min(known))
        require(found[-1] < math.inf, "constant", f"nothing proves one of {node.name}")
    last = maps[-1]
    head = _margins(last.matrix, found[last.start]) if last.matrix.ndim == 2 else None
    known_pairs = [part for part in (head, _last(pairs, nodes, claim)) if part is not None]
    return found[-1], np.minimum.reduce(known_pairs) if known_pairs else None


def _last(pairs: Array | None, nodes: list[Node], claim: Claim) -> Array | None:
    """Constants of margins that are about the logits."""
    return pairs if claim.has(f"{nodes[-1].sources[0]}/values") else None


def _norm(path: Linear) -> float:
    if path.matrix.ndim == 2:
        return norm_of(path.matrix)
    return float(np.abs(path.matrix).max()) * _ROUNDED


def _folded(nodes: list[Node], path: Linear, found: list[float]) -> list[float]:
    """The constant of a convolution of which each channel is scaled behind it, if a path is that."""
    first = nodes[path.start]
    scale = by_channel(path.matrix, first.shape) if first.kind == "Convolution" else None
    if scale is None:
        return []
    before = first.sources[0]
    own: float = import_module(".windows", __package__).constant(first, nodes[before].shape, scale)
    return [up(own * found[before])]


def _constant(node: Node, nodes: list[Node], found: list[float], claim: Claim) -> float:
    """The constant of an edge that follows from those of the edges that its node takes."""
    kind, numbers, given = node.kind, node.numbers, [found[source] for source in node.sources]
    moved = sum(given)
    if kind in ("SumOfTwo", "DifferenceOfTwo"):
        return up(moved)
    if kind in ("Affine", "Normalize", "BatchNormalized") or (kind == "Linear" and len(node.shape) == 1):
        return math.inf  # these are linear maps
    if kind in ("Convolution", "AveragePooling", "MaximumPooling"):
        own = import_module(".windows", __package__).constant(
            node, nodes[node.sources[0]].shape, np.ones(node.shape[0])
        )
    elif kind == "Linear":
        own = norm_of(numbers["W"])
    elif kind in ("Sandwich", "Residual"):
        own = import_module(".explicit", __package__).constant(node, claim)
    elif kind == "GraphEquilibrium":
        own = import_module(".graphs", __package__).constant(node)
    elif kind in EQUILIBRIA:
        own = float(numbers["sensitivity"])  # which was proved
    elif kind == "Circular":
        own = float(numbers["norm"])  # which was proved
    elif kind in ("FeatureCellEquilibrium", "ChannelCellEquilibrium"):
        own = import_module(".cells", __package__).constant(node)
    elif kind in ("Enter", "Reshaped", "GroupSort", "SortedGroups", "PositivePart", "Activation", "Placed", *_GRAPHS):
        own = node.slope
    else:
        raise Refuted("constant", f"nothing proves one of {node.name}")
    return up(own * moved) if given else 1.0


def _margins(head: Array, before: float) -> Array:
    """Constants of margins by the differences of the rows of the last linear map."""
    size = float(np.abs(head).max()) or 1.0
    exponent = math.frexp(size)[1]
    scaled = np.ldexp(head, -exponent)
    apart = np.sqrt(((scaled[:, None] - scaled[None]) ** 2).sum(2))
    # A difference of folded rows is off relative to both.
    both = np.sqrt((scaled**2).sum(1))
    apart = apart * (1.0 + rounding_constant(head.shape[1] + 16)) + rounding_constant(FOLDED) * (both[:, None] + both)
    found: Array = np.nextafter(np.ldexp(apart, exponent) * before, math.inf)
    safe = (both > 1e-140) | ~np.any(head, axis=1)
    require(before < 1e250 and safe.all(), "pairs", "rows of the head are too small beside others")
    still = ~np.any(head, axis=1)
    found[still[:, None] & still] = 0.0
    np.fill_diagonal(found, 0.0)
    return found
