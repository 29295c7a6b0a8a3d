"""Deployed networks run by torch, operator by operator, with a fixed number of iterations."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor

_DTYPES = {1: torch.float32, 7: torch.int64, 9: torch.bool, 11: torch.float64}

_REFINEMENTS = 2  # steps in float64 behind the iteration

Values = dict[str, Any]


def run(model: ModelProto, x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The logits of a deployed network and the bounds of their errors, by torch's own functions.

    Args:
        model: of `wellposed.deployment.export.deployed`.
        x: inputs, shape (batch, *input_shape), float32.
        steps: rounds of every equilibrium's iteration; none ends before.
    """
    functions = {function.name: function for function in model.functions}
    values: Values = {tensor.name: _tensor(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
    values[model.graph.input[0].name] = x
    _run_nodes(model.graph.node, values, functions, steps)
    logits, error = (values[output.name] for output in model.graph.output)
    return logits, error


def _run_nodes(nodes: Any, values: Values, functions: Mapping[str, Any], steps: int) -> None:
    """Run nodes in their order, which adds their outputs to the values."""
    for node in nodes:
        taken = [values[name] for name in node.input]
        if node.op_type == "Loop":
            found = _loop(node, values, functions, steps)
        elif node.domain:
            function = functions[node.op_type]
            inner: Values = dict(zip(function.input, taken, strict=True))
            _run_nodes(function.node, inner, functions, steps)
            found = [inner[name] for name in function.output]
        else:
            value = _OPERATORS[node.op_type](_attributes(node), *taken)
            found = [value] if len(node.output) == 1 else [value[place] for place in range(len(node.output))]
        values.update(zip(node.output, found, strict=True))


def _loop(node: NodeProto, values: Values, functions: Mapping[str, Any], steps: int) -> list[Any]:
    """A loop as often as is wanted; its last state says of each sample whether it goes on, which here it always does."""
    body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
    state = [values[name] for name in node.input[2:]]
    if body.name == "deeper":
        return _counted(body, int(values[node.input[0]]), state, values, functions, steps)
    goes_on = state[-1]
    for step in range(steps if body.name == "iteration" else _REFINEMENTS):
        inner = {**values, **dict(zip([entry.name for entry in body.input], [step, True, *state], strict=True))}
        inner[body.input[-1].name] = None
        _run_nodes(body.node, inner, functions, steps)
        state = [*(inner[entry.name] for entry in body.output[1:-1]), goes_on]
    return state


def _counted(
    body: Any, count: int, state: list[Any], values: Values, functions: Mapping[str, Any], steps: int
) -> list[Any]:
    """A loop whose rounds are counted, and none of which depends on the values."""
    for step in range(count):
        given = [torch.tensor(step, device="cpu"), True, *state]
        inner = {**values, **dict(zip([entry.name for entry in body.input], given, strict=True))}
        _run_nodes(body.node, inner, functions, steps)
        state = [inner[entry.name] for entry in body.output[1:]]
    return state


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array))


def _constant(attributes: dict[str, Any]) -> Tensor:
    ((name, value),) = attributes.items()
    if name == "value":
        return _tensor(numpy_helper.to_array(value))
    return torch.tensor(value, dtype=torch.int64 if name == "value_ints" else torch.float32, device="cpu")


