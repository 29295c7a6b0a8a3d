"""Deployed files run by onnxruntime, with the radii that hold for the answers of the file itself."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wellposed.certificates import Certificate
from wellposed.checker.functions import STRUCTURE
from wellposed.deployment.export import content_of, deployed, path_of
from wellposed.errors import InputError, require
from wellposed.operators.graphs import Graphs


class DeployedNetwork:
    """A file of `wellposed.export`, run by onnxruntime on one thread.

    Args:
        path: of the file.

    Attributes:
        path: of the file.
        sha256: of its bytes.
        tolerance: the largest bound of an error for which an answer of the file counts.
        input_shape: of one input, or of the features of one node.
        on_graphs: whether it takes graphs.

    Raises:
        InputError: the file cannot be read, or is no file of `wellposed.export`.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        require("onnxruntime", "deploy")
        import onnxruntime

        self.path = path_of("path", path)
        self._content = content_of("path", self.path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        try:
            self._session = onnxruntime.InferenceSession(self._content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no class in common
            raise InputError(
                f"path={str(path)!r}: is no file that onnxruntime can run ({str(error)[:120]}); export the network again"
            ) from error
        self.sha256 = hashlib.sha256(self._content).hexdigest()
        self.input_shape, self.on_graphs, self.tolerance = self._declared()

    def _declared(self) -> tuple[tuple[int, ...], bool, float]:
        """The shape of one input, whether it is that of the features of a node, and the tolerance."""
        from onnx import ModelProto, numpy_helper

        model = ModelProto.FromString(self._content)
        inputs = [entry.name for entry in self._session.get_inputs()]
        outputs = [entry.name for entry in self._session.get_outputs()]
        last = model.graph.node[-1] if model.graph.node else None
        known = inputs in (["x"], ["x", *STRUCTURE])
        if not known or outputs != ["logits", "error_bound"] or last is None or last.op_type != "Leave":
            raise InputError(f"path={str(self.path)!r}: has other inputs and outputs than files of wellposed.export")
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        shape = tuple(self._session.get_inputs()[0].shape[1:])
        tolerance = stored.get(last.input[2]) if len(last.input) > 2 else None
        fixed = bool(shape) and all(isinstance(size, int) for size in shape)
        if not fixed or tolerance is None or tolerance.dims:
            raise InputError(f"path={str(self.path)!r}: takes inputs of no fixed shape {shape}, or stores no tolerance")
        return shape, len(inputs) > 1, float(numpy_helper.to_array(tolerance))

    def __repr__(self) -> str:
        return f"DeployedNetwork({str(self.path)!r}, inputs {self.input_shape}, errors at most {self.tolerance:g})"

    def __call__(self, x: Any) -> tuple[Tensor, Tensor]:
        """The logits, and for each sample a bound of their Euclidean error, infinite where the answer is to be refused.

        Args:
            x: shape (batch, *input_shape), float32; for networks on graphs a torch_geometric ``Data`` or ``Batch``.

        Raises:
            InputError: another shape or dtype.
        """
        given = self._on_graphs(x) if self.on_graphs else {"x": self._taken(x)}
        arrays = {name: part.detach().cpu().numpy() for name, part in given.items()}
        logits, error = self._session.run(["logits", "error_bound"], arrays)
        return torch.from_numpy(logits), torch.from_numpy(error)

    def _on_graphs(self, data: Any) -> dict[str, Tensor]:
        """The inputs that a batch of graphs has, checked."""
        graphs, nodes = Graphs.of(data), self._taken(data.x)
        if len(nodes) != graphs.nodes or graphs.count > int(graphs.batch.max()) + 1:
            raise InputError("x: has other features than nodes, or a graph without nodes at the end; leave it out")
        return {"x": nodes, "edge_index": data.edge_index, "batch": graphs.batch}

    def _taken(self, x: Any) -> Tensor:
        """What inputs are, once they are of the shape and dtype of the file."""
        plain = isinstance(x, Tensor) and x.layout == torch.strided and not x.is_meta
        if not plain or x.dtype != torch.float32 or tuple(x.shape[1:]) != self.input_shape:
            found = f"{tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            wanted = ", ".join(("batch", *map(str, self.input_shape)))
            raise InputError(f"x: is {found}; this file takes plain float32 tensors of shape ({wanted})")
        return x

    def is_of(self, certificate: Certificate) -> bool:
        """Whether the file computes the network that a certificate is about: exporting that network gives these bytes."""
        if not isinstance(certificate, Certificate):
            raise InputError(f"certificate: is a {type(certificate).__name__}; give what wellposed.certify returns")
        network = certificate.network
        if network.dtype != torch.float32:
            return False
        written = deployed(network, tolerance=self.tolerance)
        return written.SerializeToString(deterministic=True) == self._content

    def radii(self, x: Any, labels: Tensor, certificate: Certificate, *, rule: str | None = None) -> Tensor:
        """Radii within which every answer of this file that it does not refuse is the right class.

        The error at x counts with the file's own bound; at any other input it is at most the tolerance, or the answer is refused.

        Args:
            x: shape (batch, *input_shape), float32, or graphs, see `__call__`.
            labels: true classes, shape (batch,).
            certificate: of the network that the file computes.
            rule: see `Certificate.radius`.

        Raises:
            InputError: the certificate is about another network.
        """
        if not self.is_of(certificate):
            raise InputError(
                "certificate: is about another network than this file computes; certify what wellposed.export returned"
            )
        logits, error = self(x)
        elsewhere = torch.full_like(error, self.tolerance)
        return certificate.radius(logits, labels, rule=rule, logit_error=error, elsewhere=elsewhere)
