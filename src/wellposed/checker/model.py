"""The model's file as nodes with their numbers; what this program would not write in the same bytes again is refused."""

import hashlib
import math
import re
from importlib import import_module
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from .claim import content_of
from .functions import DOMAIN, IR_VERSION, OPSET, STRUCTURE, VERSION, activation, called, function
from .node import Node
from .proofs import Array, Refuted, require
from .shapes import LARGEST, Shape, set_shapes, stored_as

_TYPES: dict[int, str] = {TensorProto.FLOAT: "<f4", TensorProto.DOUBLE: "<f8", TensorProto.INT64: "<i8"}
_INPUTS, _OUTPUTS = ("x", *STRUCTURE), ("logits", "error_bound")
_NAME = re.compile(r"[A-Z]\w*(\.\w+)+|tolerance", re.ASCII)  # of stored numbers
_SOURCES = {"Enter": 0, "EnterGraphs": 0, "SumOfTwo": 2, "DifferenceOfTwo": 2}  # edges that nodes take, if not one


def read(path: Path, digest: str) -> list[Node]:
    """The nodes of a model in their order, the input first, and last the one that gives the logits."""
    data = content_of(path.resolve(), (1 << 31) - 1)
    require(hashlib.sha256(data).hexdigest() == digest, "model digest", f"it is not that of {path.name}: certify again")
    try:
        model = ModelProto.FromString(data)
    except Exception as error:
        raise Refuted("model", f"no ONNX ({type(error).__name__})") from error
    numbers, entries = {part.name: _array(part) for part in model.graph.initializer}, list(model.graph.node)
    require(len(entries) > 1 and len(model.graph.input) > 0, "graph", "is empty")
    odd = [name for name in numbers if not _NAME.fullmatch(name)]
    require(not odd, "names", f"numbers may not be named {odd}, like inputs, edges or what runtimes name themselves")
    nodes = [_node(place, entry, numbers) for place, entry in enumerate(entries)]
    ends = [node.kind in ("Enter", "EnterGraphs", "Leave") for node in nodes]
    require(nodes[-1].kind == "Leave" and ends == [True] + [False] * (len(nodes) - 2) + [True], "graph", "other ends")
    taken = {source for node in nodes for source in node.sources}
    require(taken == set(range(len(nodes) - 1)), "graph", "the value of a node is not used")
    used = {name for entry in entries for name in entry.input}
    require(set(numbers) <= used, "numbers", f"not used: {sorted(set(numbers) - used)}")
    extents = tuple(part.dim_value for part in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    fixed = extents and all(extent > 0 for extent in extents) and math.prod(extents) <= LARGEST
    require(fixed, "graph", "inputs of no fixed shape, or too large")
    nodes[0].shape, nodes[0].nodewise = extents, nodes[0].kind == "EnterGraphs"
    set_shapes(nodes)
    stored = {part.name: part for part in model.graph.initializer}
    again = assembled(entries, [_plain(part) for part in stored.values()], extents, nodes[-1].shape)
    require(again.SerializeToString(deterministic=True) == data, "model", "has parts that are not of this format")
    return nodes


def assembled(entries: list[NodeProto], stored: list[TensorProto], taken: Shape, given: Shape) -> ModelProto:
    """The model of a network: its nodes and numbers, with the functions that these nodes need.

    Args:
        entries: the nodes.
        stored: the numbers.
        taken: shape of an input, or of the features of a node.
        given: shape of the logits.
    """
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *taken])]
    if entries[0].op_type == "EnterGraphs":
        inputs = import_module(".graphs", __package__).inputs_of(taken)
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *extents])
        for name, extents in zip(_OUTPUTS, (given, ()), strict=True)
    ]
    names = dict.fromkeys(name for entry in entries for name in called(entry.op_type))
    return helper.make_model(
        helper.make_graph(entries, "network", inputs, outputs, stored),
        functions=[function(name) for name in names], ir_version=IR_VERSION, producer_name="wellposed",
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
    )  # fmt: skip


def _edge(place: int) -> tuple[str, str]:
    """The names of a node's value, and of the bound of its error."""
    return f"value_{place}", f"error_{place}"


def _array(tensor: TensorProto) -> Array:
    """Stored numbers, which are finite and not subnormal, as some machines take those for zeros."""
    name, kind, shape = tensor.name, _TYPES.get(tensor.data_type, ""), tuple(tensor.dims)
    good = kind and all(extent > 0 for extent in shape) and len(tensor.raw_data) == math.prod(shape) * int(kind[-1])
    require(good, "numbers", f"{name} is of another type, or has other numbers than its dimensions say")
    found = np.frombuffer(tensor.raw_data, kind).reshape(shape)
    least = 0 if kind == "<i8" else np.finfo(kind).tiny
    good = np.isfinite(found) & ((found == 0) | (np.abs(found) >= least))
    require(good.all(), "numbers", f"{name} has NaN, infinite or subnormal entries")
    return found


def _plain(tensor: TensorProto) -> TensorProto:
    """A tensor of the same name and numbers, and nothing else."""
    return TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, raw_data=tensor.raw_data)


def _node(place: int, entry: NodeProto, numbers: dict[str, Array]) -> Node:
    """A node of the graph, whose edges have the names that the format gives them."""
    try:
        formal, name = list(function(entry.op_type).input), entry.op_type
    except KeyError as error:
        raise Refuted("functions", f"{entry.op_type} is unknown") from error
    kind, sigma, slope = activation(name) or (name, "", "1")
    places, count = {_edge(before)[0]: before for before in range(place)}, _SOURCES.get(kind, 1)
    values, rest = entry.input[: 2 * count : 2], entry.input[2 * count :]
    good = len(entry.input) == len(formal) and all(value in places for value in values)
    require(good, "graph", f"{name} takes other inputs than {formal}, or no values of earlier nodes")
    own, sources = {}, tuple(places[value] for value in values)
    for role, given in zip(formal[2 * count :], rest, strict=True):
        if role in _INPUTS:
            require(given == role, "graph", f"{name} takes {given!r} where the input {role} should be")
            continue
        fits = given in numbers and numbers[given].dtype == stored_as(role)
        require(fits, "numbers", f"{given!r}, the {role} of {name}, is no number in {stored_as(role)}")
        own[role] = numbers[given].astype(np.float64) if stored_as(role) == "<f4" else numbers[given]
    edges = [end for source in sources for end in _edge(source)]
    again = helper.make_node(name, [*edges, *rest], _OUTPUTS if kind == "Leave" else _edge(place), domain=DOMAIN)
    same = again.SerializeToString(deterministic=True) == entry.SerializeToString(deterministic=True)
    require(
        same,
        "graph",
        f"{name}, node {place}, has another edge than its own, or the bound of the error of another value",
    )
    return Node(place, kind, sigma, float(slope), sources, own)
