"""Logits of a model's network with a bound on their error, and what follows from them for single inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import InputError
from wellposed.network.materialise import materialise
from wellposed.network.network import Network
from wellposed.network.propagation import BoundedLogits


def bounded_logits(model: nn.Module | Network, x: Any, *, forward: bool = False) -> BoundedLogits:
    """What `Network.bounded` says of a model's network.

    Args:
        model: a network, or a module to be materialised.
        x: inputs, shape (batch, ...), or a batch of graphs.
        forward: see `Network.bounded`.
    """
    return materialise(model).bounded(x, forward=forward)


def check_logits(shape: tuple[int, ...]) -> None:
    """Refuse outputs that are no vector of logits, by their shape without the batch dimension, with an `InputError`."""
    if len(shape) != 1:
        raise InputError(
            f"model: has outputs of shape {shape} for these inputs; logits must be a vector, one entry per class"
        )


@torch.no_grad()
def surely_misclassified(model: nn.Module | Network, x: Any, labels: Tensor) -> Tensor:
    """Which inputs some other class wins by more than the errors of the logits, boolean of shape (batch,).

    Raises:
        InputError: the outputs are no vectors.
    """
    result = bounded_logits(model, x)
    logits = result.logits.double()
    check_logits(tuple(logits.shape[1:]))
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    # Two logits together err by at most √2 times the Euclidean error.
    return others - own[:, 0] > 2.0**0.5 * result.error
