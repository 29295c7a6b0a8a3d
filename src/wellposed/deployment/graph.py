"""Writing a deployed network: the ONNX model that grows node by node."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from wellposed.checker.functions import DOMAIN, STRUCTURE
from wellposed.checker.functions import function as function_named
from wellposed.checker.model import assembled
from wellposed.deployment.sensitivity import proved_sensitivity
from wellposed.errors import CertificateError
from wellposed.network.deployed import DeployedGraph, Edge, Numbers

LOGITS, ERROR = "logits", "error_bound"
_FACTORS = ("reflect", "drive", "R", "into", "out")  # of iterations, which may be off a little
_TINY = torch.finfo(torch.float32).tiny


class OnnxGraph(DeployedGraph):
    """An ONNX graph, see `wellposed.network.deployed.DeployedGraph`; numbers that occur again are stored once.

    Attributes:
        evidence: what proves something of nodes, by their places and names, float64.
    """

    def __init__(self) -> None:
        self.allowed = 1.0
        self.evidence: dict[str, Tensor] = {}
        self._nodes: list[NodeProto] = []
        self._numbers: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._stored: list[TensorProto] = []

    def enter(self, shape: tuple[int, ...], *, on_graphs: bool = False) -> Edge:
        """The input of the network as an edge; it is exact.

        Args:
            shape: of one sample, or of the features of one node.
            on_graphs: whether the network takes graphs.
        """
        edge = Edge(value="value_0", error="error_0", shape=shape)
        function = "EnterGraphs" if on_graphs else "Enter"
        self._append(function, list(function_named(function).input), [edge.value, edge.error])
        return edge

    def call(self, function: str, *edges: Edge, shape: tuple[int, ...], **numbers: Numbers) -> Edge:
        """See `wellposed.network.deployed.DeployedGraph.call`."""
        place = len(self._nodes)
        found = Edge(value=f"value_{place}", error=f"error_{place}", shape=shape)
        taken = [name for edge in edges for name in (edge.value, edge.error)]
        formal = function_named(function).input
        taken += [name for name in STRUCTURE if name in formal]
        roles = formal[len(taken) :]
        stored = [
            self._number(f"{function}_{place}.{name}", _flushed(value) if role in _FACTORS else value)
            for role, (name, value) in zip(roles, numbers.items(), strict=True)
        ]
        self._append(function, [*taken, *stored], [found.value, found.error])
        return found

    def sensitivity(self, matrix: Tensor, metric: Tensor) -> tuple[float, Tensor]:
        """See `wellposed.network.deployed.DeployedGraph.sensitivity`."""
        return proved_sensitivity(matrix, metric)

    def prove(self, edge: Edge, **evidence: Tensor) -> None:
        """See `wellposed.network.deployed.DeployedGraph.prove`."""
        place = edge.value.removeprefix("value_")
        self.evidence.update({f"{place}/{name}": part.detach().double().cpu() for name, part in evidence.items()})

    def finish(self, edge: Edge, input_shape: tuple[int, ...], tolerance: float) -> ModelProto:
        """The whole model.

        Args:
            edge: the logits.
            input_shape: of one input.
            tolerance: the largest bound of an error for which an answer counts.
        """
        bound = self._number("tolerance", torch.tensor(tolerance, dtype=torch.float32, device="cpu"))
        self._append("Leave", [edge.value, edge.error, bound], [LOGITS, ERROR])
        return assembled(self._nodes, self._stored, input_shape, edge.shape)

    def _append(self, function: str, inputs: list[str], outputs: list[str]) -> None:
        self._nodes.append(helper.make_node(function, inputs, outputs, domain=DOMAIN))

    def _number(self, name: str, value: Numbers) -> str:
        """Name of stored numbers, which are stored under the first name that they were asked for by."""
        array = _array(name, value)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._numbers:
            self._numbers[key] = name
            self._stored.append(numpy_helper.from_array(array, name))
        return self._numbers[key]


def _flushed(value: Numbers) -> Numbers:
    """Numbers without subnormal ones."""
    return torch.where(value.abs() < _TINY, 0.0, value) if isinstance(value, Tensor) else value


def _array(name: str, value: Numbers) -> NDArray[np.generic]:
    if isinstance(value, Tensor):
        if value.dtype not in (torch.float32, torch.int64):
            raise CertificateError(f"{name}: is stored in {value.dtype}; deployed networks have float32 numbers")
        if value.dtype == torch.float32 and bool(((value != 0.0) & (value.abs() < _TINY)).any()):
            raise CertificateError(
                f"{name}: has subnormal float32 entries, below {_TINY:.3g}, which some machines take for zeros; set them to zero"
            )
        return np.array(value.detach().cpu().numpy(), order="C")  # ascontiguousarray would give scalars a dimension
    found = np.array(value)
    return found if found.dtype == np.float64 else found.astype(np.int64)
