"""What is measured at the end of every epoch of a training run: accuracy, iterations, and the size of the weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from wellposed.experiments.iterations import iterations_of_training
from wellposed.layers.constrained import ConstrainedLayer
from wellposed.operators import Operator
from wellposed.training.files import write_json

_ROUNDS = 300  # of the power iteration
_SETTLED = 1e-6


class EveryEpoch(Callback):
    """Measures a network at the end of every epoch, and keeps the results in a file and in Lightning's checkpoints.

    Args:
        path: the file.
        images: to measure on, shape (images, ...).
        labels: their classes.

    Attributes:
        rows: what `measured` gives, one for each epoch.
    """

    def __init__(self, path: Path, images: Tensor, labels: Tensor) -> None:
        self._path, self._images, self._labels = path, images, labels
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the network as it evaluates, and let it train on."""
        model, device = pl_module.model, pl_module.device
        was_training = model.training
        model.eval()
        try:
            self.rows.append(measured(model, self._images.to(device), self._labels.to(device)))
        finally:
            model.train(was_training)
        write_json(self._path, self.rows, indent=1)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        self.rows = list(state_dict["rows"])


def measured(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy in %, iterations of a forward and of a backward solve, and the largest singular value of all state maps.

    Args:
        model: in eval mode.
        images: shape (images, ...).
        labels: their classes.
    """
    with torch.no_grad():
        accuracy = 100.0 * float((model(images).argmax(1) == labels).double().mean())
        norms = [operator_norm(part.operator()) for part in model.modules() if isinstance(part, ConstrainedLayer)]
    forward, backward = iterations_of_training(model, images, labels)
    return {"accuracy": accuracy, "forward": forward, "backward": backward, "singular_value": max(norms)}


def operator_norm(operator: Operator) -> float:
    """The largest singular value of a nonnegative W by the power iteration from a vector of ones; an estimate from below."""
    adjoint = operator.transpose()
    vector = torch.ones(1, *operator.state_shape, dtype=operator.dtype, device=operator.tensors[0].device)
    found = 0.0
    for _ in range(_ROUNDS):
        vector = vector / vector.norm().clamp_min(torch.finfo(vector.dtype).tiny)
        vector = adjoint.apply(operator.apply(vector))
        before, found = found, math.sqrt(float(vector.norm()))
        if found - before <= _SETTLED * found:
            break
    return found
