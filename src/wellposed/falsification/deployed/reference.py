"""A deployed file evaluated in float64 and differentiated, written apart from its checker and from its functions.

It reads the model by itself, solves equilibria by splitting or by Picard's iteration and finishes with Newton steps, the last of
which carries the derivative. What it shows is a lower bound of every constant: slopes at single inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor

from wellposed.activations import activation
from wellposed.falsification.deployed import graph_reference
from wellposed.falsification.deployed.contraction import settled

_STEPS, _NEWTON, _UNSOLVED = 400, 8, 1e-11


class Unknown(Exception):
    """The reference does not know a kind of node."""


class Node:
    """A node as the reference reads it.

    Args:
        kind: of its function, without the activation.
        sigma: the activation, "" without one.
        numbers: by role, float64 or int64.
    """

    def __init__(self, kind: str, sigma: str, numbers: dict[str, Tensor]) -> None:
        self.kind, self.numbers = kind, numbers
        self.sigma = activation(sigma) if sigma else None

    def apply(self, v: Tensor) -> Tensor:
        """The activation."""
        assert self.sigma is not None
        found: Tensor = self.sigma(v)
        return found


class Reference:
    """The function of a deployed file.

    Args:
        model: which the checker accepted.

    Attributes:
        input_shape: of one sample.
        unsolved: for each sample of the last batch whether an equilibrium did not get exact.
    """

    def __init__(self, model: ModelProto) -> None:
        stored = {part.name: numpy_helper.to_array(part) for part in model.graph.initializer}
        formal = {part.name: list(part.input) for part in model.functions}
        self._on_graphs = model.graph.node[0].op_type == "EnterGraphs"
        shape = tuple(part.dim_value for part in model.graph.input[0].type.tensor_type.shape.dim)[1:]
        self.input_shape = (graph_reference.NODES, *shape) if self._on_graphs else shape
        self._calls: list[tuple[Node, list[str], str]] = []
        self.unsolved = torch.zeros(0, dtype=torch.bool, device="cpu")
        for entry in model.graph.node:
            kind, _, sigma = entry.op_type.partition("_")
            given = list(zip(formal[entry.op_type], entry.input, strict=True))
            numbers = {role: _tensor(stored[name]) for role, name in given if name in stored}
            sources = [name for role, name in given if name not in stored and role not in ("edge_index", "batch")][::2]
            self._calls.append((Node(kind, sigma, numbers), sources, entry.output[0]))
            if kind not in KINDS:
                raise Unknown(kind)

    def __call__(self, x: Tensor) -> Tensor:
        """The logits of a batch, differentiable."""
        known, self.unsolved = {"x": x}, torch.zeros(len(x), dtype=torch.bool, device="cpu")
        for node, sources, output in self._calls:
            value = KINDS[node.kind](node, *[known[name] for name in sources])
            if node.kind.endswith("Equilibrium"):
                value, unsolved = value
                self.unsolved = self.unsolved | unsolved
            known[output] = value
        return known["logits"]

    def feeds(self, x: Tensor) -> dict[str, np.ndarray]:
        """A batch in float32 as a runtime takes it."""
        return graph_reference.feeds(x) if self._on_graphs else {"x": x.numpy()}

    def jacobians(self, x: Tensor) -> Tensor:
        """Derivatives of the logits, shape (batch, outputs, inputs); NaN where an equilibrium did not get exact."""
        x = x.detach().requires_grad_()
        logits = self(x).flatten(1)
        rows = [
            torch.autograd.grad(logits[:, place].sum(), x, retain_graph=True)[0] for place in range(logits.shape[1])
        ]
        found = torch.stack([row.flatten(1) for row in rows], 1)
        found[self.unsolved] = torch.nan
        return found


class Masked:
    """The activation of a node, with zeros for the entries of its state that are none.

    Args:
        node: the node.
        mask: zeros and ones, shape (entries,).
    """

    def __init__(self, node: Node, mask: Tensor) -> None:
        self._node, self._mask = node, mask

    def __call__(self, v: Tensor) -> Tensor:
        """Shape (batch, entries) to the same."""
        return self._node.apply(v) * self._mask


def _tensor(array: np.ndarray) -> Tensor:
    wide = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
    return torch.from_numpy(np.array(wide))


def _reshaped(node: Node, x: Tensor) -> Tensor:
    return x.reshape(len(x), *node.numbers["shape"].tolist()[1:])


def _normalised(node: Node, x: Tensor) -> Tensor:
    parts = node.numbers
    scale = parts["weight"] / torch.sqrt(parts["variance"] + parts["epsilon"])
    return (x - parts["mean"]) * scale + parts["bias"]


def _mapped(node: Node, x: Tensor, weight: str = "W", bias: str = "b") -> Tensor:
    return torch.einsum("...i,oi->...o", x, node.numbers[weight]) + node.numbers[bias]


def _explicit(node: Node, x: Tensor) -> Tensor:
    return _mapped(node, torch.relu(_mapped(node, x, "H", "b")), "G", "c")


def _seen(node: Node, x: Tensor) -> Tensor:
    """Pixels in windows, shape (batch, channels, windows, taps); zero behind the last pixel."""
    pixels = torch.cat([x.flatten(2), torch.zeros(*x.shape[:2], 1, dtype=x.dtype, device="cpu")], 2)
    return pixels[:, :, node.numbers["index"]]


def _convolve(node: Node, x: Tensor) -> Tensor:
    kernel = node.numbers["K"].flatten(2)
    found = torch.einsum("oct,bcwt->bow", kernel, _seen(node, x))
    return found.reshape(len(x), *node.numbers["shape"].tolist()[1:])


def _pooled(node: Node, x: Tensor) -> Tensor:
    seen = _seen(node, x)
    found = seen.mean(3) if node.kind == "AveragePooling" else seen.amax(3)
    return found.reshape(len(x), *node.numbers["shape"].tolist()[1:])


def _sorted(node: Node, x: Tensor) -> Tensor:
    pairs = x.reshape(len(x), *node.numbers["split"].tolist()[1:])
    return torch.cat([pairs.amin(2, keepdim=True), pairs.amax(2, keepdim=True)], 2).reshape(x.shape)


def _state_map(node: Node, shape: torch.Size) -> Tensor:
    """W of an equilibrium on flat states."""
    if "W" in node.numbers:
        return node.numbers["W"]
    size = shape.numel()
    basis = torch.eye(size, dtype=torch.float64, device="cpu").reshape(size, *shape)
    if "T" not in node.numbers:
        return _convolve(node, basis).flatten(1).t()
    moved = _circulate(basis, node.numbers["T"])
    if node.kind == "TierEquilibrium":
        through = _circulate(basis, node.numbers["K"])  # rows are images of a basis
        moved = moved - ((through * node.numbers["keep"]).flatten(1) @ through.flatten(1).t()).reshape(basis.shape)
    if node.kind == "ScaledEquilibrium":
        rows = node.numbers["G"]
        moved = basis - node.numbers["scale"] * (moved + (basis.flatten(1) @ rows.t() @ rows).reshape(basis.shape))
    return moved.flatten(1).t()


def _circulate(x: Tensor, matrices: Tensor) -> Tensor:
    """A circular convolution of images that is given by one matrix for every frequency of the half spectrum."""
    seen = torch.fft.rfft2(x)
    found = torch.einsum("hvoi,bihv->bohv", torch.view_as_complex(matrices.contiguous()), seen)
    return torch.fft.irfft2(found, s=x.shape[2:])


def _placed(node: Node, x: Tensor) -> Tensor:
    pixels = torch.cat([x.flatten(2), torch.zeros(*x.shape[:2], 1, dtype=x.dtype, device="cpu")], 2)
    return pixels[:, :, node.numbers["index"]].reshape(len(x), *node.numbers["shape"].tolist()[1:])


def _in_pairs(v: Tensor, sorts: Tensor) -> Tensor:
    """Features of the first half and of the second one sorted, or left as they are."""
    first, second = v.chunk(2, 1)
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], 1) if bool(sorts) else v


def _maps_of_cell(node: Node, z: Tensor) -> Tensor:
    """What the maps of a cell make of a state."""
    numbers = node.numbers
    if node.kind == "FeatureCellEquilibrium":
        for matrix, bias in zip(numbers["W"], numbers["b"], strict=True):
            z = _in_pairs(z @ matrix.t() + bias, numbers["sorts_inner"])
        return z
    hidden = _in_pairs(_circulate(z, numbers["F"]) + numbers["a"], torch.tensor(True, device="cpu"))
    return _in_pairs(_circulate(hidden, numbers["G"]) + numbers["b"], numbers["sorts_inner"])


def _cell(node: Node, h: Tensor) -> tuple[Tensor, Tensor]:
    """The equilibrium of a cell."""
    numbers = node.numbers

    def step(z: Tensor) -> Tensor:
        mixed = numbers["direct"] * z + numbers["through"] * _maps_of_cell(node, z) + numbers["driven"] * h
        return numbers["kappa"] * _in_pairs(mixed, numbers["sorts_outer"])

    return settled(step, h)


def _equilibrium(node: Node, q: Tensor) -> tuple[Tensor, Tensor]:
    """The solution of z = σ(Wz + q), and for which samples it was not found to float64's precision."""
    mask = torch.broadcast_to(node.numbers.get("mask", torch.ones((), device="cpu")), q.shape[1:]).flatten()
    own, eye = Masked(node, mask), torch.eye(q[0].numel(), dtype=torch.float64, device="cpu")
    matrix, offset = _state_map(node, q.shape[1:]), q.flatten(1)
    with torch.no_grad():
        if node.kind.startswith("Positive"):
            state = own(offset)
            for _ in range(_STEPS):
                state = own(state @ matrix.t() + offset)
        else:
            inverse, state = torch.linalg.inv(2.0 * eye - matrix).t(), torch.zeros_like(offset)
            for _ in range(_STEPS):
                mirrored = 2.0 * own(state) - state
                state = 2.0 * (mirrored + offset) @ inverse - mirrored
            state = own(state)
        for _ in range(_NEWTON):
            state = _newton(own, matrix, state, offset)
        missed = (own(state @ matrix.t() + offset) - state).abs().amax(1)
    unsolved = ~(missed <= _UNSOLVED * (1.0 + offset.detach().abs().amax(1) + state.abs().amax(1)))
    return _newton(own, matrix, state, offset).reshape(q.shape), unsolved


