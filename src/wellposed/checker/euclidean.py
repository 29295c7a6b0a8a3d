"""Euclidean constants: of nodes, which multiply along edges and add up where edges meet, and of parts in diagonal metrics."""

from functools import reduce
from importlib import import_module
from typing import Any

import numpy as np

from .claim import Claim
from .maps import Linear, linear_maps
from .node import Node
from .proofs import FOLDED, Array, near_one, norm_of, require, rounding_constant, up

_ROUNDED = 1.0 + 1e-13
_ROOT_OF_TWO = 1.4142135623730951  # above it


def constants(nodes: list[Node], claim: Claim) -> tuple[Any, Array | None]:
    """Of all outputs, and of their margins, None where nothing proves these."""
    require(
        "product" in claim.theorems and "entrywise" not in claim.theorems, "claim", "other theorems than for this norm"
    )
    maps, found, pairs = linear_maps(nodes), list[Any](), None
    for node in nodes[:-1]:
        path, own = maps[node.place], node.module.constant(node, nodes, claim)
        known = (
            [] if own is None else [up(own * sum(found[source] for source in node.sources)) if node.sources else own]
        )
        if path.start != node.place:
            behind = getattr(nodes[path.start].module, "behind", None)
            known += [up(_norm(path) * found[path.start]), *(behind(nodes, path, found) if behind else ())]
        joint = getattr(node.module, "joint", None)
        known += joint(node, nodes, found, claim) if joint else []
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
