"""What is measured at the end of every epoch of a training run: accuracy, iterations, and the size of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wellposed.experiments.iterations import iterations_of_training
from wellposed.layers.constrained import ConstrainedLayer
from wellposed.operators import Operator

_ROUNDS = 300  # of the power iteration
_SETTLED = 1e-6


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
