"""Whether files that the checker accepted claim no less than is true, and no less than an honest proof of their numbers gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from wellposed.errors import require
from wellposed.falsification.deployed.files import Array, Files, Impossible
from wellposed.falsification.deployed.honest import by_evidence, proof
from wellposed.falsification.deployed.reference import Reference, Unknown

_POINTS, _STEPS, _SHARE = 64, 3, 1e-9
_SAME, _SEARCHED = 1e-8, 1e-6  # relative: room for better evidence, and what searches of new evidence leave open
_SCALES = (1e-2, 1.0, 30.0)


class Judge:
    """Judges the changed files of one honest certificate.

    Args:
        honest: its files.

    Attributes:
        honest: its files.
    """

    def __init__(self, honest: Files) -> None:
        self.honest = honest
        self._jacobians_of: dict[bytes, Tensor] = {}
        self._proof: tuple[tuple[str, bytes], tuple[dict[str, Any], dict[str, Array]]] | None = None

    def faults(self, files: Files, folder: Path) -> list[str]:
        """What is wrong with files that were accepted; that nothing can evaluate them is a fault, too."""
        try:
            return self._faults(files, folder)
        except Unknown:
            raise
        except Exception as error:  # of whatever reads the file
            return [f"the file cannot be evaluated ({type(error).__name__}: {str(error)[:200]})"]

    def _faults(self, files: Files, folder: Path) -> list[str]:
        found = self._steeper(files.claim, self._jacobians(files.model_bytes))
        found += self._less_than_honest(files, folder)
        found += self._lower_bound(files)
        if files.model_bytes != self.honest.model_bytes:
            found += self._errors(files)
        return found

    def _steeper(self, claim: dict[str, Any], jacobians: Tensor) -> list[str]:
        """Slopes above the claim; that no equilibrium could be found at all is a fault, too."""
        norm, found = claim["norm"], list[str]()
        if not len(jacobians):
            return ["no equilibrium could be found"]
        seen = float(_norms(jacobians, norm).max())
        if not claim["lipschitz"] >= seen * (1.0 - _SHARE):
            found.append(f"{claim['lipschitz']!r} is claimed, a slope is {seen!r}")
        if claim["pairs"] is not None:
            steep = _norms_of_rows(jacobians[:, :, None] - jacobians[:, None], norm).amax(0).numpy()
            if not (np.array(claim["pairs"]) >= steep * (1.0 - _SHARE)).all():
                found.append("a margin is steeper than is claimed")
        return found

    def _jacobians(self, model: bytes) -> Tensor:
        """Derivatives at random inputs, and at the steepest of them a little moved."""
        if model not in self._jacobians_of:
            reference = Reference(ModelProto.FromString(model))
            generator = torch.Generator().manual_seed(0)
            sizes = torch.logspace(-2.0, 1.5, _POINTS, dtype=torch.float64, device="cpu").reshape(
                -1, *[1] * len(reference.input_shape)
            )
            x = sizes * torch.randn(
                _POINTS, *reference.input_shape, generator=generator, dtype=torch.float64, device="cpu"
            )
            found = reference.jacobians(x)
            for step in range(_STEPS):
                best = torch.nan_to_num(_norms(found, "2")).topk(8).indices
                noise = torch.randn(len(best), *x.shape[1:], generator=generator, dtype=torch.float64, device="cpu")
                moved = x[best] * (1.0 + 0.3**step * noise)
                x, found = torch.cat([x, moved]), torch.cat([found, reference.jacobians(moved)])
            kept = [part for part in self._jacobians_of if part == self.honest.model_bytes]
            self._jacobians_of = {part: self._jacobians_of[part] for part in kept}
            self._jacobians_of[model] = found[torch.isfinite(found).flatten(1).all(1)]
        return self._jacobians_of[model]

    def _less_than_honest(self, files: Files, folder: Path) -> list[str]:
        """Constants below those of an honest proof, by the evidence of the honest file or by new evidence."""
        known = self.honest.claim
        same = files.model_bytes == self.honest.model_bytes and files.claim["norm"] == known["norm"]
        by_old: tuple[float, Any] | None = (
            (known["lipschitz"], known["pairs"])
            if same
            else by_evidence(files.nodes(folder), files.claim["norm"], self.honest)
        )
        less = ["nothing is known"] if by_old is None else _less(files.claim, *by_old, _SAME if same else _SEARCHED)
        if not less:
            return []
        try:
            found, _ = self.proof(files, folder)
        except Impossible:
            return []  # slopes are all that is known
        less = _less(files.claim, found["lipschitz"], found["pairs"], _SEARCHED)
        return less if by_old is None or not less else _less(files.claim, *by_old, _SEARCHED)

    def proof(self, files: Files, folder: Path) -> tuple[dict[str, Any], dict[str, Array]]:
        """An honest proof of files that were written to a folder, see `honest.proof`."""
        key = (files.claim["norm"], files.model_bytes)
        if self._proof is None or self._proof[0] != key:
            self._proof = key, proof(files.nodes(folder), files.claim["norm"], self.honest.tensors)
        return self._proof[1]

    def _lower_bound(self, files: Files) -> list[str]:
        """The two inputs of the evidence are as far apart as is claimed."""
        if files.claim["lower_bound"] is None:
            return []
        reference = Reference(files.model)
        points = torch.from_numpy(files.tensors["witness/points"])
        values = reference(points.reshape(2, *reference.input_shape)).flatten(1)
        order = float(files.claim["norm"])
        slope = (values[1] - values[0]).norm(order) / (points[1] - points[0]).norm(order)
        good = bool(reference.unsolved.any()) or float(slope) >= files.claim["lower_bound"] * (1.0 - 1e-7)
        return (
            [] if good else [f"the inputs have the slope {float(slope)!r}, {files.claim['lower_bound']!r} is claimed"]
        )

    def _errors(self, files: Files) -> list[str]:
        """A runtime's answers are as near to the exact ones as they say."""
        onnxruntime = require("onnxruntime", "deploy")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(files.model_bytes, options)
        reference, generator = Reference(files.model), torch.Generator().manual_seed(1)
        x = torch.cat(
            [scale * torch.randn(4, *reference.input_shape, generator=generator, device="cpu") for scale in _SCALES]
        )
        logits, bound = (torch.from_numpy(part).double() for part in session.run(None, reference.feeds(x)))
        exact = reference(x.double()).detach().flatten(1)
        apart = (logits.flatten(1) - exact).norm(dim=1)
        allowed = bound + 1e-10 * (1.0 + exact.norm(dim=1))
        wrong = ~(apart <= allowed) & ~reference.unsolved & torch.isfinite(bound)
        return (
            [f"an answer is off by {float(apart[wrong][0])!r}, {float(bound[wrong][0])!r} is said"]
            if bool(wrong.any())
            else []
        )


def _less(claim: dict[str, Any], whole: float, pairs: Any, room: float) -> list[str]:
    """What is claimed to be less than some constants."""
    found = []
    if not claim["lipschitz"] >= whole * (1.0 - room):
        found.append(f"{claim['lipschitz']!r} is claimed, an honest proof gives {whole!r}")
    if claim["pairs"] is not None and pairs is not None:
        own, best = np.array(claim["pairs"]), np.array(pairs)
        less = ~(own >= best * (1.0 - room))
        if less.any():
            found.append(f"margins of {own[less].tolist()} are claimed, an honest proof gives {best[less].tolist()}")
    return found


def _norms_of_rows(rows: Tensor, norm: str) -> Tensor:
    """Constants of single outputs: dual norms of their derivatives."""
    dual = {"2": 2.0, "inf": 1.0, "1": float("inf")}[norm]
    return torch.linalg.vector_norm(rows, dual, dim=-1)


def _norms(jacobians: Tensor, norm: str) -> Tensor:
    if norm == "2":
        return (
            torch.linalg.matrix_norm(jacobians, 2)
            if bool(torch.isfinite(jacobians).all())
            else jacobians.norm(dim=(1, 2))
        )
    return torch.linalg.matrix_norm(jacobians, float(norm))
