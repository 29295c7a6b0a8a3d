"""What every number of a node has to be, and the shape of a sample of what the node gives."""

from .node import Node
from .proofs import Array, require

Shape = tuple[int, ...]
LARGEST = 1 << 22  # entries of a sample, or terms of a sum, as the functions' own bounds suppose
# Numbers of nodes that are scalars: how they are stored, the least and the largest.
SCALARS = {
    "tolerance": ("<f4", 1e-38, 1e39), "stop": ("<f4", 1e-30, 1.0), "limit": ("<i8", 1, 1e9), "finer": ("<i8", 1, 1e9),
    "goal": ("<f8", -1e300, 1e300), "step": ("<f8", 1e-30, 1e30), "sensitivity": ("<f8", 1e-100, 1e100),
    "floor": ("<f8", -1.0, 1e300), "overlap": ("<f8", 1.0, 1e100), "epsilon": ("<f8", 1e-30, 1e30), "norm": ("<f8", 0.0, 1e100),
    "sorts_inner": ("<i8", 0, 1), "sorts_outer": ("<i8", 0, 1), "kappa": ("<f8", 1e-30, 1.0), "direct": ("<f8", 0.0, 1e30),
    "through": ("<f8", 0.0, 1e30), "driven": ("<f8", 1e-30, 1e30), "contraction": ("<f8", 0.0, 1.0 - 1e-15),
}  # fmt: skip
# How other numbers are stored that are not in float32.
_ARRAYS = {
    **dict.fromkeys(("shape", "split", "index", "partner", "lower"), "<i8"),
    **dict.fromkeys(("turn_rows", "turn_columns"), "<f8"),
}
_ON_NODES = ("GraphEquilibrium", "NodeSum")


def stored_as(role: str) -> str:
    """The type in which numbers of a role are stored."""
    return SCALARS[role][0] if role in SCALARS else _ARRAYS.get(role, "<f4")


def set_shapes(nodes: list[Node]) -> None:
    """Check the numbers of all nodes, and set the shapes of their values; that of the input is known."""
    for node in nodes[1:]:
        given = [nodes[source].shape for source in node.sources]
        require(given == given[:1] * len(given), "shapes", f"{node.name} takes values of shapes {given}")
        on_nodes = all(nodes[source].nodewise == (node.kind in _ON_NODES) for source in node.sources)
        require(on_nodes, "graphs", f"{node.name} is not for values of nodes, or for these only")
        for role in SCALARS.keys() & node.numbers.keys():
            (_, least, most), value = SCALARS[role], node.numbers[role]
            good = value.shape == () and least <= value[()] <= most
            require(good, "options", f"{node.name}: {role} is no number between {least} and {most}")
        node.shape = node.module.shape(node, given[0])
        terms = [part[0].size for part in node.numbers.values() if part.ndim in (2, 4)]  # of matrices and kernels
        require(max(node.size, *terms, 1) <= LARGEST, "shapes", f"{node.name} is too large")


def target(numbers: Array, name: str) -> Shape:
    """The shape of a sample that a tensor of a shape is for."""
    shape = tuple(int(extent) for extent in numbers.reshape(-1))
    good = numbers.ndim == 1 and len(shape) > 1 and shape[0] == 0 and all(0 < extent <= LARGEST for extent in shape[1:])
    require(good, "shapes", f"{name}: {shape} is the shape of no batch")
    return shape[1:]


def outputs_of(node: Node, weight: str, bias: str, inputs: int) -> int:
    """How many outputs an affine map has, by the names of its numbers."""
    matrix, shift = node.numbers[weight], node.numbers[bias]
    fits = matrix.ndim == 2 and matrix.shape[1] == inputs and shift.shape == matrix.shape[:1]
    require(fits, "shapes", f"{node.name}: {weight} {matrix.shape} with {bias} {shift.shape} is no map of {inputs}")
    return len(matrix)


def fits_into(part: Array, shape: Shape) -> bool:
    """Whether numbers broadcast to a shape, and to no larger one."""
    pairs = zip(part.shape[::-1], shape[::-1], strict=False)
    return part.ndim <= len(shape) and all(have in (1, want) for have, want in pairs)
