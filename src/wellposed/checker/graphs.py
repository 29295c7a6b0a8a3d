"""Equilibria X = S(through·A X Qᵀ + driven·A U Pᵀ + b) on the nodes of graphs, S 1-Lipschitz, and sums over nodes.

The adjacency A is formed in the file, with ‖A‖₂ ≤ 1 for whatever edges; so an equilibrium contracts by ρ = through·‖Q‖ in the
Frobenius norm of each graph, and with ρ < 1 it is unique, and driven·‖P‖/(1 − ρ) its constant. Sums over n nodes are over √n.
"""

from typing import Any

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from .claim import Claim
from .functions import STRUCTURE
from .node import Node
from .proofs import UNIT, norm_of, require, up
from .shapes import Shape

ASSUMED = ["assumed: inputs are features of nodes, in the Frobenius norm of each graph; its edges stay the same"]


def inputs_of(features: Shape) -> list[ValueInfoProto]:
    """The inputs that a network on graphs declares, for the shape of the features of a node."""
    extents: tuple[list[str | int], ...] = ([2, "edges"], ["nodes"])
    declared = zip(STRUCTURE, extents, strict=True)
    further = [helper.make_tensor_value_info(name, TensorProto.INT64, sizes) for name, sizes in declared]
    return [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["nodes", *features]), *further]


def shape(node: Node, given: Shape) -> Shape:
    """The shape of the value of one node, or of the sum of one graph."""
    require(len(given) == 1, "shapes", f"{node.name} takes {given} for every node")
    if node.kind == "NodeSum":
        return given
    numbers, size, node.nodewise = node.numbers, len(node.numbers["b"]), True
    fits = numbers["b"].ndim == 1 and numbers["Q"].shape == (size, size) and numbers["P"].shape == (size, *given)
    require(fits, "shapes", f"{node.name}: maps {numbers['Q'].shape} and {numbers['P'].shape} for {given}")
    partner, lower, places = numbers["partner"], numbers["lower"], np.arange(size)
    inside = partner.shape == lower.shape == (size,) and partner.min() >= 0 and partner.max() < size
    require(inside, "sorts", f"{node.name}: there are no such features")
    alone = partner == places
    good = (partner[partner] == places).all() and ((lower == 0) | (lower == 1)).all()
    require(good and (alone | (lower[partner] + lower == 1)).all(), "sorts", f"{node.name}: features are in no pairs")
    return (size,)


def check(node: Node, claim: Claim, before: Node) -> None:
    """Prove the contraction that a node's bound of errors relies on."""
    if node.kind != "GraphEquilibrium":
        return
    require(node.slope <= 1.0, "equilibrium", f"{node.name}: slopes of {node.sigma} are larger than one")
    proved, stored = up(node.numbers["through"][()] * norm_of(node.numbers["Q"])), node.numbers["contraction"][()]
    require(proved <= stored, "contraction", f"{node.name}: {stored} is stored, {proved} is proved")


def constant(node: Node, nodes: list[Node], claim: Claim) -> Any:
    """The constant of a sum, or of an equilibrium in the features of nodes, for the contraction that was proved."""
    if node.kind != "GraphEquilibrium":
        return node.slope
    driven, contraction = (node.numbers[role][()] for role in ("driven", "contraction"))
    return driven * norm_of(node.numbers["P"]) / (1.0 - contraction) * (1.0 + 8.0 * UNIT)
