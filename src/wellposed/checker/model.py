"""The model's file as nodes with their numbers; what this program would not write in the same bytes again is refused."""

import hashlib
import math
from importlib import import_module
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from .claim import content_of
from .functions import DOMAIN, IR_VERSION, OPSET, STRUCTURE, VERSION, activation, called, function
from .node import Node
from .proofs import Array, Refuted, require
from .shapes import LARGEST, set_shapes

_TYPES = {TensorProto.FLOAT: "<f4", TensorProto.DOUBLE: "<f8", TensorProto.INT64: "<i8"}
# Numbers of functions that are something else than float32.
_DTYPES = {
    **dict.fromkeys(("shape", "split", "index", "limit", "finer", "sorts_inner", "sorts_outer"), "<i8"),
    **dict.fromkeys(("partner", "lower"), "<i8"),
    **dict.fromkeys(("floor", "sensitivity", "epsilon", "overlap", "step", "goal", "norm", "kappa", "direct"), "<f8"),
    **dict.fromkeys(("through", "driven", "contraction", "turn_rows", "turn_columns"), "<f8"),
}  # fmt: skip
_ENTER = ("Enter", "EnterGraphs")
_TWO = ("SumOfTwo", "DifferenceOfTwo")


def read(path: Path, digest: str) -> list[Node]:
    """The nodes of a model in their order, the input first, and last the one that gives the logits."""
    data = content_of(path.resolve(), (1 << 31) - 1)
    require(hashlib.sha256(data).hexdigest() == digest, "model digest", f"it is not that of {path.name}: certify again")
    try:
        model = ModelProto.FromString(data)
    except Exception as error:
        raise Refuted("model", f"no ONNX ({type(error).__name__})") from error
    require(model.ir_version == IR_VERSION, "model", f"ir_version {model.ir_version} is not {IR_VERSION}")
    numbers = _numbers(model)
    nodes = _nodes(model, numbers)
    set_shapes(nodes)
    _require_written_so(model, data, nodes)
    return nodes


def _numbers(model: ModelProto) -> dict[str, Array]:
    """The stored numbers by their names."""
    found: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        name, kind = tensor.name, _TYPES.get(tensor.data_type)
        require(kind is not None, "numbers", f"{name} is stored in a type of its own")
        require(name not in found, "numbers", f"two of the name {name}")
        shape = tuple(tensor.dims)
        good = all(extent > 0 for extent in shape) and len(tensor.raw_data) == math.prod(shape) * int(str(kind)[-1])
        require(good, "numbers", f"{name} has other numbers than its dimensions say, or none")
        found[name] = np.frombuffer(tensor.raw_data, kind).reshape(shape)
        require(np.isfinite(found[name]).all(), "numbers", f"{name} has NaN or infinite entries")
        if str(kind) != "<i8":  # some machines take subnormal numbers for zeros
            small = (found[name] != 0.0) & (np.abs(found[name]) < np.finfo(str(kind)).tiny)
            require(not small.any(), "numbers", f"{name} has subnormal entries")
    return found


