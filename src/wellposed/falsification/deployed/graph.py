"""Changes of the graph of a deployed file, of the bodies of its functions, and of the entries of its protocol buffer."""

from __future__ import annotations

import re

import numpy as np
from numpy.random import Generator
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, numpy_helper

from wellposed.checker.functions import activation, called, function
from wellposed.falsification.deployed.files import MODEL, Files, Impossible, flipped

_KINDS = (
    "Affine", "Normalize", "Linear", "SumOfTwo", "DifferenceOfTwo", "AveragePooling", "MaximumPooling", "Sandwich", "Residual",
    "PositivePart", "Reshaped", "Convolution", "GroupSort",
)  # fmt: skip
_SIGMAS = (
    "relu",
    "identity",
    "tanh",
    "sigmoid",
    "softplus",
    "leaky_relu",
    "hardtanh",
    "relu6",
    "elu",
    "silu",
    "gelu",
    "arctan",
)


def with_functions(model: ModelProto) -> None:
    """Put the right functions into a model, in their usual order."""
    try:
        names = {name: None for node in model.graph.node for name in called(node.op_type)}
    except KeyError as error:
        raise Impossible from error
    del model.functions[:]
    model.functions.extend(function(name) for name in names)


def _pick(rng: Generator, parts: list[NodeProto]) -> NodeProto:
    if not parts:
        raise Impossible
    return parts[rng.integers(len(parts))]


def operator(rng: Generator, files: Files) -> None:
    """Another kind of node that takes as many inputs, or any other."""
    node = _pick(rng, list(files.model.graph.node))
    same = [kind for kind in _KINDS if kind != node.op_type and len(function(kind).input) == len(node.input)]
    same += [f"Activation_{sigma}" for sigma in _SIGMAS if len(node.input) == 2]
    node.op_type = str(rng.choice(same if same and rng.random() < 0.9 else _KINDS))
    with_functions(files.model)


def sigma(rng: Generator, files: Files) -> None:
    """Another activation."""
    node = _pick(rng, [node for node in files.model.graph.node if activation(node.op_type) is not None])
    kind = node.op_type.partition("_")[0]
    node.op_type = f"{kind}_{rng.choice(_SIGMAS)}"
    if rng.random() < 0.9:
        with_functions(files.model)


def body(rng: Generator, files: Files) -> None:
    """Another body of a function: other operators, inputs, constants, or that of another function."""
    found = files.model.functions[rng.integers(len(files.model.functions))]
    node, kind = found.node[rng.integers(len(found.node))], rng.integers(6)
    if kind == 0:
        node.op_type = str(rng.choice(["Add", "Sub", "Mul", "Min", "Max", "Identity", "Abs", "Neg"]))
    elif kind == 1 and len(node.input):
        names = [name for part in found.node for name in part.output] + list(found.input)
        node.input[rng.integers(len(node.input))] = str(rng.choice(names))
    elif kind == 2:
        _constant(rng, found)
    elif kind == 3:
        other = files.model.functions[rng.integers(len(files.model.functions))]
        found.name, other.name = other.name, found.name
    elif kind == 4:
        del found.node[rng.integers(len(found.node))]
    else:
        found.output.reverse()


def _constant(rng: Generator, found: FunctionProto) -> None:
    known = [node for node in found.node if node.op_type == "Constant" and node.attribute[0].HasField("t")]
    tensor = _pick(rng, known).attribute[0].t
    changed = numpy_helper.to_array(tensor) * rng.choice([0.0, 0.5, 0.999])
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(changed, numpy_helper.to_array(tensor).dtype), tensor.name))


def wires(rng: Generator, files: Files) -> None:
    """An input of a node from elsewhere, with the bound of its error or without it."""
    nodes = files.model.graph.node
    node, other = nodes[rng.integers(len(nodes))], nodes[rng.integers(len(nodes))]
    kind = rng.integers(4)
    if kind == 0:
        node.input[rng.integers(len(node.input))] = other.output[rng.integers(len(other.output))]
    elif kind == 1:
        node.input[rng.integers(len(node.input))] = other.input[rng.integers(len(other.input))]
    elif kind == 2 and len(node.input) > 1:
        node.input[0], node.input[1] = other.output[0], other.output[1]
    else:
        first, second = (rng.integers(len(node.input)) for _ in range(2))
        node.input[first], node.input[second] = node.input[second], node.input[first]


