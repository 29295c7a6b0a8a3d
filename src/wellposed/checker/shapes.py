"""What each function needs of its numbers, and the shape of a sample of what it gives."""

import math
from collections.abc import Callable
from importlib import import_module

import numpy as np

from .node import Node
from .proofs import Array, Refuted, require

Shape = tuple[int, ...]
LARGEST = 1 << 22  # entries of a sample, or terms of a sum, as the functions' own bounds suppose
# Numbers of nodes that are scalars, and what some of them may be.
OPTIONS = (
    "tolerance", "stop", "limit", "finer", "goal", "step", "sensitivity", "floor", "overlap", "epsilon", "norm", "sorts_inner",
    "sorts_outer", "kappa", "direct", "through", "driven", "contraction",
)  # fmt: skip
_SANE = {
    "stop": (1e-30, 1.0), "limit": (1, 1e9), "finer": (1, 1e9), "sensitivity": (1e-100, 1e100), "step": (1e-30, 1e30),
    "sorts_inner": (0, 1), "sorts_outer": (0, 1), "kappa": (1e-30, 1.0), "direct": (0.0, 1e30), "through": (0.0, 1e30),
    "driven": (1e-30, 1e30), "contraction": (0.0, 1.0 - 1e-15), "norm": (0.0, 1e100),
}  # fmt: skip
_ELSEWHERE = {
    "Convolution": ".windows", "AveragePooling": ".windows", "MaximumPooling": ".windows", "Placed": ".placed",
    "GraphEquilibrium": ".graphs", "NodeSum": ".graphs", "TierEquilibrium": ".tiers",
    "CirculatedEquilibrium": ".circulated", "ScaledEquilibrium": ".circulated",
    "ConvolvedEquilibrium": ".convolved", "PositiveConvolvedEquilibrium": ".convolved",
    "Circular": ".circular", "FeatureCellEquilibrium": ".cells", "ChannelCellEquilibrium": ".cells",
    "Sandwich": ".explicit", "Residual": ".explicit", "GroupSort": ".explicit", "SortedGroups": ".explicit",
    "PositivePart": ".positive",
}  # fmt: skip
_ON_NODES = ("GraphEquilibrium", "NodeSum")
_SAME = ("Enter", "SumOfTwo", "DifferenceOfTwo", "Activation")


def set_shapes(nodes: list[Node]) -> None:
    """Check the numbers of all nodes, and set the shapes of their values; that of the input is known."""
    for node in nodes[1:]:
        given = [nodes[source].shape for source in node.sources]
        require(given == given[:1] * len(given), "shapes", f"{node.name} takes values of shapes {given}")
        on_nodes = all(nodes[source].nodewise == (node.kind in _ON_NODES) for source in node.sources)
        require(on_nodes, "graphs", f"{node.name} is not for values of nodes, or for these only")
        for role in OPTIONS:
            require(node.numbers.get(role, np.float64()).shape == (), "shapes", f"{node.name}: {role} is no scalar")
        node.shape = given[0] if node.kind in _SAME else _shape_of(node)(node, given[0])
        terms = [part[0].size for part in node.numbers.values() if part.ndim in (2, 4)]  # of matrices and kernels
        require(max(node.size, *terms, 1) <= LARGEST, "shapes", f"{node.name} is too large")


def _shape_of(node: Node) -> Callable[[Node, Shape], Shape]:
    if node.kind in _ELSEWHERE:
        found: Callable[[Node, Shape], Shape] = import_module(_ELSEWHERE[node.kind], __package__).shape
        return found
    known = {
        "Leave": _leave, "Reshaped": _reshaped, "Affine": _entrywise, "Normalize": _entrywise,
        "BatchNormalized": _entrywise, "Linear": _linear,
        "ReflectedEquilibrium": _equilibrium, "PositiveEquilibrium": _equilibrium,
    }  # fmt: skip
    if node.kind not in known:
        raise Refuted("functions", f"nothing is known of {node.name}")
    return known[node.kind]


def _leave(node: Node, given: Shape) -> Shape:
    require(node.numbers["tolerance"] > 0.0, "options", "the tolerance is not positive")
    return given


def target(numbers: Array, name: str) -> Shape:
    """The shape of a sample that a tensor of a shape is for."""
    shape = tuple(int(extent) for extent in numbers.reshape(-1))
    good = numbers.ndim == 1 and len(shape) > 1 and shape[0] == 0 and all(0 < extent <= LARGEST for extent in shape[1:])
    require(good, "shapes", f"{name}: {shape} is the shape of no batch")
    return shape[1:]


def _reshaped(node: Node, given: Shape) -> Shape:
    found = target(node.numbers["shape"], node.name)
    require(math.prod(found) == math.prod(given), "shapes", f"{node.name} makes {found} of {given}")
    return found


def _entrywise(node: Node, given: Shape) -> Shape:
    parts = [part for role, part in node.numbers.items() if role != "epsilon"]
    try:
        good = bool(all(np.broadcast_shapes(part.shape, given) == given for part in parts))
    except ValueError:
        good = False
    require(good, "shapes", f"{node.name} takes numbers of other shapes than {given}")
    if node.kind == "Normalize":
        require((node.numbers["std"] > 0.0).all(), "options", f"{node.name}: a standard deviation is not positive")
    if node.kind == "BatchNormalized":
        epsilon = float(node.numbers["epsilon"])
        good = 1e-30 < epsilon < 1e30 and bool((node.numbers["variance"] >= 0.0).all())
        require(good, "options", f"{node.name}: epsilon {epsilon}, or a variance, is too small or large")
    return given


def _linear(node: Node, given: Shape) -> Shape:
    return (*given[:-1], outputs_of(node, "W", "b", given[-1]))


def outputs_of(node: Node, weight: str, bias: str, inputs: int) -> int:
    """How many outputs an affine map has, by the names of its numbers."""
    matrix, shift = node.numbers[weight], node.numbers[bias]
    fits = matrix.ndim == 2 and matrix.shape[1] == inputs and shift.shape == matrix.shape[:1]
    require(fits, "shapes", f"{node.name}: {weight} {matrix.shape} with {bias} {shift.shape} is no map of {inputs}")
    return len(matrix)


def _equilibrium(node: Node, given: Shape) -> Shape:
    numbers, size = node.numbers, given[0]
    square = [numbers[role].shape for role in ("W", "reflect", "drive") if role in numbers]
    require(len(given) == 1 and set(square) == {(size, size)}, "shapes", f"{node.name}: {square} for states {given}")
    require_sane(node)
    return given


def require_sane(node: Node) -> None:
    """Refuse options of a node with which nothing was proved to work."""
    for role, (least, most) in _SANE.items():
        good = role not in node.numbers or least <= float(node.numbers[role]) <= most
        require(good, "options", f"{node.name}: {role} is not between {least} and {most}")