def _newton(own: Masked, matrix: Tensor, state: Tensor, offset: Tensor) -> Tensor:
    """A step of Newton's method from a state that carries no derivative; where W or slopes admit none, the state itself."""
    image = own(state @ matrix.t() + offset)
    with torch.enable_grad():
        argument = (state @ matrix.t() + offset).detach().requires_grad_()
        slope = torch.autograd.grad(own(argument).sum(), argument)[0]
    system = torch.eye(len(matrix), dtype=torch.float64, device="cpu") - slope[:, :, None] * matrix
    return state + torch.linalg.solve(system, (image - state)[:, :, None])[:, :, 0]


KINDS: dict[str, Callable[..., Any]] = {
    "Enter": lambda node, x: x, "Leave": lambda node, x: x, "Reshaped": _reshaped, "SumOfTwo": lambda node, x, y: x + y,
    "DifferenceOfTwo": lambda node, x, y: x - y, "Affine": lambda node, x: x * node.numbers["scale"] + node.numbers["shift"],
    "Normalize": lambda node, x: (x - node.numbers["mean"]) / node.numbers["std"], "BatchNormalized": _normalised,
    "Linear": _mapped, "Sandwich": _explicit, "Residual": lambda node, x: x + _explicit(node, x), "GroupSort": _sorted,
    "Convolution": lambda node, x: _convolve(node, x) + node.numbers["b"], "AveragePooling": _pooled, "MaximumPooling": _pooled,
    "Activation": lambda node, x: node.apply(x), "ReflectedEquilibrium": _equilibrium, "PositiveEquilibrium": _equilibrium,
    "PositivePart": lambda node, x: torch.nn.functional.softplus(x, threshold=700.0) + node.numbers["floor"],
    "ConvolvedEquilibrium": _equilibrium, "PositiveConvolvedEquilibrium": _equilibrium,
    "CirculatedEquilibrium": _equilibrium, "ScaledEquilibrium": _equilibrium, "Placed": _placed,
    "Circular": lambda node, x: _circulate(x, node.numbers["T"]) + node.numbers["b"],
    "TierEquilibrium": _equilibrium, "EnterGraphs": lambda node, x: x, "GraphEquilibrium": graph_reference.equilibrium,
    "NodeSum": graph_reference.node_sum,
    "FeatureCellEquilibrium": _cell, "ChannelCellEquilibrium": _cell,
}  # fmt: skip
