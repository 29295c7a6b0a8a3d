"""Targets that have units of their own: networks learn them standardised, and give them in their units afterwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wellposed.data.tasks import Task


class InUnits(nn.Module):
    """A model in training whose outputs are in the units of the targets.

    Args:
        model: gives standardised outputs.
        task: knows the units.
    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self._task = model, task

    def forward(self, x: Tensor) -> Tensor:
        """Outputs in the units of the targets, shape (batch, outputs)."""
        return self._task.in_units(self.model(x))


def ending_linear(body: tuple[nn.Module, ...], task: Task) -> tuple[nn.Module, ...]:
    """Blocks of a network that end in a linear map, which can take the units of the targets up.

    Args:
        body: the blocks.
        task: knows the units.

    Returns:
        The same blocks and, where the task has units and the last block is no plain linear map, the identity as one.
    """
    if task.units is None or (type(body[-1]) is nn.Linear and body[-1].bias is not None):
        return body
    identity = nn.Linear(task.outputs, task.outputs).requires_grad_(False)
    with torch.no_grad():
        identity.weight.copy_(torch.eye(task.outputs, device=identity.weight.device))
        identity.bias.zero_()
    return (*body, identity)


@torch.no_grad()
def settle(model: nn.Module, task: Task) -> None:
    """Let a trained model of a family give its outputs in the units of the targets, in place.

    Args:
        model: as `wellposed.models.families.Family.model` gave it.
        task: knows the units.
    """
    if task.units is None:
        return
    _, std = task.units
    head: Any
    *_, head = model.children()  # a linear map, see `ending_linear`
    head.weight.copy_(std[:, None].to(head.weight) * head.weight)
    head.bias.copy_(task.in_units(head.bias.double()))
