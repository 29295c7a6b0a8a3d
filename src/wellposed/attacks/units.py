"""Units in which attacks on inputs of any size see a neighbourhood of size one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wellposed.numerics.norm import Norm

FAR = 1e3  # how many units away attacks that look for the nearest example go
_DUAL: dict[Norm, float] = {"2": 2.0, "inf": 1.0, "1": torch.inf}  # order of the norm of gradients for that of inputs


class Moved(nn.Module):
    """A model of how far inputs are moved, each in a unit of its own; moved inputs stay in a box.

    Args:
        model: the model.
        x: where inputs are moved from, shape (batch, ...).
        unit: the unit of each, positive, shape (batch,), float64.
        box: least and largest values of one input.
    """

    def __init__(self, model: nn.Module, x: Tensor, unit: Tensor, box: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.model, self._x, self._box = model, x.double(), box
        self._unit = unit.reshape(-1, *[1] * (x.ndim - 1))

    def inputs(self, moves: Tensor) -> Tensor:
        """The moved inputs, shape (batch, ...), in the precision of the moves.

        Args:
            moves: in units, shape (batch, ...).
        """
        moved = (self._x + self._unit * moves.double()).to(moves.dtype)
        return torch.minimum(torch.maximum(moved, self._box[0]), self._box[1])

    def forward(self, moves: Tensor) -> Tensor:
        """The model's outputs for the moved inputs."""
        value: Tensor = self.model(self.inputs(moves))
        return value


def first_order_distances(
    model: nn.Module, x: Tensor, labels: Tensor, norm: Norm, box: tuple[Tensor, Tensor]
) -> Tensor:
    """How far each input is from another class if margins were linear: the unit of attacks that look for the nearest example.

    Args:
        model: maps inputs to logits.
        x: inputs, shape (batch, ...).
        labels: true classes, shape (batch,).
        norm: of distances.
        box: least and largest values of one input.

    Returns:
        Shape (batch,), float64, positive; the size of the box where a margin has no slope.
    """
    with torch.enable_grad():
        inputs = x.detach().clone().requires_grad_()
        logits = model(inputs).double()
        others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        margins = logits.gather(1, labels[:, None])[:, 0] - others
        (slopes,) = torch.autograd.grad(margins.sum(), inputs)
    sizes = torch.linalg.vector_norm(slopes.double().flatten(1), _DUAL[norm], dim=1)
    extent = (box[1].double() - box[0].double()).amax()
    found = margins.detach().abs() / sizes
    usable = torch.isfinite(found) & (found > 0.0) & (found <= extent * FAR)
    return torch.where(usable, found, extent.clamp_min(torch.finfo(torch.float32).tiny))