def _nodes(model: ModelProto, numbers: dict[str, Array]) -> list[Node]:
    nodes: list[Node] = []
    edges: dict[str, tuple[int, str]] = {}  # of values: the node that they come from, and the bound of their error
    names, used = {"x", *STRUCTURE, *numbers}, set[str]()
    require(len(names) == len(numbers) + 1 + len(STRUCTURE), "names", "an input is no stored number")
    for place, entry in enumerate(model.graph.node):
        kind, given = entry.op_type, list(entry.input)
        require(entry.domain == DOMAIN, "functions", f"{kind} of the domain {entry.domain!r} is unknown")
        try:
            formal = list(function(kind).input)
        except KeyError as error:
            raise Refuted("functions", f"{kind} is unknown") from error
        require((kind in _ENTER) == (place == 0), "graph", "Enter is not the first node, or not the only one")
        require((kind == "Leave") == (place == len(model.graph.node) - 1), "graph", "Leave is not the last node alone")
        require(len(given) == len(formal) and len(entry.output) == 2, "graph", f"{kind} takes {len(formal)}, gives 2")
        fresh = set(entry.output)
        require(
            len(fresh) == 2 and not fresh & names and "" not in fresh, "names", f"{kind} gives names that are taken"
        )
        count = 0 if kind in _ENTER else 2 if kind in _TWO else 1
        sources = [_source(edges, *given[2 * pair : 2 * pair + 2]) for pair in range(count)]
        own: dict[str, Array] = {}
        for role, name in zip(formal[2 * count :], given[2 * count :], strict=True):
            if role in STRUCTURE or place == 0:
                require(name == role, "graph", f"{kind} takes {name!r} where the input {role} should be")
                continue
            require(name in numbers, "graph", f"{kind} takes {name!r} where its {role} should be")
            wanted = _DTYPES.get(role, "<f4")
            require(numbers[name].dtype == wanted, "numbers", f"{name}, the {role} of {kind}, is not in {wanted}")
            own[role] = numbers[name].astype(np.float64) if wanted == "<f4" else numbers[name]
        used |= set(given)
        names |= fresh
        edges[entry.output[0]] = place, entry.output[1]
        parts = activation(kind) or (kind, "", "1")
        nodes.append(Node(place, parts[0], parts[1], float(parts[2]), tuple(sources), own))
    require(len(nodes) > 1, "graph", "is empty")
    taken = {source for node in nodes for source in node.sources}
    require(taken == set(range(len(nodes) - 1)), "graph", "the value of a node is not used")
    require(set(numbers) <= used, "numbers", f"not used: {sorted(set(numbers) - used)}")
    nodes[0].shape, nodes[0].nodewise = _declared(model), nodes[0].kind == "EnterGraphs"
    return nodes


def _source(edges: dict[str, tuple[int, str]], value: str, error: str) -> int:
    require(value in edges, "graph", f"{value!r} is the value of no earlier node")
    place, own = edges[value]
    require(error == own, "graph", f"{error!r} is not the bound of the error of {value!r}")
    return place


def _declared(model: ModelProto) -> tuple[int, ...]:
    """The shape of an input, or of the features of a node."""
    require(len(model.graph.input) > 0, "graph", "has no input")
    extents = tuple(part.dim_value for part in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    require(extents and all(extent > 0 for extent in extents), "graph", "inputs of no fixed shape")
    require(math.prod(extents) <= LARGEST, "graph", "inputs are too large")
    return extents


def _require_written_so(model: ModelProto, data: bytes, network: list[Node]) -> None:
    """Refuse a file with anything in it that was not read: written again from what was, it has the same bytes."""
    nodes = [helper.make_node(node.op_type, node.input, node.output, domain=DOMAIN) for node in model.graph.node]
    stored = [
        TensorProto(name=part.name, dims=part.dims, data_type=part.data_type, raw_data=part.raw_data)
        for part in model.graph.initializer
    ]
    ends: list[tuple[str, list[str | int]]] = [("logits", ["batch", *network[-1].shape]), ("error_bound", ["batch"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *network[0].shape])]
    if network[0].nodewise:
        inputs = import_module(".graphs", __package__).inputs_of(network[0].shape)
    graph = helper.make_graph(
        nodes, "network", inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, extents) for name, extents in ends], stored,
    )  # fmt: skip
    require(tuple(model.graph.node[-1].output) == ("logits", "error_bound"), "graph", "other outputs than it leaves")
    given, needed = [part.name for part in model.functions], {n for node in nodes for n in called(node.op_type)}
    require(sorted(given) == sorted(needed), "functions", f"other ones than needed: {sorted(set(given) ^ needed)}")
    for part in model.functions:
        same = part.SerializeToString(deterministic=True) == function(part.name).SerializeToString(deterministic=True)
        require(same, "functions", f"{part.name} is not the function that is known by this name")
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    again = helper.make_model(
        graph, functions=[function(name) for name in given], opset_imports=imports, ir_version=IR_VERSION,
        producer_name="wellposed",
    )  # fmt: skip
    require(again.SerializeToString(deterministic=True) == data, "model", "has parts that are not of this format")