def _reduced(function: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction over axes that are given as a second input, or over all."""

    def reduce(attributes: dict[str, Any], x: Any, axes: Any = None) -> Any:
        dims = () if axes is None else tuple(axes.tolist())  # for torch, no dimensions are all of them
        return function(x, dims, bool(attributes["keepdims"]))

    return reduce


def _product(x: Any, dims: tuple[int, ...], keep: bool) -> Any:
    return torch.tensor(math.prod(x.tolist()), device="cpu")


def _reshaped(attributes: dict[str, Any], x: Any, shape: Any) -> Any:
    sizes = [x.shape[place] if size == 0 else size for place, size in enumerate(shape.tolist())]
    return x.reshape(sizes)


def _shape(attributes: dict[str, Any], x: Any) -> Any:
    sizes = x.shape[attributes.get("start", 0) : attributes.get("end")]
    return (
        torch.tensor(sizes, device="cpu") if isinstance(x, Tensor) else sizes
    )  # sizes of a batch while it is followed


def _filled(attributes: dict[str, Any], shape: Any) -> Any:
    value = numpy_helper.to_array(attributes["value"])
    return torch.full(shape, float(value[0]), dtype=torch.float64, device="cpu")


def _padded(attributes: dict[str, Any], x: Any, pads: Any) -> Any:
    ends = pads.tolist()
    half = len(ends) // 2
    pairs = [
        side for before, after in zip(ends[:half][::-1], ends[half:][::-1], strict=True) for side in (before, after)
    ]
    return torch.nn.functional.pad(x, pairs)


def _gathered(attributes: dict[str, Any], x: Any, index: Any) -> Any:
    axis = attributes["axis"]
    if index.ndim == 0:
        return x.select(axis, int(index))
    found = x.index_select(axis, index.reshape(-1))
    return found.unflatten(axis, tuple(index.shape))


def _sliced(attributes: dict[str, Any], x: Any, starts: Any, ends: Any, axes: Any) -> Any:
    for start, end, axis in zip(starts.tolist(), ends.tolist(), axes.tolist(), strict=True):
        x = x.narrow(axis, start, end - start)
    return x


def _halved(attributes: dict[str, Any], x: Any) -> Any:
    return x.chunk(attributes["num_outputs"], attributes["axis"])


def _unsqueezed(attributes: dict[str, Any], x: Any, axes: Any) -> Any:
    for axis in axes.tolist():  # in order, from the first on
        x = x.unsqueeze(axis)
    return x


def _divided(attributes: dict[str, Any], first: Any, second: Any) -> Any:
    whole = isinstance(first, Tensor) and first.dtype == torch.int64
    return first // second if whole else torch.div(first, second)


def _where(attributes: dict[str, Any], condition: Any, first: Any, second: Any) -> Any:
    return first if condition is None else torch.where(condition, first, second)


def _and(attributes: dict[str, Any], first: Any, second: Any) -> Any:
    return second if first is None else torch.logical_and(first, second)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """An operator without attributes."""
    return lambda attributes, *inputs: function(*inputs)


_ENTRYWISE = ("Abs", "Neg", "Exp", "Log", "Sqrt", "Tanh", "Sigmoid", "Sign", "Atan", "Erf")  # called so in torch too
_OPERATORS: dict[str, Callable[..., Any]] = {
    "Constant": _constant, "ConstantOfShape": _filled, "Shape": _shape, "Reshape": _reshaped, "Pad": _padded,
    "Slice": _sliced, "Unsqueeze": _unsqueezed, "Squeeze": _plain(lambda x, axes: x.squeeze(axes.tolist())),
    "Range": _plain(lambda start, end, step: torch.arange(int(start), int(end), int(step), device="cpu")),
    "Mod": _plain(torch.remainder), "Equal": _plain(torch.eq), "Pow": _plain(torch.pow),
    "Conv": _plain(lambda x, kernel: torch.nn.functional.conv2d(x, kernel, padding="same")),
    "Gather": _gathered, "Split": _halved, "Where": _where, "And": _and,
    "Flatten": lambda attributes, x: x.flatten(1), "TopK": _plain(lambda x, count: x.sort(dim=2)),
    "Transpose": lambda attributes, x: x.permute(attributes["perm"]),
    "Cast": lambda attributes, x: x.to(_DTYPES[attributes["to"]]),
    "CastLike": _plain(lambda x, like: x.to(like.dtype)),
    "Concat": lambda attributes, *parts: torch.cat(parts, attributes["axis"]),
    "Clip": _plain(torch.clamp), "Relu": _plain(torch.relu), "Identity": _plain(lambda x: x),
    "Add": _plain(torch.add), "Sub": _plain(torch.sub), "Mul": _plain(torch.mul), "Div": _divided,
    "Sum": _plain(lambda *parts: functools.reduce(torch.add, parts)),
    "Max": _plain(torch.maximum), "Min": _plain(torch.minimum), "MatMul": _plain(torch.matmul),
    "Less": _plain(torch.lt), "LessOrEqual": _plain(torch.le), "Greater": _plain(torch.gt), "GreaterOrEqual": _plain(torch.ge),
    "Or": _plain(torch.logical_or), "Not": _plain(torch.logical_not),
    "ReduceSum": _reduced(lambda x, dims, keep: x.sum(dims, keepdim=keep)),
    "ReduceMean": _reduced(lambda x, dims, keep: x.mean(dims, keepdim=keep)),
    "ReduceMax": _reduced(lambda x, dims, keep: x.amax(dims, keepdim=keep)),
    "ReduceMin": _reduced(lambda x, dims, keep: x.amin(dims, keepdim=keep)),
    "ReduceL2": _reduced(lambda x, dims, keep: torch.linalg.vector_norm(x, dim=dims, keepdim=keep)),
    "ReduceProd": _reduced(_product),
    **{name: _plain(getattr(torch, name.lower())) for name in _ENTRYWISE},
}  # fmt: skip