def order(rng: Generator, files: Files) -> None:
    """Nodes left out, repeated, or in another order; a node left out is bridged where that can be."""
    nodes, kind = files.model.graph.node, rng.integers(4)
    place = int(rng.integers(len(nodes)))
    if kind == 0:
        gone = nodes.pop(place)
        if len(gone.input) > 1 and len(gone.output) > 1:
            for node in nodes:
                for at, name in enumerate(node.input):
                    node.input[at] = dict(zip(gone.output, gone.input, strict=False)).get(name, name)
            with_functions(files.model)
            used = {name for node in nodes for name in node.input}
            kept = [tensor for tensor in files.model.graph.initializer if tensor.name in used]
            del files.model.graph.initializer[:]
            files.model.graph.initializer.extend(kept)
    elif kind == 1:
        nodes.insert(int(rng.integers(len(nodes))), nodes.pop(place))
    elif kind == 2:
        _repeated(nodes[place], files.model, place)
    else:
        other = int(rng.integers(len(nodes)))
        first, second = NodeProto(), NodeProto()
        first.CopyFrom(nodes[place])
        second.CopyFrom(nodes[other])
        nodes[place].op_type, nodes[other].op_type = second.op_type, first.op_type
        nodes[place].input[2:], nodes[other].input[2:] = second.input[2:], first.input[2:]


def _repeated(node: NodeProto, model: ModelProto, place: int) -> None:
    """A node twice, one behind the other."""
    if len(node.input) < 2 or "logits" in node.output:
        raise Impossible
    second = NodeProto()
    second.CopyFrom(node)
    second.output[0], second.output[1] = "again", "again_error"
    second.input[0], second.input[1] = node.output[0], node.output[1]
    for later in list(model.graph.node)[place + 1 :]:
        for at, name in enumerate(later.input):
            later.input[at] = {node.output[0]: "again", node.output[1]: "again_error"}.get(name, name)
    model.graph.node.insert(place + 1, second)


def entries(rng: Generator, files: Files) -> None:
    """Entries of the model's lists repeated, left out, in another order, or renamed."""
    graph, kind = files.model.graph, rng.integers(7)
    stored = graph.initializer
    place = int(rng.integers(len(stored)))
    if kind == 0:
        stored.append(stored[place])
    elif kind == 1:
        other = TensorProto()
        other.CopyFrom(stored[place])
        other.raw_data = bytes(len(other.raw_data))
        stored.insert(int(rng.integers(len(stored) + 1)), other)
    elif kind == 2:
        stored.insert(int(rng.integers(len(stored))), stored.pop(place))
    elif kind == 3:
        name, stored[place].name = stored[place].name, str(rng.choice(["x", "logits", "value_1", "", "other"]))
        for node in graph.node if rng.random() < 0.5 else ():
            for at, given in enumerate(node.input):
                node.input[at] = stored[place].name if given == name else given
    elif kind == 4:
        files.model.functions.append(files.model.functions[rng.integers(len(files.model.functions))])
    elif kind == 5:
        files.model.functions.insert(0, files.model.functions.pop())
    else:
        shape = graph.input[0].type.tensor_type.shape.dim
        shape[rng.integers(len(shape))].dim_value = int(rng.integers(1, 8))


def data(rng: Generator, files: Files) -> None:
    """Bytes of the model: one bit, some left out, some repeated, an entry behind the end, a name that occurs elsewhere, too."""
    kind, seed = rng.integers(5), int(rng.integers(1 << 30))

    def rewrite(found: bytes) -> bytes:
        own = np.random.default_rng(seed)
        place = int(own.integers(len(found)))
        if kind == 0:
            return flipped(found, place, int(own.integers(8)))
        if kind == 1:
            return found[:place]
        if kind == 2:
            length = int(own.integers(1, 64))
            return found[: place + length] + found[place : place + length] + found[place + length :]
        if kind == 3:
            return found + (b"\x08\x0a" if own.random() < 0.5 else found[-40:])
        names = sorted(set(re.findall(rb"[A-Za-z_]{3,}_\d+\.[a-zA-Z]+", found)))
        first, second = (names[own.integers(len(names))] for _ in range(2)) if names else (b"", b"")
        return found.replace(first, second) if len(first) == len(second) else found + found

    files.rewrites[MODEL] = rewrite


GRAPH = {
    "graph: operators": operator, "graph: activations": sigma, "graph: bodies of functions": body, "graph: wires": wires,
    "graph: nodes": order, "graph: entries": entries, "graph: bytes": data,
}  # fmt: skip
