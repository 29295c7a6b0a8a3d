"""Several processes that train one network together, each with its share of every batch."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def place() -> tuple[int, int]:
    """The rank of this process among those that train together, from zero on, and how many these are."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def total(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without a graph.

    Args:
        values: of this process; all give the same shape.
    """
    summed = values.detach().clone()
    if place()[1] > 1:
        distributed.all_reduce(summed)
    return summed


def weighed(loss: Tensor, samples: int) -> Tensor:
    """The loss of one process so that the mean over all processes, whose gradient they step along, is that of all their samples.

    Args:
        loss: a mean over the samples of this process.
        samples: how many these are.
    """
    processes = place()[1]
    if processes == 1:
        return loss
    share = samples / total(torch.tensor(float(samples), device=loss.device))
    return loss * (processes * share).to(loss.dtype)
